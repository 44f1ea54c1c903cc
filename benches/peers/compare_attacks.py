"""Attacks the same pictures through the same classifier with backstitch and with torchattacks.

    python compare_attacks.py PHOTOS CLASSES.txt MODEL.onnx [--pictures 8] [--only NAME...]
                              [--out FILE.json] [--backstitch PATH] [--threads N]

PHOTOS has class folders of pictures of 224x224, CLASSES.txt a class folder a line in label order,
and MODEL.onnx is EfficientNet-Lite0 as scripts/export_efficientnet_lite0.py writes it; torchattacks
gets the same weights as a PyTorch module. Only pictures that it labels rightly take part.

Both attack with the same numbers. PyTorch judges both, on the float32 pictures and on 8-bit ones:
backstitch's own rounding, and torchattacks' pictures rounded to the nearest. Printed are, for each,
how many pictures are fooled, the mean length of the changes that fool, the mean cross-entropy of
the true label, and seconds a picture. Random starts differ, so equal figures are not expected where
there are any. Of a picture that it cannot fool, torchattacks' APGD, Square and C&W give back the
clean one; backstitch's APGD and Square the best that they have. Within 0.25/255 there is no other
8-bit picture: there, rounding undoes every attack.

torchattacks' DeepFool asks for the gradients of all classes. Here both look at the ten that are best
on the clean picture. Needs what `setup.sh` installs.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchattacks
from PIL import Image
from torch.nn.functional import cross_entropy

import timing
from compare import ROOT, processor
from networks import network

MEAN, STD = 127 / 255, 128 / 255  # EfficientNet-Lite's own
CANDIDATES = 10


class Normalized(torch.nn.Module):
    """The classifier, of pixels in [0, 1]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model((images - MEAN) / STD)


class BestClasses(torch.nn.Module):
    """One picture's logits of some classes."""

    def __init__(self, model, classes):
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images):
        return self.model(images)[:, self.classes]


def deepfool(model, images, labels):
    attacked = []
    for image, label in zip(images.split(1), labels):
        with torch.no_grad():
            best = model(image)[0].topk(CANDIDATES).indices
        few = BestClasses(model, best).eval()
        attack = torchattacks.DeepFool(few, steps=50, overshoot=0.02)
        attacked.append(attack(image, (best == label).nonzero()[0]))
    return torch.cat(attacked)


def by(attack, **options):
    """A function that runs one of torchattacks' attacks."""
    return lambda model, images, labels: getattr(torchattacks, attack)(model, **options)(
        images, labels)


# Of each row: its name, backstitch's options, and torchattacks' function.
EPS, SMALL, LEAST = 4 / 255, 1 / 255, 0.25 / 255
ROWS = [
    ("fgsm 4/255", "fgsm --eps 4/255", by("FGSM", eps=EPS)),
    ("bim-10 4/255", "bim --eps 4/255", by("BIM", eps=EPS, alpha=2 / 255, steps=10)),
    ("pgd-10 0.25/255", "pgd --eps 0.25/255 --step-size 0.05/255",
     by("PGD", eps=LEAST, alpha=0.05 / 255, steps=10)),
    ("pgd-10 1/255", "pgd --eps 1/255 --step-size 0.25/255",
     by("PGD", eps=SMALL, alpha=0.25 / 255, steps=10)),
    ("pgd-l2-10 0.5", "pgd-l2 --eps 0.5 --step-size 0.1",
     by("PGDL2", eps=0.5, alpha=0.1, steps=10)),
    ("mi-fgsm-10 1/255", "mi-fgsm --eps 1/255 --step-size 0.25/255",
     by("MIFGSM", eps=SMALL, alpha=0.25 / 255, steps=10)),
    ("mi-fgsm-10 4/255", "mi-fgsm --eps 4/255", by("MIFGSM", eps=EPS, steps=10)),
    ("di-fgsm-10 1/255", "di-fgsm --eps 1/255 --step-size 0.25/255",
     by("DIFGSM", eps=SMALL, alpha=0.25 / 255, steps=10)),
    ("ti-fgsm-10 1/255", "ti-fgsm --eps 1/255 --step-size 0.25/255",
     by("TIFGSM", eps=SMALL, alpha=0.25 / 255, steps=10)),
    ("vmi-fgsm-10 1/255", "vmi-fgsm --eps 1/255 --step-size 0.25/255",
     by("VMIFGSM", eps=SMALL, alpha=0.25 / 255, steps=10)),
    ("si-ni-fgsm-10 1/255", "si-ni-fgsm --eps 1/255 --step-size 0.25/255",
     by("SINIFGSM", eps=SMALL, alpha=0.25 / 255, steps=10)),
    ("deepfool", f"deepfool --candidates {CANDIDATES}", deepfool),
    ("cw", "cw", by("CW")),
    ("apgd-ce-20 0.25/255", "apgd-ce --eps 0.25/255 --steps 20",
     by("APGD", eps=LEAST, steps=20, loss="ce")),
    ("apgd-ce-20 1/255", "apgd-ce --eps 1/255 --steps 20",
     by("APGD", eps=SMALL, steps=20, loss="ce")),
    ("apgd-ce-20 L2 0.5", "apgd-ce --eps 0.5 --steps 20 --norm l2",
     by("APGD", eps=0.5, steps=20, loss="ce", norm="L2")),
    ("apgd-dlr-20 1/255", "apgd-dlr --eps 1/255 --steps 20",
     by("APGD", eps=SMALL, steps=20, loss="dlr")),
    ("apgd-t-20 1/255", "apgd-t --eps 1/255 --steps 20",
     by("APGDT", eps=SMALL, steps=20)),
    ("square-300 4/255", "square --eps 4/255 --queries 300",
     by("Square", eps=EPS, n_queries=300)),
    ("square-300 L2 5", "square --eps 5 --queries 300 --norm l2",
     by("Square", eps=5.0, n_queries=300, norm="L2")),
]


def load(photos, classes, count, model):
    """The first `count` pictures, spread over the folders, that the classifier labels rightly."""
    folders = [line.split("\t")[0].strip() for line in classes.open(encoding="utf-8")]
    files = sorted(file for file in photos.glob("*/*") if file.parent.name in folders)
    files = files[:: max(1, len(files) // (2 * count))]
    images, labels = [], []
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) / np.float32(255)
        image, label = torch.from_numpy(pixels)[None], folders.index(file.parent.name)
        with torch.no_grad():
            if len(images) < count and model(image).argmax() == label:
                images.append(image)
                labels.append(label)
    return torch.cat(images), torch.tensor(labels)


def ours(binary, model, images, labels, options, save):
    """backstitch's pictures, and its seconds, with starting and reading the model."""
    with tempfile.TemporaryDirectory() as folder:
        array, out = Path(folder) / "pictures.npz", Path(folder) / "out"
        np.savez(array, images=images.numpy(), labels=labels.numpy())
        command = [binary, "attack", array, "--layout", "nchw", "--classifier", model, "-o", out,
                   "--device", "cpu", "--no-report", "--save", save, "--method", *options.split()]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
        records = [json.loads(line) for line in (out / "results.jsonl").open(encoding="utf-8")]
        records.sort(key=lambda record: int(record["image"].rsplit("#", 1)[1]))
        files = [out / record["output"] for record in records]
        if save == "npy":
            return torch.from_numpy(np.stack([np.load(file) for file in files])), seconds
        pixels = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
        return torch.from_numpy(pixels / np.float32(255)), seconds


def judge(model, attacked, images, labels):
    """What PyTorch says of attacked pictures."""
    with torch.no_grad():
        logits = model(attacked)
    fooled = logits.argmax(1) != labels
    change = (attacked - images).flatten(1).double()
    counted = change[fooled]
    sizes = {"linf_max_255": change.abs().max().item() * 255,
             "l2_max": change.norm(dim=1).max().item()}
    if len(counted):
        sizes |= {"l2_mean": counted.norm(dim=1).mean().item(),
                  "l2_median": counted.norm(dim=1).median().item()}
    return {"fooled": int(fooled.sum()), "cross_entropy": cross_entropy(logits, labels).item()} | sizes


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("classes", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows whose name begins so")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--backstitch", default=ROOT / "target" / "release" / "backstitch")
    parser.add_argument("--threads", type=int, default=timing.cores())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    model = Normalized(network("efficientnet-lite0")).eval()
    images, labels = load(arguments.photos, arguments.classes, arguments.pictures, model)
    by("FGSM", eps=0.0)(model, images, labels)  # PyTorch's first gradient takes long
    rows = []
    print(f"{len(images)} pictures; fooled exact/8-bit, mean L2, cross-entropy, seconds a picture")
    for name, options, theirs in ROWS:
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        torch.manual_seed(0)
        started = time.perf_counter()
        peer = theirs(model, images, labels).detach()
        peer_seconds = time.perf_counter() - started
        exact, seconds = ours(arguments.backstitch, arguments.model, images, labels, options, "npy")
        rounded, _ = ours(arguments.backstitch, arguments.model, images, labels, options, "png")
        row = {"attack": name, "backstitch_options": options, "pictures": len(images)}
        for who, pictures, eight_bit, spent in (
                ("backstitch", exact, rounded, seconds),
                ("torchattacks", peer, (peer * 255).round() / 255, peer_seconds)):
            row[who] = {"exact": judge(model, pictures, images, labels),
                        "eight_bit": judge(model, eight_bit, images, labels),
                        "seconds_per_picture": spent / len(images)}
            figures = row[who]["exact"]
            print(f"{name:19} {who:12} {figures['fooled']:3}/{row[who]['eight_bit']['fooled']:<3}"
                  f" {figures.get('l2_mean', float('nan')):8.4f} {figures['cross_entropy']:8.3f}"
                  f" {row[who]['seconds_per_picture']:7.2f}", flush=True)
        rows.append(row)
    if arguments.out:
        report = {"processor": processor(), "threads": arguments.threads,
                  "peer": f"torchattacks {torchattacks.__version__}, PyTorch {torch.__version__}, "
                          f"Python {platform.python_version()}",
                  "command": " ".join(["compare_attacks.py PHOTOS CLASSES MODEL",
                                       f"--pictures {arguments.pictures}"]),
                  "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
