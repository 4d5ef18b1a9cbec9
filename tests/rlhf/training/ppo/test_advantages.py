"""Rewards and advantages equal numbers computed by hand and do not depend on padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf.training.ppo.advantages import estimate_advantages, shape_rewards, whiten
from rlhf.training.ppo.kl import response_kl


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_two_tokens_by_hand() -> None:
    """delta_2 = 2 - 0.5 = 1.5; delta_1 = 1 + 0.9 * 0.5 - 0.25 = 1.2, plus 0.9 * 0.5 * 1.5 = 0.675."""
    mask = torch.tensor([[True, True, False]])
    advantage, returns = estimate_advantages(
        tensor([[1.0, 2.0, 99.0]]), tensor([[0.25, 0.5, 99.0]]), mask, discount=0.9, gae_lambda=0.5
    )
    torch.testing.assert_close(advantage, tensor([[1.875, 1.5, 0.0]]))
    torch.testing.assert_close(returns, tensor([[2.125, 2.0, 0.0]]))


def test_undiscounted_returns_at_lambda_one_are_sums_of_later_rewards() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    _, returns = estimate_advantages(
        tensor([[1.0, 2.0, 4.0]]), tensor([[5.0, -3.0, 0.5]]), mask, discount=1.0, gae_lambda=1.0
    )
    torch.testing.assert_close(returns, tensor([[7.0, 6.0, 4.0]]))


def test_a_token_that_is_likelier_than_under_the_reference_costs_reward() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    reward = shape_rewards(
        tensor([1.0, -1.0]),
        tensor([[-1.0, -1.0], [-2.0, 5.0]]),
        tensor([[-3.0, -1.0], [-1.0, 7.0]]),
        mask,
        kl_coefficient=0.5,
    )
    torch.testing.assert_close(reward, tensor([[-1.0, 1.0], [0.5 - 1.0, 0.0]]))


def test_whitened_advantages_have_mean_0_and_variance_1() -> None:
    whitened = whiten(torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7)
    assert whitened.mean().item() == pytest.approx(0, abs=1e-12)
    assert whitened.var().item() == pytest.approx(1, abs=1e-7)


def test_equal_advantages_and_a_single_one_become_0() -> None:
    torch.testing.assert_close(whiten(tensor([2.0, 2.0, 2.0])), tensor([0.0, 0.0, 0.0]))
    torch.testing.assert_close(whiten(tensor([2.0])), tensor([0.0]))


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), padding=st.integers(0, 3), seed=st.integers(0, 99))
def test_padding_and_other_rows_change_nothing(lengths: list[int], padding: int, seed: int) -> None:
    """Each response alone, without padding, has the same results as in a batch with NaN in its padding."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + padding
    logprob, reference, value = torch.randn(3, len(lengths), width, dtype=torch.float64, generator=generator)
    score = torch.randn(len(lengths), dtype=torch.float64, generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    poison = torch.tensor(float("nan"), dtype=torch.float64)

    def evaluate(rows: slice, columns: slice, fill: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        part_mask = mask[rows, columns]
        parts = [
            part[rows, columns] if fill is None else part[rows, columns].where(part_mask, fill)
            for part in (logprob, reference, value)
        ]
        reward = shape_rewards(score[rows], parts[0], parts[1], part_mask, kl_coefficient=0.1)
        advantage, returns = estimate_advantages(reward, parts[2], part_mask, discount=0.9, gae_lambda=0.8)
        kl = response_kl(parts[0], parts[1], part_mask)
        return reward[part_mask], advantage[part_mask], returns[part_mask], kl

    together = evaluate(slice(None), slice(None), poison)
    alone = [evaluate(slice(row, row + 1), slice(length), None) for row, length in enumerate(lengths)]
    for batched, single in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.cat(single), rtol=0, atol=1e-12)
