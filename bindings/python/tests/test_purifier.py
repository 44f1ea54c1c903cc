"""What a purifier gives: the command line's results, however it is called."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from common import FIXTURES, MODEL, QUICK, pictures

import backstitch


def command_line(*words):
    line = [sys.executable, "-m", "backstitch", *map(str, words)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def flags(settings):
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        yield from ([flag] if value is True else [flag, str(value)])


@pytest.mark.parametrize(("save", "eight_bit"), [("npy", False), ("png", True)])
def test_purify_equals_the_command_line(tmp_path, x, save, eight_bit):
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out"
    line = ["--classifier", MODEL, "-o", out, "--save", save, *flags(QUICK)]
    command_line("purify", tmp_path / "x.npy", *line)
    lines = (out / "results.jsonl").read_text().splitlines()
    records = {record["image"]: record for record in map(json.loads, lines)}
    result = backstitch.Purifier(MODEL, eight_bit=eight_bit, **QUICK).purify(x)
    assert set(result.verdicts) <= {"adversarial", "undecided", "clean"}
    for i, purified in enumerate(result):
        record = records[f"x.npy#{i}"]
        if save == "npy":
            assert np.array_equal(np.load(out / record["output"]), result.images[i])
        else:
            assert np.array_equal(np.round(result.images[i] * 255) / np.float32(255), result.images[i])
        for name in ("image", "label", "output", "seconds"):
            record.pop(name)
        assert {name: purified.record[name] for name in record} == record
        assert (purified.label, purified.verdict) == (record["output_label"], record["verdict"])
        assert purified.score == pytest.approx(record["score"], rel=1e-6)


def test_trace_equals_the_command_line(tmp_path, x):
    purifier = backstitch.Purifier(MODEL, eight_bit=True, **QUICK)
    np.save(tmp_path / "picture.npy", x[:1])
    out = tmp_path / "out"
    command_line("trace", tmp_path / "picture.npy", "--classifier", MODEL, "-o", out, *flags(QUICK))
    trace = purifier.trace(x[0], name="picture.npy#0")
    assert trace.json == json.loads((out / "trace.json").read_text())
    trace.save(tmp_path / "again")
    for name in ("trace.svg", "trace.png"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert json.loads((tmp_path / "again" / "trace.json").read_text()) == trace.json
    assert purifier.trace(x[:1], label=2).json["label"] == 2
    with pytest.raises(backstitch.InvalidError, match="of one picture"):
        purifier.trace(x)


def test_the_settings_are_the_command_line_s():
    text = command_line("purify", "--help")
    words = [line.split() for line in text.splitlines()]
    options = {word.rstrip(",.") for line in words for word in line[:2] if word.startswith("--")}
    options = {option[2:].replace("-", "_") for option in options}
    # Of input and output, of the run and of the log. What --save says is eight_bit here.
    others = (
        "list classes shard layout classifier output overwrite resume allow_changes save tar_out tar_pictures "
        "tar_bytes no_report jsonl metrics verbose profile log help version"
    )
    assert options - set(others.split()) == set(backstitch.Settings.__annotations__)
    assert list(backstitch.Settings.__annotations__) == backstitch._backstitch.setting_names()


def test_results_do_not_depend_on_how_pictures_are_split(purifier, x, result):
    for part in (1, 2, 3):
        for start in range(0, len(x), part):
            found = purifier.purify(x[start : start + part])
            assert np.array_equal(found.images, result.images[start : start + part])
            assert np.array_equal(found.logits, result.logits[start : start + part])
            assert np.array_equal(found.scores, result.scores[start : start + part])


@pytest.mark.parametrize("settings", [{"threads": 1}, {"threads": 3}, {"device": "cpu,cpu"}, {"capacity": 1}])
def test_results_do_not_depend_on_threads(settings, x, result):
    found = backstitch.Purifier(MODEL, **{**QUICK, **settings}).purify(x)
    assert np.array_equal(found.images, result.images)


def test_threads_of_python_share_a_purifier(purifier, x, result):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: purifier.purify(x[i : i + 1]), range(len(x))))
    for i, one in enumerate(found):
        assert np.array_equal(one.images, result.images[i : i + 1])


def test_other_threads_run_while_it_computes(purifier, x):
    count, end = 0, threading.Event()

    def counting():
        nonlocal count
        while not end.wait(0.001):
            count += 1

    thread = threading.Thread(target=counting)
    thread.start()
    purifier.purify(np.concatenate([x] * 8))
    end.set()
    thread.join()
    assert count > 10


def test_a_result_has_every_number(purifier, x, result):
    assert len(result) == len(x) == len(list(result))
    assert result.images.dtype == np.float32 and result.images.shape == x.shape
    assert np.array_equal(result.labels, result.logits.argmax(1))
    assert np.array_equal(result.input_labels, purifier.classify(x).labels)
    assert np.array_equal(result.labels, purifier.classify(result.images).labels)
    assert (result.recovered_labels >= 0).all() and (result.recovered_labels != result.input_labels).all()
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    *restarts, consensus = result[0].trajectory
    assert [path.seed for path in restarts] == [3, 4] and consensus.seed is None
    assert consensus.iterations.tolist() == [5, 10, 15, 20]
    assert len(consensus.labels) == len(consensus.confidences) == len(consensus.psnr) == 4
    assert ((consensus.confidences > 0) & (consensus.confidences <= 1)).all()
    assert result[-1].score == result.scores[-1]
    with pytest.raises(IndexError):
        result[len(x)]


def test_detect_is_what_purify_finds(purifier, x, result):
    found = purifier.detect(x)
    assert np.array_equal(found.verdicts, result.verdicts)
    assert np.array_equal(found.scores, result.scores)
    assert np.array_equal(found.input_labels, result.input_labels)


def test_confidences_are_softmax(purifier, x):
    found = purifier.classify(x)
    logits = found.logits.astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(found.confidences, probabilities.max(axis=1))


def test_gradients_are_those_of_the_logits(purifier, x):
    # The loss of labels, and the same as derivatives by the logits.
    y = np.arange(len(x)) % 4
    logits = purifier.classify(x).logits.astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = purifier.gradient(x, y)
    same = purifier.gradient(x, probabilities - np.eye(4)[y])
    assert gradient.shape == x.shape and np.abs(gradient).max() > 0
    assert np.allclose(gradient, same, atol=1e-5)
    # Central differences along the gradient, where no ReLU is at its kink.
    weights = np.tile([1.0, -1.0, 0.5, 0.0], (len(x), 1))
    slope = purifier.gradient(x, weights)
    step = 1e-3 * slope / np.linalg.norm(slope.reshape(len(x), -1), axis=1).reshape(-1, 1, 1, 1)
    inside = (0.1 * x + 0.45).astype(np.float32)
    slope = purifier.gradient(inside, weights)
    up, down = (purifier.classify(inside + sign * step).logits @ weights[0] for sign in (1, -1))
    assert np.allclose(up - down, 2 * (slope * step).sum(axis=(1, 2, 3)), rtol=0.05)
    last = purifier.gradient(x.transpose(0, 2, 3, 1), y)
    assert np.array_equal(last.transpose(0, 3, 1, 2), gradient)


@pytest.mark.parametrize("through", ["identity", "trajectory", "decision"])
def test_gradients_go_through_the_defense(purifier, x, through):
    y = purifier.classify(x).labels
    one = purifier.gradient(x, y, through=through)
    assert one.shape == x.shape and np.isfinite(one).all() and np.abs(one).max() > 0
    assert np.array_equal(one, purifier.gradient(x, y, through=through))
    assert not np.array_equal(one, purifier.gradient(x, y, through=through, draws=2))
    assert not np.array_equal(one, purifier.gradient(x, y, through=through, attacker_seeds="fresh"))


@pytest.mark.parametrize(
    ("y", "arguments", "said"),
    [
        ([0, 1], {}, "2 losses for 5 pictures"),
        ([0, 1, 2, 3, 4], {}, "class 4"),
        ([0, 1, 2, 3, -1], {}, "label -1"),
        ([0.5] * 5, {}, "float64 of shape (5,)"),
        (np.zeros((5, 3)), {}, "3 weights for 4 classes"),
        ([0] * 5, {"through": "queries"}, 'through="identity"'),
        ([0] * 5, {"through": "defense"}, "write one of queries, identity"),
        ([0] * 5, {"through": "identity", "draws": 0}, "draws must be 1 or more"),
        ([0] * 5, {"through": "identity", "attacker_seeds": "x"}, "attacker_seeds cannot be"),
    ],
)
def test_gradients_that_are_none_are_refused(purifier, x, y, arguments, said):
    with pytest.raises(backstitch.InvalidError) as error:
        purifier.gradient(x, y, **arguments)
    assert said in str(error.value)


def test_settings_are_told_apart():
    default = backstitch.Purifier(MODEL, device="cpu", preset="cifar").options
    changed = {
        "iterations": np.int64(60),
        "restarts": 3,
        "shift": False,
        "channels": (8, np.int32(8)),
        "push": np.array([0.5, 1.0]),
        "learning_rate": 0.125,
        "always": np.True_,
        "no_mirror": True,
        "stop_early": False,
        "jitter": None,
    }
    options = backstitch.Purifier(MODEL, device="cpu", preset="cifar", **changed).options
    reconstruct = options["reconstruct"]
    assert (reconstruct["iterations"], reconstruct["restarts"], reconstruct["shift"]) == (60, 3, False)
    assert reconstruct["spec"]["down"] == [8, 8] and reconstruct["spec"]["learning_rate"] == 0.125
    assert options["push"]["strengths"] == [0.5, 1.0]
    assert options["always"] is True and options["map"]["mirror"] is False
    assert reconstruct["spec"]["jitter"] == default["reconstruct"]["spec"]["jitter"]


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"iterations": 0}, ValueError, "iterations"),
        ({"iterations": "many"}, ValueError, "iterations cannot be \"many\""),
        ({"restarts": 0}, ValueError, "restarts must be 1 to 65536, not 0"),
        ({"preset": "none"}, ValueError, "write one of tiles, cifar"),
        ({"size": (33, 33)}, OSError, "fixed at 32, not 33"),
        ({"settled_probes": 2}, ValueError, "stop_early"),
        ({"memory": "lots"}, ValueError, "memory"),
        ({"threads": 0}, ValueError, "threads"),
        ({"sidecar": "none.json"}, OSError, "none.json"),
        ({"device": "tpu"}, ValueError, "device"),
        ({"device": "cuda:63"}, RuntimeError, ""),
        ({"iteration": 3}, TypeError, "did you mean 'iterations'?"),
        ({"classifier": "x"}, TypeError, "no setting 'classifier'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, kind, said):
    with pytest.raises(kind) as error:
        backstitch.Purifier(MODEL, **{"device": "cpu", **settings})
    assert said in str(error.value) and "--" not in str(error.value)
    if kind is not TypeError:
        assert isinstance(error.value, backstitch.Error)


def test_models_that_cannot_be_are_refused(tmp_path):
    for path, said in [
        (tmp_path / "none.onnx", "none.onnx"),
        (FIXTURES / "toy_unsupported.onnx", "NonZero"),
        (FIXTURES / "toy_free_size.onnx", "run at, with size"),
    ]:
        with pytest.raises(backstitch.Error) as error:
            backstitch.Purifier(path, device="cpu")
        assert said in str(error.value)


def test_copies_and_pickles_are_the_same_purifier(purifier, x, result):
    for other in (copy.deepcopy(purifier), copy.copy(purifier), pickle.loads(pickle.dumps(purifier))):
        assert other is not purifier and other.settings == purifier.settings
        assert np.array_equal(other.purify(x[:2]).images, result.images[:2])


def purified_images(purifier, x):
    return purifier.purify(x).images


def test_spawned_processes_get_purifiers(purifier, x, result):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        images = pool.apply(purified_images, (purifier, x[:1]))
    assert np.array_equal(images, result.images[:1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads: that is what is tested
def test_forked_processes_are_told_so(purifier, x):
    def attempts():
        for attempt in (lambda: purifier.purify(x), lambda: backstitch.Purifier(MODEL)):
            try:
                attempt()
            except backstitch.ForkError as error:
                yield "spawn" in str(error)

    child = os.fork()
    if child == 0:
        os._exit(0 if list(attempts()) == [True, True] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_purifier_says_what_it_is(purifier):
    assert repr(purifier).startswith(f"Purifier({str(MODEL)!r}, device='") and "preset='cifar'" in repr(purifier)
    assert purifier.model == str(MODEL)
    assert (purifier.size, purifier.classes) == ((32, 32), 4)
    assert len(purifier.devices) == 1


def test_progress_is_shown_where_tqdm_is(purifier, x, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    purifier.purify(x, progress=True)
    assert f"{len(x)}/{len(x)}" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    purifier.purify(x, progress=True)
    assert capsys.readouterr().err == ""


def test_warnings_go_to_python_s_log(caplog):
    with caplog.at_level(logging.WARNING):
        backstitch.Purifier(MODEL, device="cpu", mean=(123.0, 116.0, 103.0))
    assert any("is above 1" in record.message for record in caplog.records)


def test_the_version_is_the_crate_s():
    assert command_line("--version").strip() == f"backstitch {backstitch.__version__}"
