"""Trackers: the metrics of a training are read back from TensorBoard's own event files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.config import ModelConfig, RunConfig, SftConfig
from rlhf.errors import UserError
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import TRACKER, TRACKER_FOLDER
from rlhf.runtime.trackers import log_metrics, tracker_session
from rlhf.stage_config import SftStage, part_of
from rlhf.stages.train_sft import train_sft
from rlhf.storage.files import read_jsonl
from tests.support.tiny_inputs import tiny_inputs

CONFIG = part_of(
    RunConfig(model=ModelConfig(), sft=SftConfig(max_steps=3, batch_size=4, device_batch_size=4, checkpoint_every=2)),
    SftStage,
)


@pytest.fixture
def tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the event files."""
    folder = tmp_path / "my-run" / "tracker" / "train_ppo"
    monkeypatch.setenv(TRACKER, "tensorboard")
    monkeypatch.setenv(TRACKER_FOLDER, str(folder))
    return folder


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every metric in the event files of `folder` itself."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rows_of_ppo_appear_while_it_runs(tensorboard: Path, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", None, log_metrics)
    validation = MetricsLog(tmp_path / "validation.jsonl", None, log_metrics)
    with tracker_session(CONFIG):
        validation.write({"step": 0, "score": -0.5})
        log.write({"step": 1, "score": 0.25, "kl": 1.5})
        log.write({"step": 2, "score": 0.5, "kl": 2.0})
        assert scalars(tensorboard)["metrics/kl"] == [(1, 1.5), (2, 2.0)]
    log.write({"step": 3, "score": 0.75, "kl": 2.5})  # after the session
    assert scalars(tensorboard) == {
        "metrics/score": [(1, 0.25), (2, 0.5)],
        "metrics/kl": [(1, 1.5), (2, 2.0)],
        "validation/score": [(0, -0.5)],
    }


def test_fine_tuning_shows_the_rows_of_its_metrics_file(tensorboard: Path, tmp_path: Path) -> None:
    inputs, output = tiny_inputs(tmp_path), tmp_path / "sft"
    output.mkdir()
    train_sft(CONFIG, inputs, output)
    rows = read_jsonl(output / "metrics.jsonl")
    shown = scalars(tensorboard)
    for name in ("loss", "validation_loss", "learning_rate"):
        written = [(int(str(row["step"])), float(str(row[name]))) for row in rows if name in row]
        assert [step for step, _ in shown[f"metrics/{name}"]] == [step for step, _ in written]
        values = [value for _, value in shown[f"metrics/{name}"]]
        assert values == pytest.approx([value for _, value in written], rel=1e-6)
        assert written
    assert not list(output.rglob("events.out*"))  # not a part of the artifact


def test_without_a_tracker_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKER, raising=False)
    monkeypatch.chdir(tmp_path)
    with tracker_session(CONFIG):
        log_metrics({"step": 1, "loss": 0.5}, "metrics")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_error_for_a_missing_tracker_package_names_it(
    name: str, tensorboard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.runtime.trackers.tracking.get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setenv(TRACKER, name)
    with pytest.raises(UserError, match=rf"compute\.tracker \({name}\) .* pip install {name}"), tracker_session(CONFIG):
        pass
    assert not tensorboard.exists()
