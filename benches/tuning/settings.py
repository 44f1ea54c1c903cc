"""Compares settings of stage A by the program's rule (docs/tuning.md): how often the recovered label and the output
are right, and how near the reconstructions are to the clean pictures.

    pip install numpy onnxruntime pillow
    settings.py MODEL.onnx PICTURES OUT.json SHIFT NAME=RECORDING:RESTARTS:KEPT[:USED[:ITERATIONS]] ...

PICTURES and RECORDING are those of replay.py. A recording holds RESTARTS restarts at the iterations KEPT; of these
the first USED restarts and ITERATIONS count, all without them. Views of the input are moved by SHIFT pixels. Only
pictures that every recording holds are compared.
"""

import copy
import os
import sys

import numpy as np

from evidence import EVEN, LESS_THE_DEVIATION, SUPPORT, WEIGHT, Picture, viewpoints
from replay import ATTACKS, Classifier, by_attack, counted, listed, load, pixels, roc_area, save


class Recording:
    def __init__(self, text):
        self.name, rest = text.split("=")
        self.folder, restarts, kept, *used = rest.split(":")
        self.restarts, self.kept = int(restarts), kept.split(",")
        self.used = int(used[0]) if used else self.restarts
        chosen = used[1].split(",") if len(used) > 1 else self.kept
        self.places = [self.kept.index(iteration) for iteration in chosen]

    def load(self, row, shape):
        """Reconstructions by restart and iteration; None where there are none."""
        every = load(self.folder, self.restarts, self.kept, row, shape)
        return None if every is None else every[: self.used, self.places]


def psnr(a, b):
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def compared(pictures, views):
    """What one setting reaches."""
    of = {p: p.judge(views, WEIGHT, SUPPORT, LESS_THE_DEVIATION) for p in pictures}
    leads = {a: np.array([of[p][1] for p in pictures if p.attack == a]) for a in ATTACKS}
    attacked = [p for p in pictures if p.attack != "none"]
    near = {a: [p.psnr for p in pictures if p.attack == a] for a in ATTACKS}
    return {
        "recovered_right": by_attack(attacked, lambda p: of[p][0] == p.label),
        "reconstruction_right": by_attack(pictures, lambda p: p.settled == p.label),
        "output_right": by_attack(pictures, lambda p: p.output(*of[p], EVEN) == p.label),
        "roc_area": {a: roc_area(leads[a], leads["none"]) for a in ATTACKS[1:] if len(leads[a])},
        "psnr_of_the_reconstruction": {a: round(float(np.mean(v)), 2) for a, v in near.items() if v},
    }


def main():
    model, folder, out, shift, *texts = sys.argv[1:]
    recordings = [Recording(text) for text in texts]
    classifier = Classifier(model)
    rows = listed(folder)
    clean = {os.path.basename(r["file"]): r["file"] for r in rows if r["attack"] == "none"}
    pictures = {r.name: [] for r in recordings}
    for row in rows:
        x = pixels(os.path.join(folder, row["file"]))
        data = [r.load(row, x.shape) for r in recordings]
        if any(d is None for d in data):
            continue
        seen = Picture(row, x, classifier, [int(shift)])
        if not seen.counts():
            continue
        original = pixels(os.path.join(folder, clean[os.path.basename(row["file"])]))
        for recording, reconstructions in zip(recordings, data):
            picture = copy.copy(seen)
            picture.vote(x, reconstructions, classifier)
            picture.psnr = psnr(reconstructions[:, -1].mean(0), original)
            pictures[recording.name].append(picture)
    views = viewpoints(1, int(shift))
    result = {
        "pictures": counted(pictures[recordings[0].name]),
        "settings": {name: compared(found, views) for name, found in pictures.items()},
    }
    save(result, out)


if __name__ == "__main__":
    main()
