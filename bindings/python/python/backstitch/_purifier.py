"""The purifier."""

from __future__ import annotations

import atexit
import difflib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from backstitch import _backstitch
from backstitch._arrays import as_numpy
from backstitch._errors import InvalidError
from backstitch._results import Classified, Detected, Result, Trace, detected, purified
from backstitch._settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

Layout = Literal["nchw", "nhwc"]
_PREPROCESSING = ("size", "mean", "std", "crop_pct", "interpolation")
Through = Literal["identity", "trajectory", "decision"]


class Purifier:
    """The defense of one classifier.

    A picture's result depends, bit by bit, only on the picture and the settings: not on the other pictures of a
    call, on threads, or on what was purified before.

    Pictures, called ``x``, are RGB or gray: an array of shape (N, 3, H, W) or (N, H, W, 3), floats from 0 to 1 or
    uint8, or a list of such arrays without the axis N, which may have different sizes, and of the bytes of image
    files. Tensors of PyTorch and whatever else numpy can read are taken too. Pictures of another size than the classifier's are resized as the
    command line does. They are copied before other threads of Python run, and are never changed. ``layout`` says
    which axis has the channels where the shape fits both orders.

    A purifier may be used by several threads, which it serves one after the other, and can be copied and pickled.
    Ctrl-C ends a call. A process that was forked from one that had used backstitch cannot use it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        eight_bit: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        """Opens a classifier and its devices.

        ``model`` is an ONNX file. With ``eight_bit``, outputs are rounded to multiples of 1/255 before they are
        classified, so that 8-bit files keep them exactly, as the command line does for PNG. ``settings`` are the
        command line's options, see :class:`Settings`.
        """
        self._model = os.path.abspath(model)
        self._eight_bit = eight_bit
        self._settings = _plain(settings)
        self._engine = _backstitch.Engine(self._model, self._settings, eight_bit)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        *,
        processor: Any = None,
        dynamo: bool = True,
        eight_bit: bool = False,
        **settings: Unpack[Settings],
    ) -> Self:
        """The defense of a PyTorch module, which :func:`backstitch.export.to_onnx` writes as an ONNX file.

        ``size``, ``mean``, ``std``, ``crop_pct`` and ``interpolation`` describe the module's pictures there. The
        file is removed when the process ends, and so cannot be unpickled after that.
        """
        from backstitch.export import to_onnx

        folder = tempfile.TemporaryDirectory(prefix="backstitch-", ignore_cleanup_errors=True)
        atexit.register(folder.cleanup)
        path = os.path.join(folder.name, "model.onnx")
        rest: dict[str, Any] = dict(settings)
        described = {name: rest.pop(name) for name in _PREPROCESSING if name in rest}
        to_onnx(module, path, processor=processor, dynamo=dynamo, **described)
        return cls(path, eight_bit=eight_bit, **rest)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._model, self._eight_bit, self._settings)

    def __repr__(self) -> str:
        devices = ", ".join(self.devices)
        return f"Purifier({self._model!r}, device={devices!r}, preset={self._engine.preset!r})"

    @property
    def model(self) -> str:
        """The classifier's file."""
        return self._model

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that were given."""
        return dict(self._settings)

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the defense, as ``run.json`` records them."""
        options: dict[str, Any] = json.loads(self._engine.options)
        return options

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the classifier's pictures."""
        return self._engine.size

    @property
    def classes(self) -> int:
        """Number of classes; labels are from 0 to one less."""
        return self._engine.classes

    @property
    def devices(self) -> list[str]:
        """The devices' names."""
        return self._engine.devices

    def purify(self, x: Any, *, layout: Layout | None = None, progress: bool = False) -> Result:
        """Purifies N pictures.

        Pictures that fail one by one, because a file is damaged, their size does not fit, or the classifier's logits
        for them are not numbers, are in the result's ``errors``. ``progress`` shows a bar where tqdm is installed.

        Raises:
            InvalidError: ``x`` has no pictures; the message names shape, type and range.
            DeviceError: the last device failed.
        """
        images, logits, rows, interleaved = self._purify(x, layout, progress)
        return purified(_channels(images, interleaved), logits, rows)

    def detect(self, x: Any, *, layout: Layout | None = None, progress: bool = False) -> Detected:
        """Whether N pictures were attacked. It takes as long as :meth:`purify`, which gives this and more."""
        _, _, rows, _ = self._purify(x, layout, progress)
        return Detected(**detected(rows))

    def classify(self, x: Any, *, layout: Layout | None = None) -> Classified:
        """What the classifier says of N pictures, without purification.

        Raises:
            InvalidError: ``x`` has no pictures, or the logits of one are not numbers.
        """
        return Classified(self._engine.classify(as_numpy(x), layout))

    def gradient(
        self,
        x: Any,
        y: Any,
        *,
        through: Through | None = None,
        draws: int = 1,
        attacker_seeds: Literal["fixed", "fresh"] = "fixed",
        layout: Layout | None = None,
    ) -> NDArray[np.float32]:
        """The derivative of a loss by each pixel, in the shape of ``x``; pictures have the classifier's size.

        ``y`` has N labels, and the loss of a picture is the cross-entropy of its label. Or ``y`` has N rows of
        floats, the derivatives of the caller's own loss by the logits, and the result is the loss's derivative by
        the pixels.

        ``through`` says what takes the place of the defense's derivative, as ``backstitch attack --through`` does;
        None is the classifier alone. ``identity`` and ``trajectory`` are those of the logits near the output.
        ``decision`` is that of the defense's own decision about the label that the loss leads away from or to,
        whatever the loss is otherwise. The mean of ``draws`` purifications is taken, with the defense's own seed
        or, if ``attacker_seeds`` is ``fresh``, with others.
        """
        x, y = as_numpy(x), as_numpy(y)
        labels = weights = None
        y = np.asarray(y)
        if y.ndim == 1 and (np.issubdtype(y.dtype, np.integer) or y.size == 0):
            if (y < 0).any():
                raise InvalidError(f"y has the label {y.min()}; labels are from 0 to {self.classes - 1}")
            labels = y.tolist()
        elif y.ndim == 2 and np.issubdtype(y.dtype, np.floating):
            weights = y.astype(np.float32)
        else:
            raise InvalidError(
                f"y is {y.dtype} of shape {y.shape}; give N integer labels, or N rows of floats, one for each class"
            )
        gradients, _, _, interleaved = self._engine.gradient(
            x, layout, labels, weights, through, draws, attacker_seeds
        )
        return _channels(gradients, interleaved)

    def trace(self, x: Any, *, layout: Layout | None = None, label: int | None = None, name: str = "picture") -> Trace:
        """Draws what the defense does with one picture; ``x`` has N = 1 or no axis N.

        ``label`` is the true label, and ``name`` stands above the drawing.
        """
        x = as_numpy(x)
        x = x[None] if getattr(x, "ndim", 0) == 3 else x
        svg, png, text = self._engine.trace(x, layout, label, name)
        return Trace(svg, png, json.loads(text))

    def _purify(self, x: Any, layout: Layout | None, progress: bool) -> Any:
        x = as_numpy(x)
        with _bar(x, progress) as done:
            return self._engine.purify(x, layout, done)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without numpy's numbers and arrays.

    Raises:
        TypeError: a name that is no setting.
    """
    names = _backstitch.setting_names()
    for name in settings:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"Purifier has no setting {name!r}{hint}")
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in settings.items()}


def _again(kind: type[Purifier], model: str, eight_bit: bool, settings: dict[str, Any]) -> Purifier:
    return kind(model, eight_bit=eight_bit, **settings)


def _channels(images: NDArray[np.float32], interleaved: bool) -> NDArray[np.float32]:
    return images.transpose(0, 2, 3, 1) if interleaved else images


@contextmanager
def _bar(x: Any, wanted: bool) -> Iterator[Callable[[int], object] | None]:
    """A function that shows the number of pictures that are done; None where nothing can show it."""
    if not wanted:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=len(x), unit="picture") as bar:
        yield lambda done: bar.update(done - bar.n)
