"""What all tests share: pictures, a purifier, and what it makes of them."""

from __future__ import annotations

import pytest
from common import MODEL, QUICK, pictures

import backstitch


@pytest.fixture(scope="session")
def x():
    x = pictures(5)
    x.setflags(write=False)  # nothing may change what all tests share
    return x


@pytest.fixture(scope="session")
def purifier():
    return backstitch.Purifier(MODEL, **QUICK)


@pytest.fixture(scope="session")
def result(purifier, x):
    return purifier.purify(x)
