"""Losses equal numbers computed by hand; each test fails if a sign is flipped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf.training.ppo.losses import Loss, ppo_loss, token_entropies, token_logprobs


def loss_of(
    ratio: float, advantage: float, value: float = 0.0, old_value: float = 0.0, target: float = 0.0
) -> tuple[Loss, Tensor, Tensor]:
    """The loss of one token, and its gradients with respect to log-probability and value."""
    logprob_T = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    value_T = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    loss = ppo_loss(
        logprob_T,
        value_T,
        old_logprob_T=torch.zeros(1, dtype=torch.float64),
        old_value_T=torch.tensor([old_value], dtype=torch.float64),
        advantage_T=torch.tensor([advantage], dtype=torch.float64),
        return_T=torch.tensor([target], dtype=torch.float64),
        policy_clip=0.2,
        value_clip=0.2,
        value_coefficient=0.5,
        token_count=1,
    )
    gradients = torch.autograd.grad(loss.total, (logprob_T, value_T))
    return loss, gradients[0], gradients[1]


@pytest.mark.parametrize(
    ("ratio", "advantage", "policy_loss", "gradient", "clipped"),
    [
        (1.1, 2.0, -2.2, -2.2, 0),  # inside the clip range: minus ratio times advantage
        (1.5, 2.0, -2.4, 0.0, 1),  # far enough in the right direction: clipped to 1.2, no gradient
        (1.5, -2.0, 3.0, 3.0, 0),  # wrong direction: not clipped, pulled back
        (0.5, -2.0, 1.6, 0.0, 1),  # far enough down: clipped to 0.8, no gradient
        (0.5, 2.0, -1.0, -1.0, 0),
    ],
)
def test_policy_loss(ratio: float, advantage: float, policy_loss: float, gradient: float, clipped: float) -> None:
    loss, by_logprob, _ = loss_of(ratio, advantage)
    assert loss.policy.item() == pytest.approx(policy_loss, abs=1e-12)
    assert by_logprob.item() == pytest.approx(gradient, abs=1e-12)
    assert loss.policy_clip_fraction.item() == clipped


@pytest.mark.parametrize(
    ("value", "value_loss", "gradient", "clipped"),
    [
        (1.1, 0.405, -0.45, 0),  # inside the clip range: half of 0.9 squared
        (1.5, 0.32, 0.0, 1),  # too far towards the target: clipped to 1.2
        (0.5, 1.125, -0.75, 0),  # away from the target: the unclipped error, which is larger
    ],
)
def test_value_loss(value: float, value_loss: float, gradient: float, clipped: float) -> None:
    """The value was 1, its target is 2."""
    loss, _, by_value = loss_of(1.0, 0.0, value, old_value=1.0, target=2.0)
    assert loss.value.item() == pytest.approx(value_loss, abs=1e-12)
    assert loss.total.item() == pytest.approx(0.5 * value_loss, abs=1e-12)
    assert by_value.item() == pytest.approx(gradient, abs=1e-12)
    assert loss.value_clip_fraction.item() == clipped


def test_losses_of_parts_of_a_minibatch_add_up_to_its_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = [torch.randn(6, dtype=torch.float64, generator=generator) for _ in range(6)]

    def total(part: slice) -> float:
        logprob, value, old_logprob, old_value, advantage, returns = (column[part] for column in columns)
        return ppo_loss(
            logprob,
            value,
            old_logprob_T=old_logprob,
            old_value_T=old_value,
            advantage_T=advantage,
            return_T=returns,
            policy_clip=0.2,
            value_clip=0.2,
            value_coefficient=1.0,
            token_count=6,
        ).total.item()

    assert total(slice(0, 2)) + total(slice(2, 6)) == pytest.approx(total(slice(0, 6)), abs=1e-12)


def test_logprobs_and_entropies_of_a_known_distribution() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2).log() + 7.0
    expected = [math.log(0.5), math.log(0.25)]
    assert token_logprobs(logits, torch.tensor([0, 2])).tolist() == pytest.approx(expected, abs=1e-6)
    assert token_entropies(logits).tolist() == pytest.approx([1.5 * math.log(2)] * 2, abs=1e-6)


def test_bfloat16_logits_are_normalized_in_float32() -> None:
    logits = torch.zeros(1, 50_000, dtype=torch.bfloat16)
    assert token_logprobs(logits, torch.tensor([3])).item() == pytest.approx(-math.log(50_000), abs=1e-4)
    assert token_entropies(logits).item() == pytest.approx(math.log(50_000), abs=1e-4)


def test_the_gradient_of_log_probabilities_is_that_of_log_softmax() -> None:
    logits_TV = (
        4 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    token_T, weight_T = torch.tensor([0, 6, 3, 3, 1]), torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    expected_T = logits_TV.log_softmax(-1)[torch.arange(5), token_T]
    logprob_T = token_logprobs(logits_TV, token_T)
    torch.testing.assert_close(logprob_T, expected_T, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((values_T * weight_T).sum(), logits_TV) for values_T in (logprob_T, expected_T)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)
