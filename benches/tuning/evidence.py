"""Replays the rule of evidence on recorded reconstructions (docs/tuning.md): which views of the input speak for
a label, and how much they weigh against the votes.

    pip install numpy onnxruntime pillow
    evidence.py MODEL.onnx PICTURES OUT.json RECORDING:RESTARTS:ITERATIONS

PICTURES and RECORDING are those of replay.py. The even point of each row is chosen on four fifths of the photographs,
with all their attacked versions, and the row's output labels are counted on the last fifth; five times.
"""

import json
import os
import sys

import numpy as np
from PIL import Image

from replay import ATTACKS, Classifier, by_attack, load, parse, roc_area

PLACES = [-0.25, -0.125, 0.0]
SHIFTS = [0, 3, 4, 7, 14]
WEIGHTS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
FOLDS = 5
# What src/defense/verdict.rs has.
WEIGHT, EVEN, SHIFT = 1.5, 1.9, 3


def logarithms(logits):
    logits = logits.astype(np.float64)
    most = logits.max(-1, keepdims=True)
    return logits - most - np.log(np.exp(logits - most).sum(-1, keepdims=True))


def seen_from(x, down, right):
    """The picture moved, reflected beyond its edges."""
    _, height, width = x.shape
    by = max(SHIFTS)
    around = np.pad(x, ((0, 0), (by, by), (by, by)), mode="reflect")
    return around[:, by + down : by + down + height, by + right : by + right + width]


def viewpoints(mirrored, shift):
    around = [-shift, 0, shift] if shift else [0]
    every = [(mirrored, down, right) for down in around for right in around]
    return [v for v in every if v != (0, 0, 0)]


class Picture:
    def __init__(self, row, x, recording, classifier):
        self.attack, self.label = row["attack"], row["label"]
        self.photograph = os.path.basename(row["file"])
        consensus = recording[:4].mean(0)
        votes = np.concatenate([consensus + t * (x - consensus) for t in PLACES])
        logs = logarithms(classifier.logits(votes))
        most = logs.max((0, 1))
        self.support = most + np.log(np.exp(logs - most).mean((0, 1)))
        self.settled = int(classifier.logits(consensus[-1:])[0, 0].argmax())
        moved = sorted({v[1:] for s in SHIFTS for v in viewpoints(1, s)})
        read = logarithms(classifier.logits(np.stack([seen_from(x, *m) for m in moved])))
        self.views = {(m, *at): read[m, i] for i, at in enumerate(moved) for m in (0, 1)}
        self.x = self.views[0, 0, 0]
        self.input = int(self.x.argmax())

    def judge(self, views, weight):
        """The recovered label, and its lead over the input's."""
        evidence = self.support.copy()
        if views:
            evidence += weight * (np.mean([self.views[v] for v in views], 0) - self.x)
        evidence -= evidence[self.input]
        evidence[self.input] = -np.inf
        recovered = int(evidence.argmax())
        return recovered, float(evidence[recovered])

    def seen_in(self, views):
        """The label of the views' mean probability: what averaging over them would say, without any defence."""
        return int(np.exp([self.views[v] for v in views]).mean(0).argmax())

    def without_support(self, views):
        """The label that gains most from the input to its views."""
        gain = np.mean([self.views[v] for v in views], 0) - self.x
        gain[self.input] = -np.inf
        return int(gain.argmax())

    def output(self, recovered, lead, even):
        """Adversarial from a score of 0.5, clean up to 0.47."""
        if lead >= even:
            return recovered
        return self.input if lead - even <= np.log(0.47 / 0.53) else self.settled


def rows_mean(pictures, right):
    """The mean over the attacks and the clean pictures."""
    rates = [[r for p, r in zip(pictures, right) if p.attack == a] for a in ATTACKS]
    return np.mean([np.mean(r) for r in rates if r])


def rates(pictures, views, weight):
    judged = [p.judge(views, weight) for p in pictures]
    of = dict(zip(pictures, judged))
    clean = np.array([of[p][1] for p in pictures if p.attack == "none"])

    def area(attack):
        return roc_area(np.array([of[p][1] for p in pictures if p.attack == attack]), clean)

    photographs = sorted({p.photograph for p in pictures})
    fold = {name: i % FOLDS for i, name in enumerate(photographs)}
    evens = np.arange(-1.0, 8.0, 0.05)
    right = np.array([[p.output(*of[p], even) == p.label for even in evens] for p in pictures])
    held_out, chosen = {}, []
    for k in range(FOLDS):
        rest = [i for i, p in enumerate(pictures) if fold[p.photograph] != k]
        mean = [rows_mean([pictures[i] for i in rest], right[rest, e]) for e in range(len(evens))]
        # The middle of the best.
        best = int(np.median(np.flatnonzero(np.array(mean) >= max(mean) - 1e-12)))
        chosen.append(round(float(evens[best]), 2))
        held_out |= {p: right[i, best] for i, p in enumerate(pictures) if fold[p.photograph] == k}
    return {
        "recovered_right": by_attack(
            [p for p in pictures if p.attack != "none"], lambda p: of[p][0] == p.label
        ),
        "roc_area": {a: area(a) for a in ATTACKS[1:]},
        "output_right_held_out": by_attack(pictures, lambda p: held_out[p]),
        "even_of_folds": chosen,
    }


def main():
    model, folder, out, recording = sys.argv[1:]
    _, recorded, restarts, iterations, _ = parse("recording=" + recording)
    classifier = Classifier(model)
    with open(os.path.join(folder, "manifest.jsonl")) as manifest:
        rows = [json.loads(line) for line in manifest]
    pictures = []
    for row in rows:
        if row["attack"] not in ATTACKS:
            continue
        picture = Image.open(os.path.join(folder, row["file"])).convert("RGB")
        x = np.asarray(picture).astype(np.float32).transpose(2, 0, 1) / 255
        data = load(recorded, restarts, iterations, row, x.shape)
        if data is not None:
            pictures.append(Picture(row, x, data, classifier))
    sets = [(f"{'mirrored' if m else 'upright'}, moved by {s}", viewpoints(m, s)) for m in (1, 0) for s in SHIFTS]
    table = [
        {"views": name, "weight": weight, **rates(pictures, views, weight)}
        for name, views in sets
        if views
        for weight in WEIGHTS[name != "mirrored, moved by 0" :]
    ]
    views = viewpoints(1, SHIFT)
    defaults = {p: p.output(*p.judge(views, WEIGHT), EVEN) == p.label for p in pictures}
    result = {
        "pictures": {a: sum(p.attack == a for p in pictures) for a in ATTACKS},
        "rows": table,
        "views_alone": {
            "their_label": by_attack(pictures, lambda p: p.seen_in(views) == p.label),
            "largest_gain": by_attack(
                [p for p in pictures if p.attack != "none"], lambda p: p.without_support(views) == p.label
            ),
        },
        "defaults": by_attack(pictures, lambda p: defaults[p]),
    }
    with open(out, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
