"""Purification with Ray Data, on one machine or a cluster. Needs the extra ``ray``.

>>> dataset = ray.data.read_binary_files("photos/", include_paths=True)  # doctest: +SKIP
>>> dataset = missing(dataset, "purified/", "path")  # doctest: +SKIP
>>> dataset = dataset.map_batches(  # doctest: +SKIP
...     Purify, fn_constructor_kwargs={"model": "model.onnx"}, batch_format="pyarrow", batch_size=16, concurrency=2
... )
>>> dataset.write_parquet("purified/")  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.fs
import pyarrow.parquet
import ray
from ray.data.block import BlockAccessor

from backstitch import _backstitch
from backstitch._errors import InvalidError
from backstitch._purifier import Purifier

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from backstitch._settings import Settings

_LOG = logging.getLogger(__name__)

_COLUMNS = pa.schema(
    [
        ("image", pa.binary()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
        ("input_label", pa.int64()),
        ("output_label", pa.int64()),
        ("recovered_label", pa.int64()),
        ("error", pa.string()),
    ]
)


class Purify:
    """Purifies the pictures of a ``ray.data.Dataset``: a class for ``map_batches``, whose actors have a purifier each.

    A picture is the bytes of an image file, a struct with them, as Hugging Face's data sets have it, or an array. Of
    each row the column of the picture is replaced by ``image``, the output as PNG, and by the names of
    ``results.jsonl``: ``verdict``, ``score``, ``input_label``, ``output_label``, ``recovered_label``, ``error``. A
    picture that fails is a row with an ``error``, without an image and labels. Ask for ``batch_format="pyarrow"``,
    so that the other columns keep their types.
    """

    def __init__(self, model: str | os.PathLike[str], *, column: str = "bytes", **settings: Unpack[Settings]) -> None:
        """``column`` has the pictures. ``threads`` are by default as many as Ray gives the actor cores."""
        context: Any = ray.get_runtime_context() if ray.is_initialized() else None
        if context and context.get_actor_id():
            cores = int(context.get_assigned_resources().get("CPU", 0))
            settings.setdefault("threads", cores or None)
        self.column = column
        self.purifier = Purifier(model, eight_bit=True, **settings)

    def __call__(self, batch: Any) -> pa.Table:
        table = batch if isinstance(batch, pa.Table) else BlockAccessor.batch_to_arrow_block(batch)
        if self.column not in table.column_names:
            raise InvalidError(f"the pictures have no column {self.column!r}, only {', '.join(table.column_names)}")
        pictures = [_picture(item) for item in BlockAccessor.for_block(table).to_numpy(self.column)]
        found = pa.Table.from_pylist(self._rows(pictures), schema=_COLUMNS)
        others = table.drop_columns([name for name in table.column_names if name in {self.column, *_COLUMNS.names}])
        for name in found.column_names:
            others = others.append_column(found.schema.field(name), found[name])
        return others

    def _rows(self, pictures: list[Any]) -> list[dict[str, Any]]:
        try:
            result = self.purifier.purify(pictures)
        except InvalidError as error:
            # An array that is no picture fails the whole call.
            if len(pictures) == 1:
                return [{"verdict": "failed", "error": str(error)}]
            return [row for picture in pictures for row in self._rows([picture])]
        return [
            {
                "image": _backstitch.png(one.image if one.image.shape[0] == 3 else one.image.transpose(2, 0, 1)),
                "verdict": one.verdict,
                "score": one.score,
                "input_label": one.input_label,
                "output_label": one.label,
                "recovered_label": one.record.get("recovered_label"),
                "error": None,
            }
            if one.error is None
            else {"verdict": one.verdict, "error": one.error}
            for one in result
        ]


def missing(dataset: ray.data.Dataset, output: str, key: str) -> ray.data.Dataset:
    """The rows that the Parquet files of ``output`` do not have yet, told by the column ``key``.

    So a run that ended early goes on where it was. ``output`` is a folder or an address of pyarrow's file systems,
    and may not exist yet. A file that a run was writing when it was killed has no readable row: it is renamed to
    ``_FILE.incomplete``, which readers of Parquet leave out. No other run may be writing there.
    """
    if "://" in output:
        filesystem, folder = pa.fs.FileSystem.from_uri(output)
    else:
        filesystem, folder = pa.fs.LocalFileSystem(), output
    keys = []
    for file in filesystem.get_file_info(pa.fs.FileSelector(folder, allow_not_found=True, recursive=True)):
        if file.extension == "parquet":
            try:
                keys.append(pa.parquet.read_table(file.path, columns=[key], filesystem=filesystem)[key])
            except pa.ArrowInvalid:
                _LOG.warning("%s is incomplete, and is set aside", file.path)
                filesystem.move(file.path, f"{file.path.removesuffix(file.base_name)}_{file.base_name}.incomplete")
    if not keys:
        return dataset
    done = pa.chunked_array([chunk for column in keys for chunk in column.chunks], keys[0].type).unique()

    def undone(table: pa.Table) -> pa.Table:
        return table.filter(pa.compute.invert(pa.compute.is_in(table[key], done.cast(table[key].type))))

    return dataset.map_batches(undone, batch_format="pyarrow", zero_copy_batch=True)


def _picture(item: Any) -> Any:
    """The bytes or the array of a picture; nothing has no bytes."""
    if isinstance(item, dict):
        item = item.get("bytes")
    return b"" if item is None else item
