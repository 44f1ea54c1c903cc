"""A small classifier, pictures for it, and the settings with which a picture takes no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[3] / "tests" / "fixtures"
MODEL = FIXTURES / "toy.onnx"

# The pictures are far from anything that the classifier was made for: always purifies all of them.
QUICK = {
    "preset": "cifar",
    "iterations": 20,
    "probe_interval": 5,
    "restarts": 2,
    "always": True,
    "device": "cpu",
    "seed": 3,
}
# A picture that takes longer than anybody waits.
ENDLESS = {**QUICK, "iterations": 20_000, "probe_interval": 20, "capacity": 2}


def pictures(count, seed=0, size=(32, 32)):
    """Smooth pictures with some noise, of shape (count, 3, *size), float32 and multiples of 1/255."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    waves = random.uniform(0.05, 0.4, (count, 3, 2, 1, 1))
    smooth = 0.5 + 0.4 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y)
    noisy = smooth + random.normal(0, 0.02, smooth.shape)
    return (np.round(noisy.clip(0, 1) * 255) / 255).astype(np.float32)
