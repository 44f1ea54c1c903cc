"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from common import MODEL

import backstitch

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_purify_batch(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    words = [EXAMPLES / "purify_batch.py", MODEL, tmp_path / "x.npy", tmp_path / "y.npy"]
    words += ["preset=cifar", "iterations=20", "device=cpu", "always"]
    run = subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True, text=True)
    purifier = backstitch.Purifier(MODEL, preset="cifar", iterations=20, device="cpu", always=True)
    result = purifier.purify(x)
    assert np.array_equal(np.load(tmp_path / "y.npy"), result.images)
    assert run.stdout.startswith(f"0: {result.verdicts[0]}, score {result.scores[0]:.3f}")
    assert len(run.stdout.splitlines()) == len(x)
