"""The checkpoint reader: both layouts, damaged files, and pickles that try to run something."""

import io
import os
import pickle
import struct
import sys
import tempfile
import types
import unittest
import zipfile
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import legacy_pickle  # noqa: E402


class Storage:
    """What a checkpoint refers to by a persistent id."""

    def __init__(self, kind, key, array, count=None):
        self.kind, self.key, self.array = kind, key, array
        self.count = array.size if count is None else count


class Tensor:
    """Pickles as PyTorch's tensors do."""

    def __init__(self, storage, offset, size, stride):
        self.arguments = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


def stand_in_torch():
    """Modules with the names that a checkpoint's pickle asks for, so that it can be written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("the reader must not call what it imports")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    return {"torch": torch, "torch._utils": utils}


def pickled(value, views):
    """`value` as a protocol 2 pickle, its storages by reference."""
    modules = stand_in_torch()

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, Storage):
                return None
            kind = getattr(modules["torch"], item.kind)
            reference = ("storage", kind, item.key, "cpu", item.count)
            return (*reference, None) if views else reference

    with mock.patch.dict(sys.modules, modules):
        buffer = io.BytesIO()
        Pickler(buffer, protocol=2).dump(value)
        return buffer.getvalue()


def legacy(value, storages, body=None):
    """A legacy file of `value`; `body` replaces its pickle."""
    parts = [
        pickle.dumps(legacy_pickle.LEGACY_MAGIC, 2),
        pickle.dumps(legacy_pickle.LEGACY_PROTOCOL, 2),
        pickle.dumps({"little_endian": True}, 2),
        body or pickled(value, views=True),
        pickle.dumps([storage.key for storage in storages], 2),
    ]
    for storage in storages:
        parts += [struct.pack("<q", storage.array.size), storage.array.tobytes()]
    return b"".join(parts)


def archive(value, storages, body=None, compression=zipfile.ZIP_STORED):
    """A zip checkpoint of `value`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("model/data.pkl", body or pickled(value, views=False))
        file.writestr("model/byteorder", "little")
        for storage in storages:
            file.writestr(f"model/data/{storage.key}", storage.array.tobytes())
    return buffer.getvalue()


class LegacyPickle(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "model.pth"
        self.floats = Storage("FloatStorage", "7", np.arange(12, dtype="<f4"))
        self.count = Storage("LongStorage", "8", np.array([41], "<i8"))
        self.checkpoint = OrderedDict(
            weight=Tensor(self.floats, 0, (2, 3), (3, 1)),
            transposed=Tensor(self.floats, 6, (3, 2), (1, 3)),
            count=Tensor(self.count, 0, (), ()),
            epoch=3,
        )

    def load(self, data):
        self.path.write_bytes(data)
        return legacy_pickle.load(self.path)

    def refused(self, data, message):
        with self.assertRaisesRegex(legacy_pickle.CheckpointError, message) as caught:
            self.load(data)
        self.assertIn(str(self.path), str(caught.exception))

    def test_both_layouts_give_the_tensors(self):
        for layout in (legacy, archive):
            with self.subTest(layout.__name__):
                loaded = self.load(layout(self.checkpoint, [self.floats, self.count]))
                self.assertEqual(list(loaded), ["weight", "transposed", "count", "epoch"])
                np.testing.assert_array_equal(loaded["weight"], [[0, 1, 2], [3, 4, 5]])
                np.testing.assert_array_equal(loaded["transposed"], [[6, 9], [7, 10], [8, 11]])
                self.assertEqual(loaded["weight"].dtype, np.float32)
                self.assertEqual((loaded["count"].dtype, loaded["count"][()]), (np.int64, 41))
                self.assertEqual(loaded["epoch"], 3)
                loaded["weight"][0, 0] = 9  # Arrays own their memory.

    def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run_it(self):
        trace = self.path.with_name("trace")

        class Attack:
            def __reduce__(self):
                return os.mkdir, (str(trace),)

        body = pickle.dumps(Attack(), 2)
        for data in (legacy(None, [], body), archive(None, [], body), body):
            self.refused(data, r"asks for (posix|nt)\.mkdir")
        self.assertFalse(trace.exists())

    def test_names_beside_the_known_ones_are_refused(self):
        for module, name in (
            ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"),
            ("torch._utils", "_rebuild_parameter"), ("collections", "OrderedDict.update"),
            ("torch", "FloatStorage.__class__"), ("numpy", "load"),
        ):
            body = b"\x80\x04" + b"".join(
                pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()
                for text in (module, name)
            ) + pickle.STACK_GLOBAL + b"."
            self.refused(legacy(None, [], body), "refused: it asks for")

    def test_a_storage_type_cannot_be_called_or_changed(self):
        name = b"\x80\x02ctorch\nFloatStorage\n"
        for body in (name + b")R.", name + b"}U\x01aK\x01sb."):  # Call it; set its attribute `a`.
            self.refused(legacy(None, [], body), "not a PyTorch checkpoint")

    def test_tensors_outside_their_storage_are_refused(self):
        for offset, size, stride in (
            (0, (13,), (1,)), (7, (2, 3), (3, 1)), (0, (2,), (12,)), (-1, (2,), (1,)),
            (3, (2,), (-1,)), (0, (1 << 40,), (0,)), (0, (1 << 33, 1 << 33), (0, 0)),
        ):
            checkpoint = {"weight": Tensor(self.floats, offset, size, stride)}
            self.refused(legacy(checkpoint, [self.floats]), "a tensor of size")

    def test_a_storage_longer_than_the_file_is_refused_before_memory_is_taken(self):
        huge = Storage("FloatStorage", "7", np.zeros(4, "<f4"), count=1 << 50)
        checkpoint = {"weight": Tensor(huge, 0, (2,), (1,))}
        self.refused(legacy(checkpoint, [huge]), "longer than the file")
        self.refused(archive(checkpoint, [huge]), "cut off")

    def test_a_compressed_archive_is_refused(self):
        data = archive(self.checkpoint, [self.floats, self.count],
                       compression=zipfile.ZIP_DEFLATED)
        self.refused(data, "compressed")

    def test_every_truncation_is_an_error(self):
        for layout in (legacy, archive):
            data = layout(self.checkpoint, [self.floats, self.count])
            for length in range(0, len(data), 7):
                with self.subTest(layout.__name__, length=length):
                    self.path.write_bytes(data[:length])
                    with self.assertRaises(legacy_pickle.CheckpointError):
                        legacy_pickle.load(self.path)

    def test_damaged_bytes_give_a_checkpoint_error_or_tensors(self):
        data = bytearray(legacy(self.checkpoint, [self.floats, self.count]))
        random = np.random.default_rng(5)
        refused = 0
        for _ in range(400):
            damaged = bytearray(data)
            damaged[random.integers(len(data))] = random.integers(256)
            try:
                self.load(bytes(damaged))
            except legacy_pickle.CheckpointError:
                refused += 1
        self.assertGreater(refused, 100)

    def test_other_files_are_refused(self):
        for data in (b"", b"\x89PNG\r\n\x1a\n", b"not a pickle", pickle.dumps([1, 2])):
            self.refused(data, "not a PyTorch checkpoint")


if __name__ == "__main__":
    unittest.main()
