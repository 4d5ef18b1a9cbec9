"""A metrics log after a kill, a resume and a new start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.runtime.metrics_log import MetricsLog


def test_a_log_resumes_after_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    """Later rows, and one that was cut off in the middle, are dropped."""
    path = tmp_path / "metrics.jsonl"
    rows = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    path.write_text(rows + '{"step": 4, "sco')
    log = MetricsLog(path, resumed_after=2)
    log.write({"step": 3, "score": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "score": 0.5},
    ]


def test_rows_between_two_checkpoints_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) for step in (0, 90, 100, 105, 110)]
    path.write_text("\n".join([*lines, '{"step": 11']))
    MetricsLog(path, resumed_after=100)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 90, 100]


def test_a_log_of_a_new_run_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n')
    MetricsLog(path, resumed_after=None)
    assert path.read_text() == ""


def test_a_kept_row_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = '{"step": 5, "epoch": 0.1, "loss": 2.302585092994046, "learning_rate": 1e-05, "text": "\\u00e9"}\n'
    path.write_text(line)
    MetricsLog(path, resumed_after=5)
    assert path.read_text() == line


def test_every_written_row_is_passed_on_with_the_name_of_the_file(tmp_path: Path) -> None:
    rows = []
    log = MetricsLog(tmp_path / "validation.jsonl", None, lambda row, name: rows.append((dict(row), name)))
    log.write({"step": 1})
    assert rows == [({"step": 1}, "validation")]


def test_only_the_main_rank_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    MetricsLog(tmp_path / "metrics.jsonl", None).write({"step": 1})
    assert list(tmp_path.iterdir()) == []
