"""Attacks the defense as someone does who knows it, with torchattacks and AutoAttack, and counts what is left.

    python attack_adaptively.py MODEL.onnx PICTURES.npy LABELS.npy [--eps 8/255] [--steps 10] [SETTING[=VALUE] ...]

The pictures are (N, 3, H, W) from 0 to 1 in the classifier's size, the labels N integers. How to read it: a picture
counts only if it is right under every attack, and more steps, restarts and draws can only lower that number. It
bounds the robustness from above and proves nothing. The defense optimizes at test time: AutoAttack's standard
version is no measure of it, and its figures are no ranks of RobustBench, whose rules exclude such defenses.
"""

import argparse
from fractions import Fraction

import numpy as np
import torch
import torchattacks
from pyautoattack import AutoAttack

import backstitch
from backstitch.torch import Defended


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures")
    parser.add_argument("labels")
    parser.add_argument("settings", nargs="*", metavar="SETTING[=VALUE]")
    parser.add_argument("--eps", type=Fraction, default=Fraction(8, 255), help="the bound of each pixel's change")
    parser.add_argument("--steps", type=int, default=10, help="of each attack that follows gradients")
    arguments = parser.parse_intermixed_args()

    settings = dict(setting.split("=", 1) if "=" in setting else (setting, True) for setting in arguments.settings)
    purifier = backstitch.Purifier(arguments.model, **settings)
    x = torch.from_numpy(np.load(arguments.pictures)).float()
    y = torch.from_numpy(np.load(arguments.labels)).long()
    undefended, defended = Defended(purifier, through=None), Defended(purifier, through="decision")
    eps, steps = float(arguments.eps), arguments.steps

    def pgd(model):
        return torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps)(x, y)

    def autoattack():
        attack = AutoAttack(defended, norm="Linf", eps=eps, seed=0, version="custom", attacks=["apgd-ce", "square"])
        attack.apgd.n_iter, attack.apgd.n_restarts, attack.square.n_queries = steps, 1, 10 * steps
        adversarial = attack.run_standard_evaluation(x, y, batch_size=len(x))
        return adversarial[0] if isinstance(adversarial, tuple) else adversarial

    def right(pictures):
        return purifier.purify(pictures).labels == y.numpy()

    torch.manual_seed(0)
    worst = right(x)
    print(f"right without an attack: {worst.sum()} of {len(x)}", flush=True)
    for name, attack in [
        ("PGD on the classifier alone", lambda: pgd(undefended)),
        ("PGD along the defense's decision", lambda: pgd(defended)),
        ("APGD and Square of AutoAttack on the defense", autoattack),
    ]:
        its = right(attack())
        worst &= its
        print(f"right under {name}: {its.sum()}", flush=True)
    print(f"right under every one of them: {worst.sum()} of {len(x)}")


if __name__ == "__main__":
    main()
