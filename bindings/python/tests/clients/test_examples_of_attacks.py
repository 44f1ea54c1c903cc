"""The example of an adaptive attack does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from common import MODEL
from toy import colored

EXAMPLE = Path(__file__).parents[2] / "examples" / "attack_adaptively.py"


def test_attack_adaptively(tmp_path):
    x, y = colored(3)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    line = [sys.executable, "-W", "ignore", EXAMPLE, MODEL, tmp_path / "x.npy", tmp_path / "y.npy", "--steps", 2]
    line += ["preset=cifar", "iterations=60", "probe_interval=10", "restarts=1", "device=cpu"]
    run = subprocess.run([str(word) for word in line], check=True, capture_output=True, text=True)
    counts = [int(line.split(": ")[1].split()[0]) for line in run.stdout.splitlines() if line.startswith("right")]
    assert len(counts) == 5 and 0 <= counts[-1] <= min(counts[:-1])
