"""Metrics of a step, and the files that they are written to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf.models.sampling import Response
from rlhf.training.ppo.metrics import (
    all_reduce_means,
    explained_variance,
    model_flops_utilization,
    response_metric_sums,
)


def test_explained_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    value, returns = torch.randn(2, 40, generator=generator)
    expected = 1 - np.var((returns - value).numpy()) / np.var(returns.numpy())
    assert explained_variance(value, returns) == pytest.approx(expected, abs=1e-5)
    assert explained_variance(returns + 3, returns) == pytest.approx(1)
    assert explained_variance(value, torch.zeros(40)) == 0


def test_means_over_responses() -> None:
    responses = [Response([1, 2, 0], " a", stopped=True), Response([1, 1, 1, 1, 1], " b", stopped=False)]
    metrics = all_reduce_means(response_metric_sums(responses, torch.tensor([1.0, 4.0]), torch.tensor([0.0, 0.5])))
    assert metrics == pytest.approx(
        {"score": 2.5, "kl": 0.25, "response_tokens": 4, "truncated_share": 0.5, "repetition": 1 / 3}
    )


def test_utilization_is_a_share_of_the_peak_in_the_data_sheet() -> None:
    """989e12 operations in two seconds are half the peak of an H100."""
    assert model_flops_utilization(989e12, 2.0, "NVIDIA H100 80GB HBM3") == 0.5
    assert model_flops_utilization(1.0, 1.0, "NVIDIA GeForce GTX 970") is None
