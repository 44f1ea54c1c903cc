"""A classifier in PyTorch: milliseconds per image, for logits and for logits and gradient.

    python classifier_torch.py NAME [--threads N] [--seconds S]

JSON on standard output. The names are those of networks.py.
"""

import argparse
import json
import sys

import torch

import timing
from networks import NETWORKS, network

BATCHES = (1, 16)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--threads", type=int, default=timing.cores())
    parser.add_argument("--seconds", type=float, default=5, help="for each case")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = network(arguments.network)
    rows = []
    for batch in BATCHES:
        images = torch.rand(batch, 3, 224, 224)
        labels = torch.zeros(batch, dtype=torch.long)

        def logits():
            with torch.inference_mode():
                model(images)

        def gradient():
            leaf = images.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(model(leaf), labels, reduction="sum")
            torch.autograd.grad(loss, leaf)

        for what, step in (("logits", logits), ("logits and gradient", gradient)):
            print(f"PyTorch: {what}, batch {batch}", file=sys.stderr, flush=True)
            times = timing.measure(step, arguments.seconds)
            rows.append({"what": what, "batch": batch} | timing.per_image(times, batch))
    json.dump({"peer": f"PyTorch {torch.__version__}", "threads": arguments.threads,
               "classifier": rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
