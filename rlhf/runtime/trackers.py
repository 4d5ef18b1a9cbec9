"""Metrics shown in TensorBoard, Weights & Biases or MLflow, through accelerate's trackers.

The rows are those of metrics.jsonl and validation.jsonl, which are written in any case.  Tracker and folder come from
environment variables, not from the config, so that they never change a fingerprint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import tracking

from rlhf.config import Settings, flatten
from rlhf.errors import UserError
from rlhf.runtime.stage import TRACKER, TRACKER_FOLDER, is_main_process


@contextlib.contextmanager
def tracker_session(config: Settings) -> Iterator[None]:
    """Send the rows of `log_metrics` inside the `with` block to the tracker that the environment names, if any.

    Raises UserError if the tracker's package is not installed.
    """
    name = os.environ.get(TRACKER)
    if name is None or not is_main_process():
        yield
        return
    tracker = _start(name, Path(os.environ[TRACKER_FOLDER]))
    settings = flatten(config.model_dump(mode="json"))
    tracker.store_init_configuration(
        {name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()}
    )
    _trackers.append(tracker)
    try:
        yield
    finally:
        _trackers.remove(tracker)
        tracker.finish()


def log_metrics(row: Mapping[str, float], group: str) -> None:
    """Show a row of metrics as `group`/name, at its `step`."""
    for tracker in _trackers:
        metrics = {f"{group}/{name}": value for name, value in row.items() if name != "step"}
        tracker.log(metrics, step=int(row["step"]))


_trackers: list[Any] = []
"""The open tracker, if any."""


def _start(name: str, folder: Path) -> Any:
    """accelerate's tracker `name`; run and stage are named as in the path of `folder`, .../RUN/tracker/STAGE."""
    if name not in map(str, tracking.get_available_trackers()):
        raise UserError(f"compute.tracker ({name}) needs its package: pip install {name}, or set it to none")
    run, stage = folder.parent.parent.name, folder.name
    folder.mkdir(parents=True, exist_ok=True)
    match name:
        case "tensorboard":
            tracker = tracking.TensorBoardTracker(stage, folder.parent)
        case "wandb":
            tracker = tracking.WandBTracker(run, name=stage, dir=str(folder))
        case _:
            tracker = tracking.MLflowTracker(run, logging_dir=str(folder), run_name=stage)
    tracker.start()
    return tracker
