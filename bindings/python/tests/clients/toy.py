"""The small classifier as a PyTorch module, and pictures that it is sure of."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from common import FIXTURES

EPS = 8 / 255


class Toy(torch.nn.Module):
    """tests/fixtures/toy.onnx: red, green, blue or textured."""

    def __init__(self):
        super().__init__()
        spec = importlib.util.spec_from_file_location("models", FIXTURES / "models.py")
        models = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(models)
        conv, gemm, bias = map(torch.from_numpy, models.weights())
        self.conv = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.head = torch.nn.Linear(5, 4)
        with torch.no_grad():
            self.conv.weight.copy_(conv)
            self.head.weight.copy_(gemm)
            self.head.bias.copy_(bias)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def colored(count, seed=0, lead=(0.04, 0.12)):
    """Smooth pictures with one color above the others, by a lead between two numbers, and which color it is."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32]
    waves = random.uniform(0.05, 0.3, (count, 3, 2, 1, 1))
    smooth = 0.4 + 0.15 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y)
    labels = np.arange(count) % 3
    smooth[np.arange(count), labels] += random.uniform(*lead, (count, 1, 1))
    return torch.from_numpy(smooth.astype(np.float32)), torch.from_numpy(labels)


def inside(adversarial, x):
    """Whether pictures are pictures, and no further from x than attacks may go."""
    within = float((adversarial - x).abs().max()) <= EPS + 1e-5
    return within and 0 <= float(adversarial.min()) and float(adversarial.max()) <= 1
