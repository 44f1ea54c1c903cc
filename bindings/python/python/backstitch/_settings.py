"""The settings of a purifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypedDict, Union

_Path = Union[str, "os.PathLike[str]"]
_Channels = Sequence[float]


class Settings(TypedDict, total=False):
    """The options of the command line, by the same names, with the same defaults and meanings.

    ``backstitch purify --help`` describes each: ``--probe-interval 20`` is ``probe_interval=20`` here. ``None``
    stands for the default.
    """

    # The classifier, and how pictures are prepared for it.
    input_layout: Literal["nchw", "nhwc"] | None
    output_name: str | None
    sidecar: _Path | None
    no_sidecar: bool
    size: str | int | tuple[int, int] | None
    crop_pct: float | None
    interpolation: str | None
    mean: _Channels | None
    std: _Channels | None
    # Reconstruction.
    preset: Literal["tiles", "cifar", "skip", "wide"] | None
    tile: int | None
    restarts: int | None
    shift: bool | None
    iterations: int | None
    probe_interval: int | None
    seed: int | None
    capacity: int | None
    channels: Sequence[int] | None
    skip: int | None
    input_depth: int | None
    upsample: str | None
    padding: str | None
    learning_rate: float | None
    optimize_input: bool | None
    jitter: float | None
    averaging: float | None
    # Decision.
    warm_up: float | None
    segments: int | None
    reach: float | None
    reach_points: int | None
    no_mirror: bool
    vote_noise: float | None
    view_shift: float | None
    segment_points: int | None
    clean_below: float | None
    adversarial_from: float | None
    view_weight: float | None
    view_std_penalty: float | None
    view_bound: float | None
    neutral_lead: float | None
    always: bool
    stop_early: bool
    settled_probes: int | None
    settled_margin: float | None
    # Restoration.
    fan: int | None
    tolerance: float | None
    push: Sequence[float] | None
    margin: float | None
    stitch: str | None
    cell: int | None
    # Where to compute.
    threads: int | None
    device: str
    memory: str | int | None
    precision: Literal["float32", "bf16"]
