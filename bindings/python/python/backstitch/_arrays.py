"""Whatever holds numbers, as numpy's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from backstitch._errors import InvalidError


def as_numpy(x: Any) -> Any:
    """The array of pictures that ``x`` is, without a copy where possible; of a list a list of arrays.

    Tensors of PyTorch may need gradients, and may be on GPUs. Image files, as bytes, stay as they are.
    """
    if isinstance(x, (list, tuple)):
        return [item if isinstance(item, bytes) else as_numpy(item) for item in x]
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    if isinstance(x, np.ndarray):
        array = x
    elif hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        try:
            array = np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise InvalidError(
                f"the pictures are {getattr(x, 'dtype', type(x).__name__)}, which numpy cannot read ({error}); give "
                "uint8, or floats from 0 to 1 on the processor"
            ) from error
    else:
        array = np.asarray(x)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    # Fields of structured arrays may lie anywhere in memory.
    return np.require(array, requirements="A")
