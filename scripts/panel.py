"""Shows what an attack did to photographs and what backstitch made of them.

    python scripts/panel.py FOLDER CLASS_NAMES.json

FOLDER holds `photos/`, `attacked/images/` and `purified/images/` with the same file names,
`purified/results.jsonl`, and what `backstitch classify --json` said of each folder in
`clean.jsonl`, `attacked.jsonl` and `purified.jsonl`. CLASS_NAMES gives each label's names,
`{"285": "Egyptian cat", ...}`, the first up to a comma. Prints a table and writes `panel.png` to
FOLDER.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 224
GAP = 12
LINE = 20
HEADING = 28
INK, PAPER, GRAY = (20, 20, 20), (255, 255, 255), (110, 110, 110)
RIGHT, WRONG = (0, 110, 40), (180, 20, 20)


def read_jsonl(path):
    """Objects of a JSON-lines file by the stem of their `image`."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return {Path(row["image"]).stem: row for row in rows}


class Photo:
    """One photograph: its three pictures, their top classes, and the verdict."""

    def __init__(self, folder, name, answers, results, class_names):
        def top(stage):
            if name not in answers[stage]:
                raise SystemExit(f"{folder / stage}.jsonl: nothing about {name}")
            best = answers[stage][name]["top"][0]
            return best["label"], best["confidence"]

        if name not in results:
            raise SystemExit(f"{folder / 'purified/results.jsonl'}: nothing about {name}")
        self.name = name
        self.verdict = results[name]["verdict"]
        self.top = {stage: top(stage) for stage in answers}
        self.class_names = class_names
        places = {"clean": "photos", "attacked": "attacked/images", "purified": "purified/images"}
        self.pictures = {
            stage: Image.open(folder / place / f"{name}.png").convert("RGB")
            for stage, place in places.items()
        }

    def says(self, stage):
        label, confidence = self.top[stage]
        return f"{self.class_names[label]} {confidence:.0%}"

    def right(self, stage):
        """Whether the classifier says of `stage` what it says of the clean photograph."""
        return self.top[stage][0] == self.top["clean"][0]

    def difference(self):
        """The attack's perturbation around mid-gray, and by how much it is amplified."""
        clean, attacked = (
            np.asarray(self.pictures[stage], np.float64) for stage in ("clean", "attacked")
        )
        change = attacked - clean
        gain = 127 / max(np.abs(change).max(), 1)
        return Image.fromarray(np.rint(127.5 + gain * change).clip(0, 255).astype(np.uint8)), gain


def table(photos):
    """The before/after table as text."""
    head = ["picture", "clean", "attacked", "purified", "verdict"]
    rows = [
        [photo.name, *(photo.says(stage) for stage in head[1:4]), photo.verdict]
        for photo in photos
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in [head, ["-" * width for width in widths], *rows]]
    return "\n".join(lines)


def fitted(draw, text, font, width):
    """`text`, shortened until it is at most `width` pixels wide."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def panel(photos):
    """One row a photograph: input, attacked, the difference amplified, purified."""
    row_height = CELL + 2 * LINE + GAP
    size = (GAP + 4 * (CELL + GAP), HEADING + GAP + len(photos) * row_height)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    title, body = ImageFont.load_default(17), ImageFont.load_default(14)
    lefts = [GAP + column * (CELL + GAP) for column in range(4)]
    headings = ("photograph", "attacked", "what the attack added", "purified by backstitch")
    for left, heading in zip(lefts, headings):
        draw.text((left, GAP / 2), heading, INK, title)
    for row, photo in enumerate(photos):
        top = HEADING + GAP + row * row_height
        difference, gain = photo.difference()
        color = {stage: RIGHT if photo.right(stage) else WRONG for stage in photo.top}
        cells = [
            (photo.pictures["clean"], photo.says("clean"), INK, photo.name),
            (photo.pictures["attacked"], photo.says("attacked"), color["attacked"], ""),
            (difference, f"amplified {gain:.0f} times", GRAY, ""),
            (photo.pictures["purified"], photo.says("purified"), color["purified"],
             f"verdict: {photo.verdict}"),
        ]
        for left, (picture, caption, ink, note) in zip(lefts, cells):
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
            draw.text((left, top + CELL + 3), fitted(draw, caption, body, CELL), ink, body)
            draw.text((left, top + CELL + LINE + 1), fitted(draw, note, body, CELL), GRAY, body)
    return sheet


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    synonyms = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    class_names = {int(label): names.split(",")[0] for label, names in synonyms.items()}
    stages = ("clean", "attacked", "purified")
    answers = {stage: read_jsonl(folder / f"{stage}.jsonl") for stage in stages}
    results = read_jsonl(folder / "purified" / "results.jsonl")
    names = sorted(path.stem for path in (folder / "photos").glob("*.png"))
    photos = [Photo(folder, name, answers, results, class_names) for name in names]
    print(table(photos))
    target = [photo for photo in photos if not photo.right("attacked")]
    saved = sum(photo.right("purified") for photo in target)
    print(f"\nThe attack changed the label of {len(target)} of {len(photos)} photographs; "
          f"backstitch brought back {saved} of {len(target)}.")
    panel(photos).save(folder / "panel.png")


if __name__ == "__main__":
    main()
