"""Running statistics equal those that numpy computes from all values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.ppo.score_scaling import RunningStatistics, penalize_cut, scale_scores

BATCHES = st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=6), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(batches=BATCHES)
def test_running_statistics_equal_those_of_all_values(batches: list[list[float]]) -> None:
    statistics = RunningStatistics()
    for batch in batches:
        statistics.update(torch.tensor(batch, dtype=torch.float64))
    values = np.array([value for batch in batches for value in batch])
    assert statistics.count == len(values)
    assert statistics.mean == pytest.approx(values.mean(), abs=1e-9)
    if len(values) > 1:
        assert statistics.deviation == pytest.approx(values.std(ddof=1), abs=1e-7)


def test_scores_are_clipped_then_divided_by_the_deviation() -> None:
    """20 is clipped to 10: 10 and 0 have deviation 7.0711."""
    scores = torch.tensor([20.0, 0.0], dtype=torch.float64)
    scaled = scale_scores(scores, RunningStatistics(), clip=10, scale=True)
    assert scaled.tolist() == pytest.approx([2**0.5, 0.0], abs=1e-12)
    assert scale_scores(scores, RunningStatistics(), clip=10, scale=False).tolist() == [10.0, 0.0]


def test_only_responses_that_did_not_end_are_penalized() -> None:
    scores = torch.tensor([3.0, -1.0, 0.5])
    assert penalize_cut(scores, [True, False, False], 1.5).tolist() == [3.0, -2.5, -1.0]
    assert scores.tolist() == [3.0, -1.0, 0.5]


@pytest.mark.parametrize("scores", [[3.0], [3.0, 3.0, 3.0], [0.1 + 0.2, 0.3]])
def test_equal_scores_are_not_divided(scores: list[float]) -> None:
    """Their deviation is 0, or rounding error in the last bit."""
    scaled = scale_scores(torch.tensor(scores, dtype=torch.float64), RunningStatistics(), clip=10, scale=True)
    assert scaled.tolist() == pytest.approx(scores, abs=1e-12)
