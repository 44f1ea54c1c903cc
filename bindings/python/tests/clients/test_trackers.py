"""Hooks with the trackers themselves."""

from __future__ import annotations

import json

import pytest
from common import MODEL, QUICK

from backstitch import hooks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder with a picture that failed."""
    folder = tmp_path_factory.mktemp("run")
    description = {
        "configuration": {"classifier": str(MODEL), "defense": {"reconstruct": {"seed": QUICK["seed"]}}},
        "images": {"done": 2, "failed": 1},
    }
    records = [
        {"image": "a", "verdict": "clean", "score": 0.1, "input_label": 1, "output_label": 1},
        {"image": "b", "verdict": "adversarial", "score": 0.9, "input_label": 1, "output_label": 2},
        {"image": "c", "error": "c cannot be decoded"},
    ]
    (folder / "run.json").write_text(json.dumps(description))
    (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_mlflow(folder, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as run:
        hooks.log_to_mlflow(folder)
    found = mlflow.get_run(run.info.run_id).data
    assert found.params["defense.reconstruct.seed"] == str(QUICK["seed"])
    assert found.metrics == {"images.done": 2.0, "images.failed": 1.0}
    assert len(list((tmp_path / "mlruns").rglob("results.jsonl"))) == 1


def test_wandb(folder, tmp_path):
    wandb = pytest.importorskip("wandb")
    with pytest.raises(RuntimeError, match=r"wandb\.init"):
        hooks.log_to_wandb(folder)
    with wandb.init(mode="offline", dir=tmp_path) as run:
        hooks.log_to_wandb(folder)
        assert run.summary["images.failed"] == 1.0
        assert run.config["defense.reconstruct.seed"] == QUICK["seed"]
    (table,) = tmp_path.rglob("pictures*.table.json")
    assert json.loads(table.read_text())["data"][2][0] == "c"


def test_tensorboard(folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        hooks.log_to_tensorboard(folder, writer)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars("images/failed")] == [1.0]
    assert events.Histograms("score")[0].histogram_value.num == 2
