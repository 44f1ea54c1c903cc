"""Replays the rule of evidence on recorded reconstructions (docs/tuning.md): which views of the input speak for
a label, and how much they weigh against the votes.

    pip install numpy onnxruntime pillow
    evidence.py MODEL.onnx PICTURES OUT.json RECORDING:RESTARTS:ITERATIONS [SHIFT]

PICTURES and RECORDING are those of replay.py. Without SHIFT views of all shifts are compared, where the support is
the votes' arithmetic mean and the views count with their mean; with SHIFT, ways to join the votes and the mirrored
views moved by so many pixels. The even point of each row is chosen on four fifths of the photographs,
with all their attacked versions, and the row's output labels are counted on the last fifth; five times.
"""

import os
import sys

import numpy as np

from replay import ATTACKS, Classifier, by_attack, counted, listed, load, parse, pixels, roc_area, save

PLACES = [-0.25, -0.125, 0.0]
SHIFTS = [0, 3, 4, 7, 14]
SUPPORTS = ["arithmetic", "geometric"]
LESS = [0.0, 0.5, 1.0]
WEIGHTS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
FOLDS = 5
# What src/defense/verdict.rs has.
SUPPORT, WEIGHT, LESS_THE_DEVIATION, EVEN = "geometric", 1.5, 0.5, 1.9


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
    """One of the manifest, as the classifier sees it and its views; `vote` adds what speaks for its labels."""

    def __init__(self, row, x, classifier, shifts):
        self.attack, self.label = row["attack"], row["label"]
        self.photograph = os.path.basename(row["file"])
        moved = sorted({v[1:] for s in shifts for v in viewpoints(1, s)} | {(0, 0)})
        read = logarithms(classifier.logits(np.stack([seen_from(x, *m) for m in moved])))
        self.views = {(m, *at): read[m, i] for i, at in enumerate(moved) for m in (0, 1)}
        self.x = self.views[0, 0, 0]
        self.input = int(self.x.argmax())

    def counts(self):
        """Attacked pictures count where they fool the classifier."""
        return self.attack == "none" or self.input != self.label

    def vote(self, x, recording, classifier, noise=0.0):
        """Reads what the consensus of the recorded restarts says, and the points behind it; each as it is, mirrored
        and, with noise of that standard deviation, mirrored with noise."""
        consensus = recording.mean(0)
        votes = np.concatenate([consensus + t * (x - consensus) for t in PLACES])
        logs = logarithms(classifier.logits(votes))
        if noise:
            random = np.random.default_rng(len(self.photograph))
            # The ends of a segment have the same noise, so its points have, too.
            of_ends = random.normal(0, noise, consensus.shape).astype(np.float32)
            noisy = np.clip(votes[..., ::-1] + np.tile(of_ends, (len(PLACES), 1, 1, 1)), 0, 1)
            logs = np.concatenate([logs, logarithms(classifier.logits(noisy))[:1]])
        most = logs.max((0, 1))
        self.support = {
            "arithmetic": most + np.log(np.exp(logs - most).mean((0, 1))),
            "geometric": logs.mean((0, 1)),
        }
        self.settled = int(classifier.logits(consensus[-1:])[0, 0].argmax())

    def judge(self, views, weight, support="arithmetic", less=0.0):
        """The recovered label, and its lead over the input's."""
        lead = self.support[support] - self.support[support][self.input]
        if views:
            gains = np.array([self.views[v] - self.x for v in views])
            gains -= gains[:, [self.input]]
            lead += weight * (gains.mean(0) - less * gains.std(0))
        lead[self.input] = -np.inf
        recovered = int(lead.argmax())
        return recovered, float(lead[recovered])

    def seen_in(self, views):
        """The label of the views' mean probability: what averaging over them would say, without any defense."""
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


def rates(pictures, *rule):
    judged = [p.judge(*rule) for p in pictures]
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


def compared_views(pictures):
    """Rows by set of views and weight, and what the views say without any votes."""
    sets = [(f"{'mirrored' if m else 'upright'}, moved by {s}", viewpoints(m, s)) for m in (1, 0) for s in SHIFTS]
    rows = [
        {"views": name, "weight": weight, **rates(pictures, views, weight)}
        for name, views in sets
        if views
        for weight in WEIGHTS[name != "mirrored, moved by 0" :]
    ]
    views = viewpoints(1, 3)
    attacked = [p for p in pictures if p.attack != "none"]
    return {
        "rows": rows,
        "views_alone": {
            "their_label": by_attack(pictures, lambda p: p.seen_in(views) == p.label),
            "largest_gain": by_attack(attacked, lambda p: p.without_support(views) == p.label),
        },
    }


def joined(pictures, shift):
    """Rows by way to join votes and views, and the output that the program's way and even point give."""
    views = viewpoints(1, shift)
    rows = [
        {
            "support": support,
            "weight": weight,
            "less_deviations": less,
            **rates(pictures, views, weight, support, less),
        }
        for support in SUPPORTS
        for weight in WEIGHTS[2:5]
        for less in LESS
    ]

    def right(p, even, *rule):
        return p.output(*p.judge(views, *rule), even) == p.label

    before, now = (1.5, "arithmetic", 0.0), (WEIGHT, SUPPORT, LESS_THE_DEVIATION)
    return {
        "rows": rows,
        "before": by_attack(pictures, lambda p: right(p, EVEN, *before)),
        "defaults": by_attack(pictures, lambda p: right(p, EVEN, *now)),
    }


def main():
    model, folder, out, recording, *shift = sys.argv[1:]
    shifts = [int(shift[0])] if shift else SHIFTS
    _, recorded, restarts, iterations, _ = parse("recording=" + recording)
    classifier = Classifier(model)
    pictures = []
    for row in listed(folder):
        x = pixels(os.path.join(folder, row["file"]))
        data = load(recorded, restarts, iterations, row, x.shape)
        if data is None:
            continue
        picture = Picture(row, x, classifier, shifts)
        if picture.counts():
            picture.vote(x, data, classifier)
            pictures.append(picture)
    result = {
        "pictures": counted(pictures),
        **(joined(pictures, shifts[0]) if shift else compared_views(pictures)),
    }
    save(result, out)


if __name__ == "__main__":
    main()
