"""ART's attacks on the classifier behind the defense, and the detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier
from toy import EPS, Toy, colored, inside

import backstitch
from backstitch.art import BackstitchDetector, BackstitchPreprocessor

pytestmark = pytest.mark.filterwarnings("ignore")


class Steeper(Toy):
    """ART's APGD takes a model for one of probabilities if its logits of white are some by chance, as Toy's are."""

    def forward(self, x):
        return 2 * super().forward(x)


def classifier(model, preprocessor=None):
    return PyTorchClassifier(
        model=model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=4,
        clip_values=(0, 1),
        preprocessing_defences=preprocessor,
        device_type="cpu",
    )


def estimator(defense, model=None, **arguments):
    """ART's classifier behind the defense."""
    return classifier(model or Toy(), BackstitchPreprocessor(defense, device_type="cpu", **arguments))


def arrays(count, **arguments):
    return [tensor.numpy() for tensor in colored(count, **arguments)]


class Counting:
    """A purifier that remembers how many pictures it is asked for at once."""

    def __init__(self, purifier):
        self.purifier, self.counts = purifier, []

    def __getattr__(self, name):
        def call(x, *rest, **arguments):
            self.counts.append(len(x))
            return getattr(self.purifier, name)(x, *rest, **arguments)

        return call


def test_predictions_are_those_of_the_outputs_in_parts(defense):
    x, _ = arrays(5)
    counting = Counting(defense)
    found = estimator(counting, batch_size=2).predict(x)
    assert np.allclose(found, defense.purify(x).logits, atol=1e-4)
    assert counting.counts == [2, 2, 1]


@pytest.mark.parametrize("through", ["identity", "trajectory", "decision"])
def test_loss_gradients_are_the_rule_s(defense, through):
    x, y = arrays(3)
    counting = Counting(defense)
    found = estimator(counting, through=through, batch_size=2).loss_gradient(x, np.eye(4, dtype=np.float32)[y])
    wanted = defense.gradient(x, y, through=through)
    assert np.abs(wanted).max() > 0 and max(counting.counts) == 2
    if through == "identity":  # by ART's own loss, which is the mean
        wanted /= len(x)
    assert np.allclose(found, wanted, atol=1e-5)


def test_class_gradients_are_those_at_the_output(defense):
    x, y = arrays(3)
    found = estimator(defense).class_gradient(x, label=y)[:, 0]
    wanted = defense.gradient(x, np.eye(4, dtype=np.float32)[y], through="identity")
    assert np.abs(wanted).max() > 0 and np.allclose(found, wanted, atol=1e-5)
    assert estimator(defense).class_gradient(x).shape == (3, 4, 3, 32, 32)


def test_class_gradients_through_the_decision_are_a_defended_model_s(defense, defended):
    x, y = arrays(2)
    found = classifier(defended).class_gradient(x, label=y)[:, 0]
    assert np.allclose(found, defense.gradient(x, np.eye(4, dtype=np.float32)[y], through="decision"), atol=1e-6)


@pytest.mark.parametrize(
    "attack",
    [
        lambda model: evasion.FastGradientMethod(model, eps=EPS),
        lambda model: evasion.ProjectedGradientDescent(model, eps=EPS, eps_step=EPS / 2, max_iter=3, verbose=False),
        lambda model: evasion.AutoProjectedGradientDescent(
            model, eps=EPS, eps_step=EPS / 2, max_iter=3, nb_random_init=1, verbose=False
        ),
        lambda model: evasion.SquareAttack(model, eps=EPS, max_iter=5, verbose=False),
    ],
    ids=["FGM", "PGD", "APGD", "Square"],
)
def test_attacks_within_a_bound(defense, attack):
    x, y = arrays(3)
    adversarial = attack(estimator(defense, Steeper())).generate(x, y)
    assert inside(torch.from_numpy(adversarial), torch.from_numpy(x)) and not np.array_equal(adversarial, x)


@pytest.mark.parametrize(
    "attack",
    [
        lambda model: evasion.CarliniL2Method(model, max_iter=2, binary_search_steps=2, verbose=False),
        lambda model: evasion.HopSkipJump(model, max_iter=1, max_eval=10, init_eval=5, init_size=5, verbose=False),
    ],
    ids=["C&W", "HopSkipJump"],
)
def test_attacks_without_a_bound(defense, attack):
    x, y = arrays(2)
    model = estimator(defense)
    calls = []
    predict = model.predict
    model.predict = lambda *words, **arguments: calls.append(1) or predict(*words, **arguments)
    adversarial = attack(model).generate(x, y)
    assert adversarial.shape == x.shape and adversarial.min() >= 0 and adversarial.max() <= 1
    assert len(calls) > 2


def test_pgd_through_the_decision_fools_the_defense(defense):
    x, y = arrays(12)
    attack = evasion.ProjectedGradientDescent(estimator(defense), eps=EPS, eps_step=2 / 255, max_iter=10, verbose=False)
    before, after = ((defense.purify(pictures).labels != y).sum() for pictures in (x, attack.generate(x, y)))
    print(f"PGD through the decision fools {after} of {len(x)} by ART; {before} are wrong without an attack")
    assert after > before


def test_the_detector_says_what_purify_says(defense):
    x, _ = arrays(5)
    report, attacked = BackstitchDetector(defense).detect(x, batch_size=2)
    result = defense.purify(x)
    assert np.array_equal(report["verdicts"], result.verdicts) and np.array_equal(report["scores"], result.scores)
    assert attacked.dtype == bool and np.array_equal(attacked, result.verdicts == "adversarial")
    report, attacked = BackstitchDetector(defense).detect(x[:0])
    assert attacked.shape == (0,) and attacked.dtype == bool and report["errors"] == {}


def test_pictures_of_another_size_are_refused_or_told(defense):
    big = np.full((3, 3, 40, 40), 0.5, np.float32)
    with pytest.raises(backstitch.InvalidError, match='size="32x32"'):
        estimator(defense).predict(big)
    report, attacked = BackstitchDetector(defense).detect(big, batch_size=2)
    assert sorted(report["errors"]) == [0, 1, 2] and attacked.all()
