"""Purifies a folder with Ray Data: of images, of Parquet files or of WebDataset's tar files.

    python purify_with_ray.py MODEL.onnx INPUT OUTPUT [--actors N] [--cpus N | --gpus N] [SETTING[=VALUE] ...]

Runs on this machine, or on the cluster where it is submitted (`ray job submit`, or RAY_ADDRESS); then the paths must
be ones that every node can read. Writes Parquet files. To go on after an interruption, run it again: what OUTPUT has
already is not computed again. Columns of pictures are called as in `backstitch purify --help`.
"""

import argparse
from pathlib import Path

import pyarrow.dataset
import ray

from backstitch.ray import Purify, missing

IMAGES = ["png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp"]


def read(folder):
    """The pictures, the column that has them, and the one that tells rows apart."""
    suffixes = {path.suffix.lower() for path in Path(folder).rglob("*")}
    if ".parquet" in suffixes:
        dataset = ray.data.read_parquet(folder, include_row_hash=True)
        names = [name for name in ("image", "img", "picture", "bytes") if name in dataset.schema().names]
        if not names:
            raise SystemExit(f"{folder}: no column is called image, img, picture or bytes")
        return dataset, names[0], "row_hash"
    if ".tar" in suffixes:
        dataset = ray.data.read_webdataset(folder, decoder=None, file_extensions=["tar"])
        names = [name for name in IMAGES if name in dataset.schema().names]
        if not names:
            raise SystemExit(f"{folder}: the first pictures have none of the suffixes {', '.join(IMAGES)}")
        return dataset, names[0], "__key__"
    return ray.data.read_binary_files(folder, include_paths=True, file_extensions=IMAGES), "bytes", "path"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("settings", nargs="*", metavar="SETTING[=VALUE]")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--cpus", type=float, default=1, help="of each actor; default 1")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor; default 0")
    arguments = parser.parse_intermixed_args()

    dataset, column, key = read(arguments.input)
    settings = dict(setting.split("=", 1) if "=" in setting else (setting, True) for setting in arguments.settings)
    dataset = missing(dataset, arguments.output, key).map_batches(
        Purify,
        fn_constructor_kwargs={"model": arguments.model, "column": column, **settings},
        batch_format="pyarrow",
        batch_size=32,
        concurrency=arguments.actors,
        num_cpus=arguments.cpus,
        num_gpus=arguments.gpus,
    )
    dataset.write_parquet(arguments.output)

    written = pyarrow.dataset.dataset(arguments.output, format="parquet", exclude_invalid_files=True)
    errors = written.count_rows(filter=pyarrow.dataset.field("error").is_valid())
    print(f"{arguments.output}: {written.count_rows()} pictures, {errors} of them errors")


if __name__ == "__main__":
    main()
