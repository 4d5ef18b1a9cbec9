"""Signs of reward hacking: each appears beyond its limit and only there."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.evaluation.reward_hacking import reward_hacking_signs
from rlhf.results.base import Difference, Mean, PairedMetric
from rlhf.results.policy_comparison import Diversity, KlResults, PolicyComparison

UP = Difference(mean=0.4, ci95=(0.3, 0.5), p_value=0.001)


def compared(sft: float, rlhf: float, *, clear: bool = True) -> PairedMetric:
    """A metric whose interval reaches a tenth of the change to either side, or includes zero."""
    change = rlhf - sft
    reach = abs(change) * (0.1 if clear else 1.1)
    difference = Difference(mean=change, ci95=(change - reach, change + reach), p_value=0.01 if clear else 0.6)
    return PairedMetric(sft=Mean(mean=sft, n=50), rlhf=Mean(mean=rlhf, n=50), difference=difference)


def policies(**changes: Any) -> PolicyComparison:
    """A healthy run with these `changes`."""
    healthy = PolicyComparison(
        validation_loss=compared(1.4, 1.45),
        response_tokens=compared(20.0, 24.0),
        repetition=compared(0.02, 0.03),
        ended_share=compared(0.9, 0.95),
        distinct_ngrams=Diversity(sft=0.7, rlhf=0.6),
        kl=KlResults(per_response=6.0, ci95=(5.0, 7.0), per_token=0.25, n=50),
    )
    return healthy.model_copy(update=changes)


def far(nats: float) -> KlResults:
    return KlResults(per_response=nats, ci95=(nats - 1, nats + 1), per_token=1.0, n=50)


def test_a_healthy_run_has_no_signs() -> None:
    assert reward_hacking_signs(UP, policies()) == []


@pytest.mark.parametrize(
    ("changes", "metric", "value"),
    [
        ({"response_tokens": compared(20.0, 31.0)}, "length", 1.55),
        ({"response_tokens": compared(20.0, 12.0)}, "length", 0.6),
        ({"repetition": compared(0.02, 0.1)}, "repetition", 0.08),
        ({"validation_loss": compared(1.4, 1.7)}, "validation loss", 0.3),
        ({"distinct_ngrams": Diversity(sft=0.74, rlhf=0.5)}, "diversity", 0.5 / 0.74),
        ({"kl": far(26.0)}, "KL", 26.0),
    ],
)
def test_each_metric_beyond_its_limit_is_a_sign(changes: dict[str, Any], metric: str, value: float) -> None:
    [sign] = reward_hacking_signs(UP, policies(**changes))
    assert sign.metric == metric
    assert sign.value == pytest.approx(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"response_tokens": compared(20.0, 29.0)},
        {"response_tokens": compared(20.0, 31.0, clear=False)},
        {"repetition": compared(0.02, 0.06)},
        {"repetition": compared(0.02, 0.1, clear=False)},
        {"repetition": compared(0.1, 0.02)},
        {"validation_loss": compared(1.4, 1.59)},
        {"validation_loss": compared(1.4, 1.7, clear=False)},
        {"validation_loss": compared(1.7, 1.4)},
        {"distinct_ngrams": Diversity(sft=0.7, rlhf=0.57)},
        {"kl": far(24.0)},
    ],
)
def test_a_metric_within_its_limit_or_unclear_is_no_sign(changes: dict[str, Any]) -> None:
    assert reward_hacking_signs(UP, policies(**changes)) == []


def test_several_signs_are_in_order() -> None:
    degraded = policies(
        response_tokens=compared(20.0, 60.0),
        repetition=compared(0.02, 0.7),
        validation_loss=compared(1.4, 3.0),
        kl=far(90.0),
    )
    assert [sign.metric for sign in reward_hacking_signs(UP, degraded)] == [
        "length",
        "repetition",
        "validation loss",
        "KL",
    ]
    assert reward_hacking_signs(UP, degraded)[0].text == "Responses have 60.0 tokens on average, 20.0 before PPO."


@pytest.mark.parametrize("ci95", [(-0.1, 0.5), (-0.5, -0.1)])
def test_without_a_clear_rise_in_reward_there_are_no_signs(ci95: tuple[float, float]) -> None:
    reward = Difference(mean=sum(ci95) / 2, ci95=ci95, p_value=0.5)
    assert reward_hacking_signs(reward, policies(kl=far(90.0))) == []


def test_empty_responses_before_ppo_do_not_divide_by_zero() -> None:
    silent = policies(response_tokens=compared(0.0, 20.0))
    assert reward_hacking_signs(UP, silent) == []
