"""Foolbox's attacks on the defended classifier."""

from __future__ import annotations

import foolbox
import pytest
import torch
from toy import EPS, colored, inside


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "attack",
    [foolbox.attacks.LinfPGD(steps=3), foolbox.attacks.LinfDeepFoolAttack(steps=3)],
    ids=["LinfPGD", "DeepFool"],
)
def test_foolbox(defended, attack):
    x, y = colored(3)
    model = foolbox.PyTorchModel(defended, bounds=(0, 1), device="cpu")
    _, adversarial, _ = attack(model, x, y, epsilons=EPS)
    assert inside(adversarial, x) and not torch.equal(adversarial, x)
