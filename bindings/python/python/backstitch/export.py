"""Classifiers of PyTorch as ONNX files. Needs the extra ``export``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backstitch._errors import InvalidError
from backstitch._purifier import Purifier

# What float32 leaves between two ways to compute a network, in parts of the largest logit.
_TOLERANCE = 1e-3


class _Logits(torch.nn.Module):
    """The logits alone, of whatever a model returns."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.model(x)
        output = getattr(output, "logits", output)
        logits: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return logits


def to_onnx(
    model: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    processor: Any = None,
    dynamo: bool = True,
) -> None:
    """Writes a classifier as an ONNX file, and what its pictures must look like beside it.

    ``model`` is a module of torchvision, timm, Hugging Face or of one's own, that takes normalized pictures
    (N, 3, H, W) and returns logits, a tuple that begins with them, or an object that has them. It is exported in
    evaluation mode, on the processor, and gets its mode back.

    The description goes to ``preprocessor_config.json`` if ``processor`` is a Hugging Face image processor, or else
    to timm's ``config.json``. timm's modules know it; for others it is ``size``, ``mean`` and ``std`` of pixels from
    0 to 1, the share ``crop_pct`` that the center crop keeps, and the ``interpolation``. ``dynamo`` chooses between
    PyTorch's two exporters.

    Raises:
        InvalidError: the size is not known, or the ONNX file's logits for a random picture are not the module's.
    """
    path = Path(path)
    described = _description(model, size, mean, std, crop_pct, interpolation, processor)
    height, width = _size(described)
    was_training = model.training
    wrapped = _Logits(model).eval().cpu()
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            wanted = wrapped(_normalized(picture, described))
            torch.onnx.export(
                wrapped,
                (_normalized(picture, described),),
                str(path),
                input_names=["image"],
                output_names=["logits"],
                dynamo=dynamo,
                external_data=False,
            )
    finally:
        model.train(was_training)
    name = "config.json" if processor is None else "preprocessor_config.json"
    (path.parent / name).write_text(json.dumps(described, indent=2), encoding="utf-8")
    purifier = Purifier(path, device="cpu", sidecar=path.parent / name)
    found = torch.from_numpy(purifier.classify(picture).logits)
    off = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
    if not off <= _TOLERANCE:
        raise InvalidError(f"{path}: its logits differ from the module's by {off:.1%} of the largest one")


def _description(
    model: torch.nn.Module,
    size: int | tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    crop_pct: float | None,
    interpolation: str | None,
    processor: Any,
) -> dict[str, Any]:
    """The contents of the sidecar."""
    if processor is not None:
        described: dict[str, Any] = json.loads(processor.to_json_string())
        return described
    known = getattr(model, "pretrained_cfg", None) or {}
    names = ("input_size", "mean", "std", "crop_pct", "interpolation")
    described = {name: known[name] for name in names if known.get(name) is not None}
    described |= {
        name: value
        for name, value in {
            "mean": None if mean is None else list(mean),
            "std": None if std is None else list(std),
            "crop_pct": crop_pct,
            "interpolation": interpolation,
        }.items()
        if value is not None
    }
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        described["input_size"] = [3, height, width]
    if "input_size" not in described:
        raise InvalidError("the module does not say its input size; give size=(height, width)")
    # What timm's format leaves out has the values of ImageNet.
    return {"mean": [0.0] * 3, "std": [1.0] * 3, "crop_pct": 1.0, "interpolation": "bilinear"} | described


def _size(described: dict[str, Any]) -> tuple[int, int]:
    if "input_size" in described:
        _, height, width = described["input_size"]
        return height, width
    size = described.get("crop_size") if described.get("do_center_crop") else described.get("size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return size["height"], size["width"]
    if isinstance(size, dict) and "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    raise InvalidError("the processor does not say its size")


def _normalized(picture: torch.Tensor, described: dict[str, Any]) -> torch.Tensor:
    if described.get("do_normalize", True):
        mean = described.get("mean", described.get("image_mean", [0.0] * 3))
        std = described.get("std", described.get("image_std", [1.0] * 3))
        return (picture - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    return picture
