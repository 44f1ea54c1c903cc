"""Reads the tensors of a PyTorch checkpoint without PyTorch, and without running what is in it.

A checkpoint is a pickle, and a pickle may call any function that its reader can import. This reader
knows a handful of names, stands in for each with code of its own, and refuses every other name. It
reads the layout of PyTorch before 1.6 (pickles followed by raw storages) and the zip archive that
came after.

    python scripts/legacy_pickle.py FILE      lists the tensors
"""

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

# The first pickle of a legacy file, and the protocol version in the second.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

STORAGE_TYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("?"),
}


class CheckpointError(ValueError):
    """The file is no checkpoint, is damaged, or asks for something that is not a plain tensor."""


def load(path):
    """The object in the checkpoint at `path`, its tensors as numpy arrays of their own memory.

    Raises CheckpointError for whatever cannot be read as plain containers of dense tensors.
    """
    # In memory, where reading a damaged length takes no more than there is.
    file = io.BytesIO(Path(path).read_bytes())
    try:
        if zipfile.is_zipfile(file):
            return _load_zip(file)
        return _load_legacy(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:
        # The unpickler raises whatever comes of bytes that are no pickle: any of a dozen types.
        message = f"{path}: not a PyTorch checkpoint, or damaged ({error!r})"
        raise CheckpointError(message) from None


class _Unpickler(pickle._Unpickler):
    """Builds plain containers and tensors; `storage(type name, key, count)` gives a flat array.

    It extends the standard library's unpickler in Python: the one in C takes gigabytes when a
    damaged file numbers a memo entry high.
    """

    def __init__(self, file, storage=None):
        super().__init__(file)
        self._storage = storage

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_TYPES:
            # A name, not a class: a pickle can do nothing with a string but pass it on.
            return name
        raise CheckpointError(f"refused: it asks for {module}.{name}, which is no plain tensor")

    def persistent_load(self, identifier):
        if self._storage is None or not isinstance(identifier, tuple) or len(identifier) < 5:
            raise CheckpointError(f"unknown reference {identifier!r}")
        kind, storage_type, key, _location, count = identifier[:5]
        if kind != "storage" or storage_type not in STORAGE_TYPES or not isinstance(key, str):
            raise CheckpointError(f"unknown reference {identifier!r}")
        if len(identifier) > 5 and identifier[5] is not None:
            raise CheckpointError("views of storages are not supported")
        if not isinstance(count, int) or count < 0:
            raise CheckpointError(f"a storage of {count!r} elements")
        return self._storage(storage_type, key, count)


def _rebuild_tensor(storage, offset, size, stride, *_gradient_and_hooks):
    """A view of `storage`, checked to lie within it and to hold no element twice."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise CheckpointError("a tensor without a storage, or with sizes and strides that differ")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise CheckpointError(f"a tensor of size {size} and stride {stride} at {offset}")
    elements = int(np.prod(size, dtype=object))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    # More elements than the storage has means strides that repeat some: a small file could then ask
    # for any amount of memory.
    if elements > storage.size or (elements > 0 and last >= storage.size):
        raise CheckpointError(f"a tensor of size {size} lies outside its storage")
    if elements == 0:
        return np.empty(size, storage.dtype)
    return np.lib.stride_tricks.as_strided(
        storage[offset:], size, [step * storage.itemsize for step in stride], writeable=False
    )


def _load_legacy(file):
    """Five pickles (magic, version, system, object, storage keys), then each key's storage."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not file.getvalue().startswith(pickle.PROTO):
        raise CheckpointError("not a PyTorch checkpoint")
    if _Unpickler(file).load() != LEGACY_MAGIC or _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise CheckpointError("not a PyTorch checkpoint")
    if not _Unpickler(file).load().get("little_endian"):
        raise CheckpointError("written on a big-endian machine")

    storages = {}
    budget = length

    def storage(storage_type, key, count):
        nonlocal budget
        if key not in storages:
            dtype = STORAGE_TYPES[storage_type]
            budget -= count * dtype.itemsize
            if budget < 0:
                raise CheckpointError("its storages are longer than the file")
            storages[key] = np.zeros(count, dtype)
        return storages[key]

    result = _Unpickler(file, storage).load()
    # The tensors are views: filling the storages now fills them.
    for key in _Unpickler(file).load():
        array = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(array.nbytes)
        if count != array.size or len(data) != array.nbytes:
            raise CheckpointError(f"storage {key} is cut off")
        array[:] = np.frombuffer(data, array.dtype)
        del storages[key]
    if storages:
        raise CheckpointError(f"{len(storages)} storages are missing")
    return _own_memory(result)


def _load_zip(file):
    """An archive of `NAME/data.pkl` and one `NAME/data/KEY` a storage, not compressed."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.namelist()
        pickles = [entry for entry in entries if entry.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("not a PyTorch checkpoint: no data.pkl in the archive")
        root = pickles[0].removesuffix("data.pkl")

        def read(entry):
            if archive.getinfo(entry).compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{entry} is compressed, which PyTorch never does")
            return archive.read(entry)

        if root + "byteorder" in entries and read(root + "byteorder") != b"little":
            raise CheckpointError("written on a big-endian machine")
        storages = {}

        def storage(storage_type, key, count):
            if key not in storages:
                dtype = STORAGE_TYPES[storage_type]
                data = read(f"{root}data/{key}")
                if len(data) < count * dtype.itemsize:
                    raise CheckpointError(f"storage {key} is cut off")
                storages[key] = np.frombuffer(data, dtype, count)
            return storages[key]

        return _own_memory(_Unpickler(io.BytesIO(read(pickles[0])), storage).load())


def _own_memory(value):
    """`value` with its tensors copied out of the shared storages."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return type(value)((key, _own_memory(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_own_memory(item) for item in value)
    return value


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        checkpoint = load(sys.argv[1])
    except (CheckpointError, OSError) as error:
        sys.exit(str(error))
    if not isinstance(checkpoint, dict):
        sys.exit(f"{sys.argv[1]}: holds a {type(checkpoint).__name__}, not a dictionary of tensors")
    for name, tensor in checkpoint.items():
        print(name, tensor.dtype if isinstance(tensor, np.ndarray) else type(tensor).__name__,
              list(tensor.shape) if isinstance(tensor, np.ndarray) else "")


if __name__ == "__main__":
    main()
