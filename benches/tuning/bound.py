"""Replays the score with the views' term bounded, and with noisy votes, on recorded reconstructions (docs/tuning.md).

    pip install numpy onnxruntime pillow
    bound.py MODEL.onnx PICTURES OUT.json RECORDING:RESTARTS:ITERATIONS SHIFT

The arguments are those of evidence.py. The recovered label is chosen by all that the views say; in the score they
count for BOUND nats at most, either way. For each noise of the third vote, bound, weight of the views and neutral lead:
how many percent of the outputs have the right label, and how many clean pictures an attacker could turn into false alarms by the views
alone, without changing a vote: those with a class whose support and the bound together reach the neutral lead.
"""

import copy
import os
import sys

import numpy as np

from evidence import LESS_THE_DEVIATION, SUPPORT, Picture, viewpoints
from replay import ATTACKS, Classifier, by_attack, counted, listed, load, parse, pixels, save

BOUNDS = [np.inf, 20.0, 12.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 0.0]
NOISES = [0.0, 4.0, 8.0, 12.0]
WEIGHTS = [0.75, 1.5, 3.0]
NEUTRAL = [0.0, 0.5, 1.0, 1.5, 1.9, 2.5, 3.0, 4.0, 6.0, 8.0]


def odds(p):
    """Log-odds of the classes' support to that of the input label, and what the views add for each class."""
    support = p.support[SUPPORT] - p.support[SUPPORT][p.input]
    return support, p.gain - LESS_THE_DEVIATION * p.spread


def judged(p, weight, bound):
    """The recovered label, and the bounded lead that the score is made of."""
    support, views = odds(p)
    whole = support + weight * views
    whole[p.input] = -np.inf
    recovered = int(whole.argmax())
    return recovered, float(support[recovered] + np.clip(weight * views[recovered], -bound, bound))


def within_reach(p, bound, neutral):
    support, _ = odds(p)
    return max(np.delete(support, p.input)) + bound >= neutral


def row(pictures, noise, bound, weight, neutral):
    of = {p: judged(p, weight, bound) for p in pictures}
    clean = [p for p in pictures if p.attack == "none"]
    return {
        "vote_noise_in_levels": noise,
        "bound": None if np.isinf(bound) else bound,
        "weight": weight,
        "neutral_lead": neutral,
        "output_right": by_attack(pictures, lambda p: p.output(*of[p], neutral) == p.label),
        "clean_within_reach_of_the_views": sum(bool(within_reach(p, bound, neutral)) for p in clean),
        "of_clean": len(clean),
    }


def main():
    model, folder, out, recording, shift = sys.argv[1:]
    _, recorded, restarts, iterations, _ = parse("recording=" + recording)
    classifier = Classifier(model)
    views = viewpoints(1, int(shift))
    by_noise = {noise: [] for noise in NOISES}
    for listed_row in listed(folder):
        x = pixels(os.path.join(folder, listed_row["file"]))
        data = load(recorded, restarts, iterations, listed_row, x.shape)
        if data is None:
            continue
        picture = Picture(listed_row, x, classifier, [int(shift)])
        if picture.counts() and (picture.attack != "none" or picture.input == picture.label):
            gains = np.array([picture.views[v] - picture.x for v in views])
            gains -= gains[:, [picture.input]]
            picture.gain, picture.spread = gains.mean(0), gains.std(0)
            for noise, pictures in by_noise.items():
                voted = copy.copy(picture)
                voted.vote(x, data, classifier, noise / 255)
                pictures.append(voted)

    def best_other(pictures):
        support = {a: [max(np.delete(odds(p)[0], p.input)) for p in pictures if p.attack == a] for a in ATTACKS}
        return {a: sorted(round(float(s), 2) for s in v) for a, v in support.items() if v}

    result = {
        "pictures": counted(by_noise[0.0]),
        "best_other_support_in_nats": {noise: best_other(pictures) for noise, pictures in by_noise.items()},
        "rows": [
            row(pictures, noise, b, w, n)
            for noise, pictures in by_noise.items()
            for w in WEIGHTS
            for b in BOUNDS
            for n in NEUTRAL
        ],
    }
    save(result, out)


if __name__ == "__main__":
    main()
