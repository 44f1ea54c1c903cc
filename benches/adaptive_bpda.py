"""Attacks the whole defence: BPDA with the identity (Athalye et al. 2018).

    python benches/adaptive_bpda.py PHOTOS CLASSES.txt MODEL.onnx WORK [--pictures 16] [--steps 10]

Each step purifies the pictures, takes the sign of the classifier's gradient at the purified ones as
if purification were the identity, and steps along it inside the ball around the clean pictures. The
attacker knows the defence, its options and its seed. A picture counts as broken where any step's
output is wrong. Only pictures that the classifier and the undisturbed defence label rightly take
part. Needs numpy, Pillow and a built backstitch (target/release, or BACKSTITCH).
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

BINARY = os.environ.get("BACKSTITCH", "target/release/backstitch")


def run(command, pictures, labels, work, *options):
    """Runs a command on an array of pictures; its records and outputs, in order."""
    array, out = work / "pictures.npz", work / command
    np.savez(array, images=pictures.astype(np.float32), labels=labels)
    subprocess.run(
        [BINARY, command, array, "--layout", "nchw", "-o", out, "--overwrite", "--no-report",
         "--save", "npy", *options],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    records = [json.loads(line) for line in (out / "results.jsonl").open()]
    records.sort(key=lambda record: int(record["image"].rsplit("#", 1)[1]))
    return records, np.stack([np.load(out / record["output"]) for record in records])


def load(photos, classes, count):
    """The first `count` pictures of the class folders, spread over them, and their labels."""
    folders = [line.split("\t")[0].strip() for line in classes.open()]
    files = sorted(file for file in photos.glob("*/*") if file.parent.name in folders)
    files = files[:: max(1, len(files) // count)][:count]
    pictures = [np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file in files]
    return np.stack(pictures) / 255.0, np.array([folders.index(f.parent.name) for f in files])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("classes", type=Path)
    parser.add_argument("model")
    parser.add_argument("work", type=Path)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--eps", type=float, default=4 / 255)
    parser.add_argument("--alpha", type=float, default=1 / 255)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model = ("--classifier", args.model)

    clean, labels = load(args.photos, args.classes, args.pictures)
    records, purified = run("purify", clean, labels, args.work, *model)
    fit = np.array([r["input_label"] == r["label"] == r["output_label"] for r in records])
    clean, labels, purified = clean[fit], labels[fit], purified[fit]

    # The classifier alone, as the yardstick: PGD that does not know the defence.
    static = ("--method", "pgd", "--eps", str(args.eps), "--step-size", str(args.alpha),
              "--steps", str(args.steps))
    _, attacked = run("attack", clean, labels, args.work, *model, *static)
    records, _ = run("purify", attacked, labels, args.work, *model)
    right_static = sum(r["output_label"] == r["label"] for r in records)

    pictures, standing = attacked.astype(np.float64), np.ones(len(labels), bool)
    _, purified = run("purify", pictures, labels, args.work, *model)
    for step in range(args.steps):
        _, moved = run("attack", purified, labels, args.work, *model, "--method", "fgsm",
                       "--eps", str(args.alpha))
        pictures = pictures + args.alpha * np.sign(moved - purified)
        pictures = np.clip(np.clip(pictures, clean - args.eps, clean + args.eps), 0, 1)
        records, purified = run("purify", pictures, labels, args.work, *model)
        standing &= np.array([r["output_label"] == r["label"] for r in records])
        print(f"step {step + 1}: {standing.sum()} of {len(labels)} stand", flush=True)
    print(json.dumps({
        "pictures": len(labels), "eps": args.eps, "alpha": args.alpha, "steps": args.steps,
        "right_without_attack": len(labels), "right_static_pgd": int(right_static),
        "right_bpda": int(standing.sum()),
    }))


if __name__ == "__main__":
    main()
