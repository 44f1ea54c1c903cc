"""The defense and its detector for the Adversarial Robustness Toolbox. Needs the extra ``art``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from art.defences.detector.evasion import EvasionDetector
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from backstitch._purifier import Purifier, Through
from backstitch.torch import unless_all_failed


class _Purification(torch.autograd.Function):
    """The outputs; backward is what the rule puts in place of a derivative."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, labels: torch.Tensor | None, preprocessor: BackstitchPreprocessor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, labels)
        ctx.preprocessor = preprocessor
        images = [
            unless_all_failed(preprocessor.purifier.purify(part, layout="nchw")).images
            for part in torch.split(x, preprocessor.batch_size)
        ]
        return torch.from_numpy(np.concatenate(images)).to(x.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, labels = ctx.saved_tensors
        preprocessor = ctx.preprocessor
        if labels is None or preprocessor.through == "identity":
            return by_outputs.to(x), None, None
        gradients = [
            preprocessor.purifier.gradient(
                part,
                its,
                through=preprocessor.through,
                draws=preprocessor.draws,
                attacker_seeds=preprocessor.attacker_seeds,
                layout="nchw",
            )
            for part, its in zip(
                torch.split(x, preprocessor.batch_size), torch.split(labels, preprocessor.batch_size), strict=True
            )
        ]
        return torch.from_numpy(np.concatenate(gradients)).to(x), None, None


class BackstitchPreprocessor(PreprocessorPyTorch):  # type: ignore[misc]
    """Purifies the pictures of ART's ``PyTorchClassifier``: (N, 3, H, W) from 0 to 1, in the classifier's size.

    Give the purifier the same classifier, as :meth:`backstitch.Purifier.from_torch` does. The gradient is part of
    ``forward``. Where the estimator names labels, which ``loss_gradient`` and so FGM, PGD and APGD do, it is the one
    of ``through``, see :meth:`backstitch.Purifier.gradient`, by the cross-entropy of the labels, whatever the
    estimator's loss is; its length means nothing. ``class_gradient``, and so C&W and DeepFool, name none and get the
    rule ``identity``: for these, give ``PyTorchClassifier`` a :class:`backstitch.torch.Defended` as its model
    instead. ``batch_size`` pictures are purified at once, however many ART hands over.

    A picture whose logits are not numbers becomes NaN.
    """

    params = ["purifier", "through", "draws", "attacker_seeds", "batch_size"]

    def __init__(
        self,
        purifier: Purifier,
        *,
        through: Through = "decision",
        draws: int = 1,
        attacker_seeds: Literal["fixed", "fresh"] = "fixed",
        batch_size: int = 64,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=False, apply_predict=True)
        self.purifier = purifier
        self.through = through
        self.draws = draws
        self.attacker_seeds = attacker_seeds
        self.batch_size = batch_size

    def forward(self, x: torch.Tensor, y: Any = None) -> tuple[torch.Tensor, Any]:
        """The outputs for ``x`` in float32, and ``y`` as it is: labels, or one row of probabilities for each picture."""
        labels = None
        if y is not None:
            labels = y.argmax(1) if y.ndim == 2 else y.long()
        return _Purification.apply(x, labels, self), y


class BackstitchDetector(EvasionDetector):  # type: ignore[misc]
    """Finds attacked pictures. It has nothing to learn."""

    defence_params = ["purifier"]

    def __init__(self, purifier: Purifier) -> None:
        super().__init__()
        self.purifier = purifier

    def fit(self, x: Any, y: Any, batch_size: int = 128, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Does nothing."""

    def detect(self, x: Any, batch_size: int = 128, **kwargs: Any) -> tuple[dict[str, Any], NDArray[np.bool_]]:
        """A report, and for each picture whether it was attacked.

        The report has the ``verdicts``, the ``scores`` from 0 (clean) to 1 (adversarial), and the ``errors`` by
        index. A picture that failed counts as attacked, for nobody looked at it; one that is ``undecided`` does not.
        """
        parts = [self.purifier.detect(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        verdicts = np.concatenate([np.array([], np.str_), *(part.verdicts for part in parts)])
        report = {
            "verdicts": verdicts,
            "scores": np.concatenate([np.array([]), *(part.scores for part in parts)]),
            "errors": {
                number * batch_size + index: error
                for number, part in enumerate(parts)
                for index, error in part.errors.items()
            },
        }
        return report, np.isin(verdicts, ["adversarial", "failed"])
