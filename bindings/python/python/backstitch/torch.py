"""The classifier behind the defense as a PyTorch module, for attack libraries. Needs the extra ``torch``."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd.function import once_differentiable

from backstitch._errors import InvalidError
from backstitch._purifier import Purifier, Through
from backstitch._results import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from backstitch._settings import Settings

_warned = False


def unless_all_failed(result: Result) -> Result:
    """The result of tensors. If every picture fails, then for a reason of the caller's, such as their size.

    Raises:
        InvalidError: no picture could be purified.
    """
    if result.errors and len(result.errors) == len(result):
        raise InvalidError(result.errors[0])
    return result


class _Defense(torch.autograd.Function):
    """The defended logits; backward is what the rule puts in place of a derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, defended: Defended) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.defended = defended
        if defended.through is None:
            logits = defended.purifier.classify(x, layout="nchw").logits
        else:
            logits = unless_all_failed(defended.purifier.purify(x, layout="nchw")).logits
        return torch.from_numpy(logits).to(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logits: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        defended = ctx.defended
        gradient = defended.purifier.gradient(
            x,
            by_logits.float(),
            through=defended.through,
            draws=defended.draws,
            attacker_seeds=defended.attacker_seeds,
            layout="nchw",
        )
        return torch.from_numpy(gradient).to(x), None


class Defended(torch.nn.Module):
    """A classifier and the whole defense before it: pictures (N, 3, H, W) from 0 to 1 to logits (N, classes).

    The forward pass purifies the pictures. Nothing of that has a derivative, and the backward pass takes the
    gradient of ``through`` in its place, see :meth:`backstitch.Purifier.gradient`: ``decision`` is what an attacker
    should use who knows the defense, whatever the library's loss is; its length means nothing. Each backward pass
    purifies ``draws`` times more; without gradients nothing is computed for them. With ``through=None`` it is the
    classifier alone, so that attacks on that can be tried on the defense.

    A picture whose logits are not numbers has the logits NaN.
    """

    def __init__(
        self,
        model: Purifier | str | os.PathLike[str],
        *,
        through: Through | None = "decision",
        draws: int = 1,
        attacker_seeds: Literal["fixed", "fresh"] = "fixed",
        **settings: Unpack[Settings],
    ) -> None:
        """``model`` is a purifier, or an ONNX file for one with these settings."""
        super().__init__()
        if isinstance(model, Purifier):
            if settings:
                raise TypeError("give settings to the purifier, or a model's file in its place")
            self.purifier = model
        else:
            self.purifier = Purifier(model, **settings)
        self.through = through
        self.draws = draws
        self.attacker_seeds: Literal["fixed", "fresh"] = attacker_seeds
        # Attack libraries look at a parameter to find the device of a model.
        self.placeholder = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
        _warn_once()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = _Defense.apply(x, self)
        return logits

    def extra_repr(self) -> str:
        return f"{self.purifier!r}, through={self.through!r}, draws={self.draws}"


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "this defense optimizes at test time, in native code where AutoAttack's check for dynamic defenses does "
            "not see it: its standard version is no measure of this model, and RobustBench's rules exclude it",
            stacklevel=3,
        )
