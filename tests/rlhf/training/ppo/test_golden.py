"""Our maths reproduces trlx's numbers.  Each deliberate difference is pinned by a number computed by hand.

The environment variable `TRLX_GOLDEN` can name another file of the same layout.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.training.ppo.advantages import estimate_advantages, shape_rewards, whiten
from rlhf.training.ppo.kl import KlController, response_kl
from rlhf.training.ppo.losses import ppo_loss, token_logprobs
from rlhf.training.ppo.score_scaling import RunningStatistics, scale_scores
from tests.support.paths import GOLDEN

CASES: dict[str, Any] = json.loads(GOLDEN.read_text())["cases"]
GAE_CASES = [name for name in CASES if name.startswith("gae")]
LOSS_CASES = [name for name in CASES if name.startswith("loss")]


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_equal(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=1e-9)


def test_the_golden_file_has_every_kind_of_case() -> None:
    assert GAE_CASES
    assert LOSS_CASES
    assert {"logprobs_of_labels", "running_moments", "adaptive_kl"} <= set(CASES)


@pytest.mark.parametrize("name", GAE_CASES)
def test_advantages(name: str) -> None:
    case = CASES[name]
    reward_BR = tensor(case["rewards"])
    mask_BR = torch.ones_like(reward_BR, dtype=torch.bool)
    advantage_BR, return_BR = estimate_advantages(
        reward_BR, tensor(case["values"]), mask_BR, discount=case["gamma"], gae_lambda=case["lam"]
    )
    assert_equal(advantage_BR, case["advantages"])
    assert_equal(return_BR, case["returns"])
    assert_equal(whiten(advantage_BR.flatten()).view_as(advantage_BR), case["advantages_whitened"])


@pytest.mark.parametrize("name", LOSS_CASES)
def test_loss_and_its_gradients(name: str) -> None:
    case = CASES[name]
    mask_BR = tensor(case["mask"]).bool()
    logprob_BR = tensor(case["logprobs"]).requires_grad_()
    value_BR = tensor(case["values"]).requires_grad_()
    loss = ppo_loss(
        logprob_BR[mask_BR],
        value_BR[mask_BR],
        old_logprob_T=tensor(case["old_logprobs"])[mask_BR],
        old_value_T=tensor(case["old_values"])[mask_BR],
        advantage_T=tensor(case["advantages"])[mask_BR],
        return_T=tensor(case["returns"])[mask_BR],
        policy_clip=case["cliprange"],
        value_clip=case["cliprange_value"],
        value_coefficient=case["vf_coef"],
        token_count=float(mask_BR.sum()),
    )
    torch.autograd.backward(loss.total)
    assert_equal(loss.total.detach(), case["loss"])
    assert_equal(loss.policy, case["policy_loss"])
    assert_equal(loss.value, case["value_loss"])
    assert_equal(loss.policy_clip_fraction.double(), case["policy_clipfrac"])
    assert_equal(loss.value_clip_fraction.double(), case["value_clipfrac"])
    assert logprob_BR.grad is not None
    assert value_BR.grad is not None
    assert_equal(logprob_BR.grad, case["grad_logprobs"])
    assert_equal(value_BR.grad, case["grad_values"])


def test_logprobs() -> None:
    case = CASES["logprobs_of_labels"]
    logits, labels = tensor(case["logits"]), torch.tensor(case["labels"])
    assert_equal(token_logprobs(logits.flatten(0, 1), labels.flatten()).view(labels.shape), case["logprobs"])


def test_running_statistics() -> None:
    statistics = RunningStatistics()
    for step in CASES["running_moments"]["steps"]:
        statistics.update(tensor(step["batch"]))
        assert statistics.mean == pytest.approx(step["running_mean"], abs=1e-9)
        assert statistics.deviation == pytest.approx(step["running_std"], abs=1e-9)


def test_kl_controller() -> None:
    controller = KlController(coefficient=0.05, target=6.0, horizon=10_000)
    for step in CASES["adaptive_kl"]["steps"]:
        controller.update(step["kl"], step["n_steps"])
        assert controller.coefficient == pytest.approx(step["coefficient"], abs=1e-9)


def test_scores_are_clipped_before_they_are_scaled() -> None:
    """40 after fifty 1 and fifty -1 is clipped to 10: the variance is (100 + 10^2 * 100 / 101) / 100 = 1.9901.

    trlx@3340c2f does the same (AcceleratePPOTrainer.make_experience).  Scaling first would give 40 / 4.104 = 9.747.
    """
    statistics = RunningStatistics()
    scale_scores(tensor([1.0, -1.0] * 50), statistics, clip=10, scale=True)
    scaled = scale_scores(tensor([40.0]), statistics, clip=10, scale=True)
    assert_equal(scaled, [10 / math.sqrt((100 + 100 * 100 / 101) / 100)])


class TestDeliberateDifferences:
    """Deliberate differences from trlx, shown on one response " a b EOS", padded to four positions."""

    mask = torch.tensor([[True, True, True, False]])
    logprob = tensor([[-1.0, -2.0, -0.5, -9.0]])
    reference = tensor([[-1.5, -1.0, -0.5, -3.0]])

    def test_the_score_lands_on_the_last_response_token(self) -> None:
        """trlx adds it after the EOS: 2.0 would be in the fourth position."""
        reward = shape_rewards(tensor([2.0]), self.logprob, self.reference, self.mask, kl_coefficient=0.1)
        assert_equal(reward, [[-0.05, 0.1, 2.0, 0.0]])

    def test_the_eos_is_an_action_of_the_loss(self) -> None:
        """The third token, the EOS, has its own term: advantage 3 at ratio 1 adds -3 to the sum."""
        loss = ppo_loss(
            self.logprob[self.mask].requires_grad_(),
            tensor([0.0, 0.0, 0.0]),
            old_logprob_T=self.logprob[self.mask],
            old_value_T=tensor([0.0, 0.0, 0.0]),
            advantage_T=tensor([1.0, 2.0, 3.0]),
            return_T=tensor([0.0, 0.0, 0.0]),
            policy_clip=0.2,
            value_clip=0.2,
            value_coefficient=1.0,
            token_count=3,
        )
        assert_equal(loss.total.detach(), -(1.0 + 2.0 + 3.0) / 3)

    def test_padding_does_not_enter_whitening(self) -> None:
        """Whitened over the three tokens: mean 2, variance 1.  With the 0 of the padding these would be 1.5 and 5/3."""
        advantage_BR = tensor([[1.0, 2.0, 3.0, 0.0]])
        torch.testing.assert_close(whiten(advantage_BR[self.mask]), tensor([-1.0, 0.0, 1.0]), rtol=0, atol=1e-7)

    def test_advantages_are_whitened_over_all_rollouts_of_a_step(self) -> None:
        """1, 3, 5, 7: mean 4, variance 20/3.  In trlx's minibatches of two both halves would be -0.71, 0.71."""
        expected = [value / math.sqrt(20 / 3) for value in (-3.0, -1.0, 1.0, 3.0)]
        torch.testing.assert_close(whiten(tensor([1.0, 3.0, 5.0, 7.0])), tensor(expected), rtol=0, atol=1e-7)

    def test_kl_counts_only_response_tokens_and_is_that_of_policy_to_reference(self) -> None:
        """log(reference / policy) is -0.5, 1, 0: (e^-0.5 - 1 + 0.5) + (e - 1 - 1) = 0.1065 + 0.7183.

        trlx takes policy / reference, (e^0.5 - 1 - 0.5) + (1/e - 1 + 1) = 0.5166, and adds the prompt's tokens.
        """
        expected = (math.exp(-0.5) - 0.5) + (math.e - 2.0)
        assert_equal(response_kl(self.logprob, self.reference, self.mask), [expected])

    def test_the_kl_controller_counts_rollouts_not_minibatches(self) -> None:
        """64 rollouts at twice the target: 0.05 * (1 + 0.2 * 64 / 10000).  trlx counts a minibatch, 4 of 64."""
        controller = KlController(coefficient=0.05, target=6.0, horizon=10_000)
        controller.update(12.0, rollouts=64)
        assert controller.coefficient == pytest.approx(0.050064, abs=1e-12)
