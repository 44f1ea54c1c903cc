"""What a long-running process notices: Ctrl-C, memory, the time of an import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from common import ENDLESS, MODEL, QUICK

import backstitch


@pytest.fixture
def sigint():
    """Ctrl-C as in a terminal: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "call",
    [
        lambda purifier, x: purifier.purify(x),
        lambda purifier, x: purifier.gradient(x, np.zeros(len(x), int), through="decision"),
        lambda purifier, x: purifier.trace(x[0]),
    ],
)
def test_ctrl_c_ends_a_call(sigint, x, call):
    purifier = backstitch.Purifier(MODEL, **ENDLESS)
    pressed = []

    def press():
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.5, press)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        call(purifier, x)
    # A second at most on a machine of one's own; this one may be busy.
    assert time.monotonic() - pressed[0] < 10
    # It serves the next call, with the same answers.
    logits = purifier.classify(x).logits
    assert np.array_equal(logits, backstitch.Purifier(MODEL, **QUICK).classify(x).logits)


def test_a_purifier_that_was_interrupted_purifies_the_same(purifier, x, result):
    def stop(done):
        if done:
            raise StopIteration

    from backstitch._arrays import as_numpy

    with pytest.raises(StopIteration):
        purifier._engine.purify(as_numpy(np.concatenate([x] * 20)), None, stop)
    assert np.array_equal(purifier.purify(x).images, result.images)


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_a_thousand_calls_leave_the_memory_flat(x):
    purifier = backstitch.Purifier(MODEL, **{**QUICK, "iterations": 1, "probe_interval": 1, "restarts": 1})

    def calls(count):
        for _ in range(count):
            purifier.purify(x[:2])
            purifier.classify(x[:2])
            purifier.gradient(x[:2], [0, 1], through="identity")

    calls(60)
    before = resident()
    calls(334)
    # If the two pictures of each call stayed, that would be 25 MB.
    assert resident() - before < 6 << 20


def test_an_import_takes_less_than_a_second_and_no_extras():
    code = (
        "import time, sys, numpy; start = time.perf_counter(); import backstitch; "
        "assert time.perf_counter() - start < 1; "
        "assert not {'torch', 'art', 'ray', 'onnx', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
