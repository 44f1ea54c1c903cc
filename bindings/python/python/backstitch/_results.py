"""What calls of a purifier give."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backstitch import _backstitch

_FAILED = "failed"
_NO_LABEL = -1


@dataclass(frozen=True, eq=False)
class Classified:
    """What the classifier says of N pictures, without purification."""

    logits: NDArray[np.float32]
    """One row for each picture."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class with the largest logit."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    @property
    def confidences(self) -> NDArray[np.float64]:
        """The label's probability, from 0 to 1."""
        logits = self.logits.astype(np.float64)
        above = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
        result: NDArray[np.float64] = 1.0 / np.exp(above).sum(axis=1)
        return result


@dataclass(frozen=True, eq=False)
class Detected:
    """Whether N pictures were attacked."""

    verdicts: NDArray[np.str_]
    """``adversarial``, ``clean`` or ``undecided``; ``failed`` where there is an error."""
    scores: NDArray[np.float64]
    """From 0 (clean) to 1 (adversarial); NaN where there is an error."""
    input_labels: NDArray[np.int64]
    """What the classifier says of each picture; -1 where there is an error."""
    recovered_labels: NDArray[np.int64]
    """The other label with the most evidence; -1 where there is none."""
    errors: dict[int, str]
    """Why pictures failed, by their index."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The reconstructions of one restart, or of the consensus of all, as far as they were probed."""

    seed: int | None
    """The restart's seed; None for the consensus."""
    iterations: NDArray[np.int64]
    labels: NDArray[np.int64]
    confidences: NDArray[np.float64]
    """The labels' probabilities, from 0 to 1."""
    psnr: NDArray[np.float64]
    """PSNR of each reconstruction against the input, in dB."""


@dataclass(frozen=True, eq=False)
class Purified:
    """One purified picture."""

    image: NDArray[np.float32]
    """The output in the classifier's size, from 0 to 1, with the input's order of axes; NaN where there is an error."""
    label: int
    """What the classifier says of the output."""
    input_label: int
    """What the classifier says of the input."""
    verdict: str
    score: float
    error: str | None
    """Why the picture failed."""
    record: dict[str, Any]
    """The picture's line of ``results.jsonl``, as the command line writes it, without name and true label."""
    trajectory: list[Trajectory]
    """One for each restart, then the consensus, as far as they were probed: of what is clean, hardly at all."""


@dataclass(frozen=True, eq=False)
class Result(Detected):
    """N purified pictures. ``result[i]`` is one of them, with everything that is known of it."""

    images: NDArray[np.float32]
    """The outputs in the classifier's size, from 0 to 1, with the input's order of axes; NaN where there is an error."""
    labels: NDArray[np.int64]
    """What the classifier says of the outputs; -1 where there is an error."""
    logits: NDArray[np.float32]
    """The classifier's logits of the outputs, one row for each picture."""
    _rows: list[_backstitch.Row] = field(repr=False)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Purified:
        row = self._rows[index]
        record = json.loads(row.record or "{}")
        for name in ("image", "label"):
            record.pop(name, None)
        return Purified(
            image=self.images[index],
            label=int(self.labels[index]),
            input_label=int(self.input_labels[index]),
            verdict=str(self.verdicts[index]),
            score=float(self.scores[index]),
            error=row.error,
            record=record,
            trajectory=[
                Trajectory(
                    seed=path.seed,
                    iterations=np.array(path.iterations, np.int64),
                    labels=np.array(path.labels, np.int64),
                    confidences=np.array(path.confidences),
                    psnr=np.array(path.psnr),
                )
                for path in row.trajectory
            ],
        )

    def __iter__(self) -> Iterator[Purified]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class Trace:
    """One picture's trajectories and its path through the decision space."""

    svg: str
    png: bytes
    json: dict[str, Any]
    """Everything that was probed, with the results that the drawing shows."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes ``trace.svg``, ``trace.png`` and ``trace.json`` into a folder, which is made if it is missing."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "trace.svg").write_text(self.svg, encoding="utf-8")
        (path / "trace.png").write_bytes(self.png)
        (path / "trace.json").write_text(json.dumps(self.json, indent=2), encoding="utf-8")


def detected(rows: list[_backstitch.Row]) -> dict[str, Any]:
    """The fields of :class:`Detected`."""

    def label(value: int | None) -> int:
        return _NO_LABEL if value is None else value

    return {
        "verdicts": np.array([row.verdict or _FAILED for row in rows], np.str_),
        "scores": np.array([np.nan if row.score is None else row.score for row in rows], np.float64),
        "input_labels": np.array([label(row.input_label) for row in rows], np.int64),
        "recovered_labels": np.array([label(row.recovered_label) for row in rows], np.int64),
        "errors": {index: row.error for index, row in enumerate(rows) if row.error is not None},
    }


def purified(
    images: NDArray[np.float32], logits: NDArray[np.float32], rows: list[_backstitch.Row]
) -> Result:
    labels = np.array([_NO_LABEL if row.label is None else row.label for row in rows], np.int64)
    return Result(images=images, labels=labels, logits=logits, _rows=rows, **detected(rows))
