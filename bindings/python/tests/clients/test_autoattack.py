"""AutoAttack on the defended classifier."""

from __future__ import annotations

import pytest
import torch
from pyautoattack import AutoAttack
from toy import EPS, colored, inside


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "arguments",
    [{"version": "custom", "attacks": ["apgd-ce", "square"]}, {"version": "rand"}],
    ids=["custom", "rand"],
)
def test_autoattack(defended, arguments):
    x, y = colored(3)
    attack = AutoAttack(defended, norm="Linf", eps=EPS, seed=0, **arguments)
    attack.apgd.n_iter, attack.apgd.n_restarts, attack.apgd.eot_iter = 3, 1, 2
    attack.square.n_queries = 5
    adversarial = attack.run_standard_evaluation(x, y, batch_size=3)
    adversarial = adversarial[0] if isinstance(adversarial, tuple) else adversarial
    assert isinstance(adversarial, torch.Tensor)
    assert inside(adversarial, x)
