"""Cuts photographs to a classifier's size: the center square, resized with Pillow's bicubic filter.

    python scripts/crop.py SIZE OUT_FOLDER PHOTO...
"""

import sys
from pathlib import Path

from PIL import Image


def center_square(picture, size):
    """The largest centered square of `picture`, `size` pixels a side, in RGB."""
    picture = picture.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BICUBIC)


def main():
    if len(sys.argv) < 4 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    size, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for photo in map(Path, sys.argv[3:]):
        with Image.open(photo) as picture:
            center_square(picture, size).save(folder / f"{photo.stem}.png")


if __name__ == "__main__":
    main()
