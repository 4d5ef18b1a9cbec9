"""Signs of reward hacking: each comes where it should, and only there."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.evaluation.reward_hacking import hacking_signs
from rlhf.results.base import Difference, Mean
from rlhf.results.policies import Compared, KlResults, PolicyResults

UP = Difference(mean=0.4, ci95=(0.3, 0.5), p_value=0.001)


def compared(sft: float, rlhf: float, *, clear: bool = True) -> Compared:
    """A figure whose interval is a tenth of the change to either side, or includes zero."""
    change = rlhf - sft
    reach = abs(change) * (0.1 if clear else 1.1)
    difference = Difference(mean=change, ci95=(change - reach, change + reach), p_value=0.01 if clear else 0.6)
    return Compared(sft=Mean(mean=sft, n=50), rlhf=Mean(mean=rlhf, n=50), difference=difference)


def policies(**changes: Any) -> PolicyResults:
    """A sound run but for `changes`."""
    sound = PolicyResults(
        held_out_loss=compared(1.4, 1.45),
        answer_tokens=compared(20.0, 24.0),
        repetition=compared(0.02, 0.03),
        kl=KlResults(per_answer=6.0, ci95=(5.0, 7.0), per_token=0.25, n=50),
    )
    return sound.model_copy(update=changes)


def far(nats: float) -> KlResults:
    return KlResults(per_answer=nats, ci95=(nats - 1, nats + 1), per_token=1.0, n=50)


def test_a_sound_run_shows_none() -> None:
    assert hacking_signs(UP, policies()) == []


@pytest.mark.parametrize(
    ("changes", "figure", "value"),
    [
        ({"answer_tokens": compared(20.0, 31.0)}, "length", 1.55),
        ({"answer_tokens": compared(20.0, 12.0)}, "length", 0.6),
        ({"repetition": compared(0.02, 0.1)}, "repetition", 0.08),
        ({"held_out_loss": compared(1.4, 1.7)}, "held-out loss", 0.3),
        ({"kl": far(26.0)}, "KL", 26.0),
    ],
)
def test_each_runaway_is_a_sign(changes: dict[str, Any], figure: str, value: float) -> None:
    [sign] = hacking_signs(UP, policies(**changes))
    assert sign.figure == figure
    assert sign.value == pytest.approx(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"answer_tokens": compared(20.0, 29.0)},
        {"answer_tokens": compared(20.0, 31.0, clear=False)},
        {"repetition": compared(0.02, 0.06)},
        {"repetition": compared(0.02, 0.1, clear=False)},
        {"repetition": compared(0.1, 0.02)},
        {"held_out_loss": compared(1.4, 1.59)},
        {"held_out_loss": compared(1.4, 1.7, clear=False)},
        {"held_out_loss": compared(1.7, 1.4)},
        {"kl": far(24.0)},
    ],
)
def test_within_the_limit_or_unclear_is_none(changes: dict[str, Any]) -> None:
    assert hacking_signs(UP, policies(**changes)) == []


def test_all_at_once_come_in_order() -> None:
    gone = policies(
        answer_tokens=compared(20.0, 60.0),
        repetition=compared(0.02, 0.7),
        held_out_loss=compared(1.4, 3.0),
        kl=far(90.0),
    )
    assert [sign.figure for sign in hacking_signs(UP, gone)] == ["length", "repetition", "held-out loss", "KL"]
    assert hacking_signs(UP, gone)[0].text == "Answers have 60.0 tokens on average, 20.0 before."


@pytest.mark.parametrize("ci95", [(-0.1, 0.5), (-0.5, -0.1)])
def test_without_a_clear_gain_in_reward_there_is_none(ci95: tuple[float, float]) -> None:
    reward = Difference(mean=sum(ci95) / 2, ci95=ci95, p_value=0.5)
    assert hacking_signs(reward, policies(kl=far(90.0))) == []


def test_a_model_that_said_nothing_before_does_not_divide_by_zero() -> None:
    silent = policies(answer_tokens=compared(0.0, 20.0))
    assert hacking_signs(UP, silent) == []
