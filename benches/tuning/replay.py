"""Replays rules of voting and judging on recorded reconstructions (docs/tuning.md).

    pip install numpy onnxruntime pillow
    replay.py MODEL.onnx PICTURES OUT.json NAME=RECORDING:RESTARTS:ITERATIONS[:LIST] ...

PICTURES is a folder with manifest.jsonl (file, label, attack a line). RECORDING is a folder that `record`
wrote, of RESTARTS restarts at ITERATIONS (400,500,600). Only pictures of LIST (all without one) that every
recording holds are used. The first recording gets the tables of votes and of scores, all get that of
networks. The score is the one from before the input's views counted; evidence.py has today's.
"""

import json
import os
import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

ATTACKS = ["none", "cw-l2", "fgsm-linf-4", "mifgsm-linf-4", "pgd-linf-4", "pgd-linf-8"]
PLACES = [-0.375, -0.25, -0.125, 0.0]
MOST = 4.0


def softmax(logits):
    p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


class Classifier:
    def __init__(self, path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options)
        self.input = self.session.get_inputs()[0].name

    def logits(self, pictures):
        """By view (as it is, mirrored), picture and class."""
        both = np.clip(np.concatenate([pictures, pictures[..., ::-1]]), 0, 1).astype(np.float32)
        runs = [self.session.run(None, {self.input: both[i : i + 16]})[0] for i in range(0, len(both), 16)]
        return np.concatenate(runs).reshape(2, len(pictures), -1)

    def probabilities(self, pictures):
        return softmax(self.logits(pictures))


def dct_shrunk(r, threshold):
    """The residual without its DCT coefficients (8x8, four shifts averaged) up to the threshold."""
    k = np.arange(8)
    m = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    m[0] /= np.sqrt(2)
    m = m.astype(np.float32)
    _, height, width = r.shape
    out = np.zeros_like(r)
    for shift in ((0, 0), (4, 4), (0, 4), (4, 0)):
        blocks = np.roll(r, (-shift[0], -shift[1]), (1, 2)).reshape(3, height // 8, 8, width // 8, 8)
        c = m @ blocks.transpose(0, 1, 3, 2, 4) @ m.T
        c = m.T @ (c * (np.abs(c) > threshold)) @ m
        out += np.roll(c.transpose(0, 1, 3, 2, 4).reshape(r.shape), shift, (1, 2))
    return out / 4


def views(x, recording, iterations):
    """What votes could be read from: name -> picture. `recording`: restarts, iterations, 3, h, w."""
    found = {}
    for i, iteration in enumerate(iterations):
        consensus = recording[:4, i].mean(0)
        for t in PLACES:
            found[f"{iteration}:{t}"] = consensus + t * (x - consensus)
        if len(recording) > 4:
            every = recording[:, i].mean(0)
            found[f"{iteration}:all"] = every - 0.125 * (x - every)
    random = np.random.default_rng(7)
    behind = consensus - 0.125 * (x - consensus)
    for i in range(3):
        found[f"noise{i}"] = behind + random.normal(0, 8 / 255, x.shape).astype(np.float32)
    found["shrunk"] = consensus + dct_shrunk(x - consensus, 32 / 255)
    for i, restart in enumerate(recording[:4, -1]):
        found[f"restart{i}"] = restart - 0.125 * (x - restart)
    return found


def log_odds(p, a, b):
    return float(np.log(max(p[a], 1e-12)) - np.log(max(p[b], 1e-12)))


class Reading:
    """A picture's label and everything that was read of it."""

    def __init__(self, attack, label, x, names, found, settled):
        self.attack, self.label, self.x, self.settled = attack, label, x, settled
        self.names, self.found = names, found
        self.input = int(x[0].argmax())

    def votes(self, names, mirror=True):
        chosen = self.found[: 2 if mirror else 1, [self.names[n] for n in names]]
        return chosen.reshape(-1, chosen.shape[-1]).mean(0)

    def recovered(self, votes):
        others = votes.copy()
        others[self.input] = -1
        return int(others.argmax())

    def score(self, votes, mirror_weight):
        """The score's logit: the odds of the votes, how far they moved, the mirrored input's."""
        recovered = self.recovered(votes)
        odds = log_odds(votes, recovered, self.input)
        at_input = log_odds(self.x[0], recovered, self.input)
        mirrored = log_odds(self.x[1], recovered, self.input)
        evidence = odds + 0.25 * (min(odds - at_input, 8) - 4.5)
        return evidence + mirror_weight * (np.clip(mirrored - at_input, -MOST, MOST) - 1)

    def output(self, votes, mirror_weight):
        """The output's label: adversarial from a score of 0.5, clean up to 0.42."""
        score = self.score(votes, mirror_weight)
        if score >= 0:
            return self.recovered(votes)
        return self.input if score <= np.log(0.42 / 0.58) else self.settled


def by_attack(readings, value):
    rows = {a: [value(r) for r in readings if r.attack == a] for a in ATTACKS}
    return {a: round(100 * float(np.mean(v)), 1) for a, v in rows.items() if v}


def recovered_right(readings, names, mirror=True):
    """Of attacked pictures: the best label but the input's; of clean ones: the best."""

    def right(r):
        votes = r.votes(names, mirror)
        return (int(votes.argmax()) if r.attack == "none" else r.recovered(votes)) == r.label

    return by_attack(readings, right)


def roc_area(scores, clean):
    """The area under the ROC curve of attacked pictures' scores against clean ones'."""
    wins = (scores[:, None] > clean) + 0.5 * (scores[:, None] == clean)
    return round(float(wins.mean()), 3)


def judged(readings, names, mirror=True, mirror_weight=0.0):
    """Output label right, and the score's area under the ROC curve against clean pictures."""
    scores = {r: r.score(r.votes(names, mirror), mirror_weight) for r in readings}
    clean = np.array([s for r, s in scores.items() if r.attack == "none"])
    area = {}
    for attack in ATTACKS[1:]:
        s = np.array([s for r, s in scores.items() if r.attack == attack])
        if len(s):
            area[attack] = roc_area(s, clean)
    right = by_attack(readings, lambda r: r.output(r.votes(names, mirror), mirror_weight) == r.label)
    return {"output_right": right, "roc_area": area}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(np.float32).transpose(2, 0, 1) / 255


def listed(folder):
    """The rows of the folder's manifest that the study looks at."""
    with open(os.path.join(folder, "manifest.jsonl")) as manifest:
        rows = [json.loads(line) for line in manifest]
    return [row for row in rows if row["attack"] in ATTACKS]


def counted(pictures):
    return {a: sum(p.attack == a for p in pictures) for a in ATTACKS}


def save(result, path):
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def parse(text):
    name, rest = text.split("=")
    folder, restarts, iterations, *chosen = rest.split(":")
    return name, folder, int(restarts), [int(i) for i in iterations.split(",")], chosen


def load(folder, restarts, iterations, row, shape):
    stem = os.path.splitext(os.path.basename(row["file"]))[0]
    path = os.path.join(folder, row["file"].split("/")[0], stem + ".f16")
    if not os.path.exists(path):
        return None
    data = np.fromfile(path, np.float16).astype(np.float32)
    return data.reshape(restarts, -1, *shape)[:, -len(iterations) :]


def main():
    model, pictures, out, *recordings = sys.argv[1:]
    classifier = Classifier(model)
    recordings = [parse(text) for text in recordings]
    only = None
    for chosen in (r[4] for r in recordings):
        if chosen:
            only = {os.path.relpath(p, pictures) for p in open(chosen[0]).read().split()}
    readings, networks = [], {r[0]: [] for r in recordings}
    for row in listed(pictures):
        if only is not None and row["file"] not in only:
            continue
        x = pixels(os.path.join(pictures, row["file"]))
        data = [load(folder, n, its, row, x.shape) for _, folder, n, its, _ in recordings]
        if any(d is None for d in data):
            continue
        at_input = classifier.probabilities(x[None])[:, 0]
        for first, ((name, _, _, iterations, _), recording) in enumerate(zip(recordings, data)):
            found = views(x, recording, iterations)
            if first > 0:
                found = {n: v for n, v in found.items() if n.endswith(":-0.125")}
            read = classifier.probabilities(np.stack(list(found.values())))
            names = {n: i for i, n in enumerate(found)}
            settled = int(read[0, names.get(f"{iterations[-1]}:0.0", 0)].argmax())
            reading = Reading(row["attack"], row["label"], at_input, names, read, settled)
            networks[name].append(reading)
    name, _, _, iterations, _ = recordings[0]
    readings = networks[name]
    at = lambda *places: [f"{i}:{t}" for i in iterations for t in places]
    noise = [f"noise{i}" for i in range(3)]
    restarts = [f"restart{i}" for i in range(4)]
    places = {
        "t = 0, -1/8, -1/4, -3/8": at(*PLACES),
        "t = 0, -1/8, -1/4": at(-0.25, -0.125, 0.0),
        "t = -1/8": at(-0.125),
        "t = 0": at(0.0),
    }
    candidates = {
        **places,
        "t = -1/8, last iteration": [f"{iterations[-1]}:-0.125"],
        "t = -1/8 and noise of 8/255": at(-0.125) + noise,
        "t = -1/8 and large residuals back": at(-0.125) + ["shrunk"],
        "t = -1/8, of every recorded restart": at("all"),
        "single restarts, last iteration": restarts,
        "noise of 8/255 alone": noise,
    }
    candidates = {n: v for n, v in candidates.items() if all(name in readings[0].names for name in v)}
    result = {
        "pictures": counted(readings),
        "votes": {
            n: {
                "as it is": recovered_right(readings, v, mirror=False),
                "and mirrored": recovered_right(readings, v),
            }
            for n, v in candidates.items()
        },
        "scores": [
            {"votes": n, "mirrored_votes": mirror, "mirrored_input": w, **judged(readings, v, mirror, w)}
            for n, v in places.items()
            for mirror, w in ((False, 0.0), (True, 0.0), (True, 0.25), (True, 0.5), (True, 1.0))
        ],
        "networks": {
            n: recovered_right(r, [v for v in r[0].names if v.endswith(":-0.125")])
            for n, r in networks.items()
            if r
        },
    }
    save(result, out)


if __name__ == "__main__":
    main()
