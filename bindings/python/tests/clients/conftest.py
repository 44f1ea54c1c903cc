"""A defended classifier for attack libraries."""

from __future__ import annotations

import pytest
from common import MODEL

import backstitch

# So that an attack of a hundred purifications takes seconds.
ATTACKED = {"preset": "cifar", "iterations": 60, "probe_interval": 10, "restarts": 1, "device": "cpu", "seed": 0}


@pytest.fixture(scope="session")
def defense():
    return backstitch.Purifier(MODEL, **ATTACKED)


@pytest.fixture(scope="session")
def defended(defense):
    from backstitch.torch import Defended

    return Defended(defense).eval()
