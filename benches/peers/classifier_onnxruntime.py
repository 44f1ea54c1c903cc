"""A classifier's logits in ONNX Runtime: milliseconds per image, one by one and 16 at once.

    python classifier_onnxruntime.py MODEL.onnx [--threads N] [--seconds S]

JSON on standard output. ONNX Runtime gives no gradient with respect to the image.
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime

import timing

BATCHES = (1, 16)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=timing.cores())
    parser.add_argument("--seconds", type=float, default=5, help="for each case")
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    session = onnxruntime.InferenceSession(
        arguments.model, options, providers=["CPUExecutionProvider"]
    )
    (feed,) = session.get_inputs()
    rows = []
    for batch in BATCHES:
        print(f"ONNX Runtime: logits, batch {batch}", file=sys.stderr, flush=True)
        images = np.random.default_rng(0).random((batch, *feed.shape[1:]), np.float32)
        times = timing.measure(lambda: session.run(None, {feed.name: images}), arguments.seconds)
        rows.append({"what": "logits", "batch": batch} | timing.per_image(times, batch))
    json.dump({"peer": f"ONNX Runtime {onnxruntime.__version__}", "threads": arguments.threads,
               "classifier": rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
