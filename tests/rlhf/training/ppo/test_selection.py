"""The best validation score within the bounds; the numbers are computed by hand."""

from __future__ import annotations

import math

import pytest

from rlhf.config import SelectionConfig
from rlhf.training.ppo.selection import Rejected, broken_bounds, select_checkpoint

BOUNDS = SelectionConfig(max_kl=25, max_ended_share_drop=0.05, max_length_ratio=1.5, min_diversity_ratio=0.8)
SFT = {"step": 0, "score": 1.0, "kl": 0.0, "truncated_share": 0.25, "response_tokens": 60, "distinct_ngrams": 0.5}


def validation(step: int, score: float = 2.0, **changes: float) -> dict[str, float]:
    """A validation like that of the SFT model except for a KL of 5 and `changes`."""
    return SFT | {"step": step, "score": score, "kl": 5.0} | changes


@pytest.mark.parametrize(
    ("metric", "on_the_bound", "beyond"),
    [
        ("kl", 25.0, 25.01),
        ("truncated_share", 0.30, 0.3001),  # 0.75 - 0.05 end by themselves
        ("response_tokens", 90, 90.01),  # 60 x 1.5
        ("response_tokens", 40, 39.99),  # 60 / 1.5
        ("distinct_ngrams", 0.4, 0.3999),  # 0.5 x 0.8
    ],
)
def test_each_bound_includes_its_value_and_nothing_beyond(metric: str, on_the_bound: float, beyond: float) -> None:
    assert broken_bounds(validation(5, **{metric: on_the_bound}), SFT, BOUNDS) == []
    assert len(broken_bounds(validation(5, **{metric: beyond}), SFT, BOUNDS)) == 1


def test_every_broken_bound_is_a_sentence_with_value_bound_and_setting() -> None:
    collapsed = validation(5, kl=31.24, truncated_share=0.5, response_tokens=120, distinct_ngrams=0.1)
    assert broken_bounds(collapsed, SFT, BOUNDS) == [
        "KL 31.2 nats per response, at most 25 allowed (ppo.selection.max_kl)",
        "50.0% of the responses end by themselves, 75.0% of the SFT model's, at least 70.0% needed "
        "(ppo.selection.max_ended_share_drop)",
        "mean length 120.0 tokens, 60.0 of the SFT model, 40.0 to 90.0 allowed (ppo.selection.max_length_ratio)",
        "share of distinct 3-grams 0.100, 0.500 of the SFT model, at least 0.400 needed "
        "(ppo.selection.min_diversity_ratio)",
    ]


@pytest.mark.parametrize("metric", ["kl", "response_tokens", "distinct_ngrams"])
def test_a_metric_of_nan_breaks_its_bound(metric: str) -> None:
    assert len(broken_bounds(validation(5, **{metric: math.nan}), SFT, BOUNDS)) == 1


def test_a_change_that_no_bound_limits_is_accepted() -> None:
    better = validation(5, truncated_share=0.0, distinct_ngrams=1.0)
    assert broken_bounds(better, SFT, BOUNDS) == []


def test_the_best_is_the_highest_score_within_the_bounds() -> None:
    validations = [SFT, validation(5, 2.0), validation(10, 9.0, kl=40.0), validation(15, 3.0), validation(20, 2.5)]
    selection = select_checkpoint(validations, BOUNDS)
    assert selection.best["step"] == 15
    reasons = ("KL 40.0 nats per response, at most 25 allowed (ppo.selection.max_kl)",)
    assert selection.rejected == (Rejected(step=10, score=9.0, reasons=reasons),)


def test_the_earliest_of_equal_scores_is_the_best() -> None:
    assert select_checkpoint([SFT, validation(5, 2.0), validation(10, 2.0)], BOUNDS).best["step"] == 5


def test_the_sft_model_remains_if_every_other_checkpoint_is_worse_or_outside() -> None:
    selection = select_checkpoint([SFT, validation(5, 0.5), validation(10, 9.0, response_tokens=10)], BOUNDS)
    assert selection.best == SFT
    assert [rejected.step for rejected in selection.rejected] == [10]


def test_an_sft_model_without_any_ngram_qualifies() -> None:
    silent = SFT | {"response_tokens": 1, "distinct_ngrams": 0.0}
    assert select_checkpoint([silent], BOUNDS).best == silent
