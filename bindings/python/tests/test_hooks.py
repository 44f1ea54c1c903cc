"""Hooks read what the command line writes."""

from __future__ import annotations

import numpy as np
import pytest
from common import MODEL, QUICK
from test_purifier import command_line, flags

from backstitch import hooks


@pytest.fixture(scope="module")
def folder(tmp_path_factory, x):
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "x.npy", x)
    np.save(folder / "labels.npy", np.zeros(len(x), np.int64))
    command_line("purify", folder / "x.npy", "--classifier", MODEL, "-o", folder / "out", *flags(QUICK))
    return folder / "out"


def test_a_run_has_its_numbers(folder, x):
    run = hooks.Run.open(folder)
    assert run.metrics["images.done"] == len(x) and run.metrics["images.failed"] == 0
    assert sum(run.metrics[name] for name in run.metrics if name.startswith("verdicts.")) == len(x)
    assert run.parameters["defense.reconstruct.iterations"] == QUICK["iterations"]
    records = list(run.records())
    assert len(records) == len(x) and all(record["label"] == 0 for record in records)


def test_of_a_picture_that_was_tried_again_the_last_line_counts(folder, tmp_path):
    (tmp_path / "run.json").write_text((folder / "run.json").read_text())
    lines = ['{"image": "a", "error": "x"}', '{"image": "b", "score": 1}', '{"image": "a", "score": 0}']
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    records = {record["image"]: record for record in hooks.Run.open(tmp_path).records()}
    assert records == {"a": {"image": "a", "score": 0}, "b": {"image": "b", "score": 1}}


class Writer:
    """Remembers what a TensorBoard writer is told."""

    def __init__(self):
        self.told = {}

    def add_text(self, name, text, step):
        self.told[name] = text

    def add_scalar(self, name, value, step):
        self.told[name] = value

    def add_histogram(self, name, values, step):
        self.told[name] = values


def test_tensorboard(folder, x):
    writer = Writer()
    hooks.log_to_tensorboard(folder, writer)
    assert writer.told["images/done"] == len(x)
    assert len(writer.told["score"]) == len(x)
    assert '"defense.reconstruct.seed": 3' in writer.told["configuration"]
