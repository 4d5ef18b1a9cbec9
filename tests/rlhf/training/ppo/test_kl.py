"""The KL estimate and the adaptive KL coefficient."""

from __future__ import annotations

import pytest
import torch

from rlhf.training.ppo.kl import KlController, response_kl


def test_equal_models_have_kl_exactly_0() -> None:
    logprob = torch.tensor([[-1.2345, -0.3, -7.0]])
    assert response_kl(logprob, logprob, torch.ones(1, 3, dtype=torch.bool)).item() == 0.0


def test_the_estimate_is_unbiased() -> None:
    """Its mean over tokens sampled from the policy is the KL of the two distributions."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 8, dtype=torch.float64, generator=generator).log_softmax(-1)
    token = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=generator)
    estimate = response_kl(policy[token][:, None], reference[token][:, None], torch.ones(200_000, 1, dtype=torch.bool))
    exact = (policy.exp() * (policy - reference)).sum().item()
    assert (estimate >= 0).all()
    assert estimate.mean().item() == pytest.approx(exact, rel=0.02)


def test_the_coefficient_rises_if_kl_is_above_the_target_and_falls_if_below() -> None:
    for kl, factor in ((6.6, 1 + 0.1 * 0.01), (5.4, 1 - 0.1 * 0.01), (60.0, 1 + 0.2 * 0.01), (0.0, 1 - 0.2 * 0.01)):
        controller = KlController(coefficient=0.05, target=6.0, horizon=10_000)
        controller.update(kl, rollouts=100)
        assert controller.coefficient == pytest.approx(0.05 * factor, rel=1e-12)


def test_without_a_target_the_coefficient_is_constant() -> None:
    controller = KlController(coefficient=0.05, target=None, horizon=10_000)
    controller.update(60.0, rollouts=100)
    assert controller.coefficient == 0.05
