"""Figures of a step and the files that they stand in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf.models.sampling import Response
from rlhf.runtime.metrics_log import StepLog
from rlhf.training.ppo.metrics import answer_sums, explained_variance, means, model_flops_utilization, repetition


def test_repetition_is_the_share_of_ngrams_that_came_before() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([7, 7, 7, 7, 7]) == pytest.approx(2 / 3)
    assert repetition([1, 2]) == 0


def test_explained_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    value, returns = torch.randn(2, 40, generator=generator)
    expected = 1 - np.var((returns - value).numpy()) / np.var(returns.numpy())
    assert explained_variance(value, returns) == pytest.approx(expected, abs=1e-5)
    assert explained_variance(returns + 3, returns) == pytest.approx(1)
    assert explained_variance(value, torch.zeros(40)) == 0


def test_means_of_answers() -> None:
    answers = [Response([1, 2, 0], " a", stopped=True), Response([1, 1, 1, 1, 1], " b", stopped=False)]
    figures = means(answer_sums(answers, torch.tensor([1.0, 4.0]), torch.tensor([0.0, 0.5])))
    assert figures == pytest.approx(
        {"score": 2.5, "kl": 0.25, "response_tokens": 4, "truncated_share": 0.5, "repetition": 1 / 3}
    )


def test_a_log_goes_on_after_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    """Rows behind it, and one that was cut off in the middle, are dropped."""
    path = tmp_path / "metrics.jsonl"
    rows = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    path.write_text(rows + '{"step": 4, "sco')
    log = StepLog(path, resumed_after=2)
    log.write({"step": 3, "score": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "score": 0.5},
    ]


def test_a_log_of_a_new_run_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n')
    StepLog(path, resumed_after=None)
    assert path.read_text() == ""


def test_utilization_is_a_share_of_the_data_sheet() -> None:
    """989e12 operations in two seconds on an H100 are half of what it can."""
    assert model_flops_utilization(989e12, 2.0, "NVIDIA H100 80GB HBM3") == 0.5
    assert model_flops_utilization(1.0, 1.0, "NVIDIA GeForce GTX 970") is None
