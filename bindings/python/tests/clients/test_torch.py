"""The defended classifier as a PyTorch module."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchattacks
from common import MODEL
from toy import EPS, Toy, colored, inside

import backstitch
import backstitch.torch
from backstitch.torch import Defended


def test_logits_are_those_of_the_outputs(defense, defended):
    x, _ = colored(3)
    with torch.no_grad():
        logits = defended(x)
    assert not logits.requires_grad and logits.dtype == torch.float32
    assert np.array_equal(logits.numpy(), defense.purify(x).logits)


def test_tensors_of_every_kind_are_taken(defense):
    x, _ = colored(2)
    wanted = defense.purify(x.numpy()).images
    for tensor in (x, x.clone().requires_grad_(), x.to(memory_format=torch.channels_last), x.double(), x[:, [0, 1, 2]]):
        before = tensor.detach().clone()
        assert np.array_equal(defense.purify(tensor).images, wanted)
        assert torch.equal(tensor.detach(), before)
    with pytest.raises(backstitch.InvalidError, match="bfloat16"):
        defense.purify(x.bfloat16())


@pytest.mark.parametrize("through", ["identity", "trajectory", "decision"])
def test_backward_is_the_rule_s_gradient(defense, through):
    x, y = colored(3)
    x.requires_grad_()
    defended = Defended(defense, through=through)
    logits = defended(x)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y, reduction="sum"), x)
    by_logits = torch.softmax(logits.detach(), 1) - torch.nn.functional.one_hot(y, 4)
    wanted = defense.gradient(x, by_logits, through=through)
    assert np.abs(wanted).max() > 0 and np.allclose(gradient.numpy(), wanted, atol=1e-6)
    if through == "decision":  # of which the label is all that counts
        assert np.array_equal(gradient.numpy(), defense.gradient(x, y, through=through))


def test_without_gradients_none_is_computed(defense, monkeypatch):
    monkeypatch.setattr(type(defense), "gradient", None)
    defended = Defended(defense)
    x, _ = colored(1)
    with torch.no_grad():
        defended(x.requires_grad_())
    defended(x.detach())


def test_that_it_optimizes_at_test_time_is_said_once(defense, monkeypatch):
    monkeypatch.setattr(backstitch.torch, "_warned", False)
    with pytest.warns(UserWarning, match="optimizes at test time") as caught:
        Defended(defense)
        Defended(defense)
    assert len(caught) == 1


def test_a_module_has_a_device_and_says_what_it_is(defended):
    assert next(defended.parameters()).device.type == "cpu"
    assert "preset='cifar'" in repr(defended) and "through='decision'" in repr(defended)
    with pytest.raises(TypeError, match="settings"):
        Defended(defended.purifier, seed=1)
    assert Defended(MODEL, device="cpu", preset="cifar", iterations=30).purifier.classes == 4


@pytest.mark.parametrize(
    "attack",
    [
        lambda model: torchattacks.PGD(model, eps=EPS, steps=3),
        lambda model: torchattacks.APGD(model, eps=EPS, steps=3),
        lambda model: torchattacks.Square(model, eps=EPS, n_queries=10),
        lambda model: torchattacks.EOTPGD(model, eps=EPS, steps=2, eot_iter=2),
        lambda model: torchattacks.DIFGSM(model, eps=EPS, steps=2),
    ],
    ids=["PGD", "APGD", "Square", "EOTPGD", "DIFGSM"],
)
def test_torchattacks(defended, attack):
    x, y = colored(3)
    calls = []
    hook = defended.register_forward_hook(lambda *_: calls.append(1))
    adversarial = attack(defended)(x, y)
    hook.remove()
    assert inside(adversarial, x) and len(calls) > 1
    # Square gives back what it does not fool.
    assert len(calls) > 5 or not torch.equal(adversarial, x)


def fooled(purifier, adversarial, y):
    return int((purifier.purify(adversarial).labels != y.numpy()).sum())


def test_pgd_by_torchattacks_fools_as_many_as_ours(tmp_path, defense, defended):
    x, y = colored(24)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "labels.npy", y.numpy())
    line = [sys.executable, "-m", "backstitch", "attack", tmp_path / "x.npy", "--classifier", MODEL, "-o"]
    line += [tmp_path / "out", "--method", "pgd", "--eps", EPS, "--step-size", 2 / 255, "--steps", 10]
    line += ["--through", "decision", "--save", "npy", "--device", "cpu", "--preset", "cifar"]
    line += ["--iterations", 60, "--probe-interval", 10, "--defense-restarts", 1]
    subprocess.run([str(word) for word in line], check=True)
    records = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    torch.manual_seed(0)
    ours = sum(record["success"] for record in records)
    theirs = fooled(defense, torchattacks.PGD(defended, eps=EPS, alpha=2 / 255, steps=10)(x, y), y)
    print(f"PGD through the decision fools {theirs} of {len(x)} by torchattacks, {ours} by backstitch")
    assert ours > 0 and abs(theirs - ours) <= 0.1 * len(x)


def test_an_attack_that_knows_the_defense_fools_what_plain_pgd_does_not(defense, defended):
    x, y = colored(24, lead=(0.15, 0.3))
    torch.manual_seed(0)
    plain = torchattacks.PGD(Toy(), eps=EPS, alpha=2 / 255, steps=10)(x, y)
    adaptive = torchattacks.PGD(defended, eps=EPS, alpha=2 / 255, steps=10)(x, y)
    right = defense.purify(plain).labels == y.numpy()
    wrong = defense.purify(adaptive).labels != y.numpy()
    print(f"plain PGD leaves {right.sum()} of {len(x)} right, PGD through the decision {(~wrong).sum()}")
    assert (right & wrong).any()
