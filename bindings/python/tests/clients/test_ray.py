"""Purification by Ray Data, on this machine."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
from common import MODEL, QUICK, pictures

import backstitch
from backstitch import _backstitch
from backstitch.ray import Purify, missing

pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLE = Path(__file__).parents[2] / "examples" / "purify_with_ray.py"
CHEAP = {**QUICK, "iterations": 5, "restarts": 1}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # The actors import this file.
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=3, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


class Mortal(Purify):
    """The first of all to finish a batch is killed before it says so. Tells of each batch that it begins."""

    def __init__(self, folder, **arguments):
        super().__init__(MODEL, **arguments)
        self.folder = Path(folder)

    def __call__(self, batch):
        with open(self.folder / "begun", "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {len(batch)}\n")
        done = super().__call__(batch)
        try:
            (self.folder / "killed").mkdir()
        except FileExistsError:
            return done
        os.kill(os.getpid(), signal.SIGKILL)


def rows(folder):
    return pa.parquet.read_table(folder).to_pylist()




def test_an_actor_is_killed_a_picture_is_corrupt_and_a_rerun_does_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    x = pictures(300)
    for i, picture in enumerate(x):
        (tmp_path / "in" / f"{i:03}.png").write_bytes(_backstitch.png(picture))
    (tmp_path / "in" / "007.png").write_bytes(_backstitch.png(x[7])[:100])
    out = str(tmp_path / "out")

    def run():
        dataset = ray.data.read_binary_files(str(tmp_path / "in"), include_paths=True, override_num_blocks=20)
        dataset = missing(dataset, out, "path")
        dataset = dataset.map_batches(
            Mortal,
            fn_constructor_kwargs={"folder": str(tmp_path), **CHEAP},
            batch_format="pyarrow",
            batch_size=15,
            concurrency=2,
        )
        dataset.write_parquet(out)
        return sorted(rows(out), key=lambda row: row["path"])

    def begun():
        return (tmp_path / "begun").read_text().splitlines()

    first = run()
    assert (tmp_path / "killed").exists()
    assert len({line.split()[0] for line in begun()}) >= 3  # two, and who took the place of the killed one
    assert [Path(row["path"]).name for row in first] == [f"{i:03}.png" for i in range(300)]
    errors = {Path(row["path"]).name: row["error"] for row in first if row["error"]}
    assert list(errors) == ["007.png"] and "cannot be decoded" in errors["007.png"]
    assert first[7]["verdict"] == "failed" and first[7]["image"] is None and first[7]["output_label"] is None
    wanted = backstitch.Purifier(MODEL, eight_bit=True, **CHEAP).purify(x[:3])
    for i in range(3):
        assert first[i]["image"] == _backstitch.png(wanted.images[i])
        assert (first[i]["verdict"], first[i]["score"]) == (wanted.verdicts[i], wanted.scores[i])
        assert (first[i]["input_label"], first[i]["output_label"]) == (wanted.input_labels[i], wanted.labels[i])

    before = begun()
    assert run() == first and begun() == before

    # What a killed writer leaves has no footer; its pictures are computed again, and nothing else.
    file = max((tmp_path / "out").glob("*.parquet"))
    lost = pa.parquet.read_metadata(file).num_rows
    file.write_bytes(file.read_bytes()[:-20])
    assert run() == first
    assert sum(int(line.split()[1]) for line in begun()[len(before) :]) == lost < 300
    assert file.with_name(f"_{file.name}.incomplete").exists()


def test_parquet_and_arrays_go_in(tmp_path):
    x = pictures(4)
    files = [_backstitch.png(picture) for picture in x]
    table = pa.table(
        {
            "id": [10, 11, 12, 13],
            "image": [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files[:3])] + [None],
            "label": pa.array([1, None, 2, 3], pa.int32()),
        }
    )
    pa.parquet.write_table(table, tmp_path / "in.parquet")
    purified = Purify(MODEL, column="image", **CHEAP)
    found = purified(table)
    assert found.column_names[:2] == ["id", "label"] and found["label"].type == pa.int32()
    assert [error is None for error in found["error"].to_pylist()] == [True, True, True, False]
    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    dataset = dataset.map_batches(
        Purify, fn_constructor_kwargs={"model": MODEL, "column": "image", **CHEAP}, batch_format="pyarrow", concurrency=1
    )
    assert dataset.take_all() == found.to_pylist()
    # Arrays of either layout, and one that is no picture.
    nhwc = np.round(x * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    for batch in ({"image": nhwc}, {"image": x}):
        again = purified(batch)
        assert again["image"].to_pylist()[:3] == found["image"].to_pylist()[:3]
    spoiled = x.copy()
    spoiled[1, 0, 0, 0] = np.nan
    errors = purified({"image": spoiled})["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, True, True] and "NaN" in errors[1]
    with pytest.raises(backstitch.InvalidError, match="no column 'image', only x"):
        purified({"x": x})


def test_an_actor_has_as_many_threads_as_cores():
    actor = ray.remote(num_cpus=2)(Purify).remote(MODEL, **CHEAP)
    settings = ray.get(actor.__ray_call__.remote(lambda self: dict(self.purifier.settings)))
    assert settings["threads"] == 2


@pytest.mark.parametrize("kind", ["images", "webdataset", "parquet"])
def test_the_example_runs_as_it_is(tmp_path, monkeypatch, capsys, kind):
    files = {f"{i}": _backstitch.png(picture) for i, picture in enumerate(pictures(3))}
    source = tmp_path / "in"
    source.mkdir()
    if kind == "images":
        for name, file in files.items():
            (source / f"{name}.png").write_bytes(file)
        (source / "notes.txt").write_text("no picture")
    elif kind == "webdataset":
        with tarfile.open(source / "shard.tar", "w") as tar:
            for name, file in files.items():
                for suffix, content in (("png", file), ("cls", b"1")):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
    else:
        table = pa.table({"image": [{"bytes": file, "path": name} for name, file in files.items()], "label": [0, 1, 2]})
        pa.parquet.write_table(table, source / "a.parquet")
    out = tmp_path / "out"
    line = [EXAMPLE, MODEL, source, out, "--actors", 1]
    line += [name if value is True else f"{name}={value}" for name, value in CHEAP.items()]
    monkeypatch.setattr(sys, "argv", [str(word) for word in line])
    for again in (False, True):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 3 pictures, 0 of them errors"
        found = rows(out)
        assert len(found) == 3 and all(row["error"] is None for row in found)
        assert again is False or found == before
        before = found
    assert {row["image"] for row in found} == {
        _backstitch.png(image)
        for image in backstitch.Purifier(MODEL, eight_bit=True, **CHEAP).purify(list(files.values())).images
    }
