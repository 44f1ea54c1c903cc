"""Runs of the command line in MLflow, Weights & Biases and TensorBoard.

Each function reads a run folder, as ``backstitch purify``, ``attack`` and ``merge`` write it, and logs what it holds
to the tracker that is active. The trackers are imported when they are used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path
    description: dict[str, Any]
    """``run.json``."""

    @staticmethod
    def open(folder: _Folder) -> Run:
        path = Path(folder)
        return Run(path, json.loads((path / "run.json").read_text(encoding="utf-8")))

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines of ``results.jsonl``, the last of each picture."""
        last = {}
        with open(self.folder / "results.jsonl", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                last[record["image"]] = record
        yield from last.values()

    @property
    def parameters(self) -> dict[str, str | int | float | bool]:
        """What the results depend on, by names such as ``defense.reconstruct.iterations``."""
        return dict(_flat(self.description["configuration"]))

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the whole run, by names such as ``images.failed``."""
        names = ("images", "verdicts", "labeled", "images_per_second", "seconds", "probes")
        numbers = _flat({name: self.description[name] for name in names if name in self.description})
        return {name: float(value) for name, value in numbers if not isinstance(value, str)}


def log_to_mlflow(folder: _Folder) -> None:
    """Logs parameters, metrics and the folder's descriptions to MLflow's active run."""
    mlflow: Any = import_module("mlflow")
    run = Run.open(folder)
    mlflow.log_params(run.parameters)
    mlflow.log_metrics(run.metrics)
    for name in ("run.json", "results.jsonl", "report.html"):
        if (run.folder / name).exists():
            mlflow.log_artifact(str(run.folder / name))


def log_to_wandb(folder: _Folder) -> None:
    """Logs parameters, metrics and a table of all pictures to the run that ``wandb.init`` began."""
    wandb: Any = import_module("wandb")
    if wandb.run is None:
        raise RuntimeError("call wandb.init first")
    run = Run.open(folder)
    wandb.config.update(run.parameters)
    wandb.run.summary.update(run.metrics)
    columns = ["image", "verdict", "score", "input_label", "output_label", "label", "error"]
    rows = [[record.get(column) for column in columns] for record in run.records()]
    wandb.log({"pictures": wandb.Table(columns=columns, data=rows)})


def log_to_tensorboard(folder: _Folder, writer: Any, step: int = 0) -> None:
    """Logs parameters, metrics and the scores to a ``SummaryWriter`` of PyTorch or tensorboardX."""
    run = Run.open(folder)
    text = json.dumps(run.parameters, indent=2)
    writer.add_text("configuration", f"```\n{text}\n```", step)
    for name, value in run.metrics.items():
        writer.add_scalar(name.replace(".", "/"), value, step)
    scores = [record["score"] for record in run.records() if "score" in record]
    if scores:
        import numpy as np

        writer.add_histogram("score", np.array(scores), step)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of nested values, with the names that lead to them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, json.dumps(value)
    elif value is not None:
        yield name, value
