"""Purifies the pictures of an array.

    python purify_batch.py MODEL.onnx PICTURES.npy PURIFIED.npy [SETTING[=VALUE] ...]
"""

import sys

import numpy as np

import backstitch


def main(model, pictures, output, *settings):
    settings = dict(setting.split("=", 1) if "=" in setting else (setting, True) for setting in settings)
    purifier = backstitch.Purifier(model, **settings)
    x = np.load(pictures)
    result = purifier.purify(x, progress=True)
    for i, purified in enumerate(result):
        if purified.error:
            print(f"{i}: {purified.error}")
        else:
            print(f"{i}: {purified.verdict}, score {purified.score:.3f}, {purified.input_label} -> {purified.label}")
    np.save(output, result.images)


if __name__ == "__main__":
    main(*sys.argv[1:])
