"""Removes adversarial noise from images, for any image classifier.

>>> import backstitch
>>> purifier = backstitch.Purifier("model.onnx")  # doctest: +SKIP
>>> result = purifier.purify(x)  # doctest: +SKIP

It is no robustness guarantee: attackers who know the defense defeat it.
"""

from backstitch._backstitch import version as _version
from backstitch._errors import (
    DeviceError,
    Error,
    FileError,
    ForkError,
    InvalidError,
    OutOfMemoryError,
)
from backstitch._purifier import Purifier
from backstitch._results import Classified, Detected, Purified, Result, Trace, Trajectory
from backstitch._settings import Settings

__version__ = _version()

__all__ = [
    "Classified",
    "Detected",
    "DeviceError",
    "Error",
    "FileError",
    "ForkError",
    "InvalidError",
    "OutOfMemoryError",
    "Purified",
    "Purifier",
    "Result",
    "Settings",
    "Trace",
    "Trajectory",
]
