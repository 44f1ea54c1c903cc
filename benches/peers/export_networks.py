"""Exports the classifiers whose speed is compared, for 224x224 pictures and any batch.

    python export_networks.py FOLDER

Writes FOLDER/NAME.onnx for every network of networks.py.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch

from networks import NETWORKS, network


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        path = folder / f"{name}.onnx"
        print(path, file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a trace fixes the pictures' size, as it should
            torch.onnx.export(
                network(name), torch.zeros(1, 3, 224, 224), path, dynamo=False, opset_version=17,
                input_names=["image"], output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )


if __name__ == "__main__":
    main()
