"""Metrics of human evaluation against values worked out by hand."""

from __future__ import annotations

import pytest

from rlhf.evaluation.human_preference import evaluate, unblind
from rlhf.labeling.manifest import KeyEntry
from rlhf.results.base import Counts
from tests.support.finished_run import judgement
from tests.support.judgements import key, prefers, responses


def test_the_published_counts_give_the_published_p_value() -> None:
    models = ["rlhf"] * 30 + ["tie"] * 54 + ["sft"] * 16
    evaluation = evaluate([prefers(n, model) for n, model in enumerate(models)], key(100), responses(100), seed=0)
    overall = evaluation.questions[-1]
    assert overall.pairs == overall.answers == Counts(wins=30, ties=54, losses=16)
    assert overall.win_rate is not None
    assert round(overall.win_rate.p_value, 3) == 0.054
    assert overall.win_rate.share == pytest.approx(30 / 46)
    assert overall.net.mean == pytest.approx(0.14)
    assert overall.alpha is None  # one annotator
    assert (evaluation.status, evaluation.labeled, evaluation.pairs) == ("complete", 100, 100)
    assert evaluation.required_sample_sizes[0].pairs is not None
    assert 180 < evaluation.required_sample_sizes[0].pairs < 200
    assert evaluation.questions[0].pairs == Counts(ties=100)
    assert evaluation.questions[0].win_rate is None


def test_unblinding_follows_the_key() -> None:
    entry = KeyEntry(id="i", prompt_id="p", a="sft", b="rlhf")
    assert unblind(judgement("i", overall="b"), entry) == {"helpfulness": 0, "harmlessness": 0, "overall": 1}
    assert unblind(judgement("i", overall="a"), entry)["overall"] == -1


def test_several_annotators_give_a_majority_per_pair() -> None:
    """i0: two for RLHF, one for SFT.  i1: one each.  i2: nobody."""
    judgements = [
        prefers(0, "rlhf", annotator="w1"),
        prefers(0, "rlhf", annotator="w2"),
        prefers(0, "sft", annotator="w3"),
        prefers(1, "rlhf", annotator="w1"),
        prefers(1, "sft", annotator="w2"),
    ]
    evaluation = evaluate(judgements, key(3), responses(3), seed=0)
    overall = evaluation.questions[-1]
    assert overall.pairs == Counts(wins=1, ties=1, losses=0)
    assert overall.answers == Counts(wins=3, ties=0, losses=2)
    assert overall.net.mean == pytest.approx(1 / 5)
    assert (evaluation.status, evaluation.labeled) == ("partial", 2)
    assert [(person.name, person.answers["overall"]) for person in evaluation.annotators] == [
        ("annotator 1", Counts(wins=2)),
        ("annotator 2", Counts(wins=1, losses=1)),
        ("annotator 3", Counts(losses=1)),
    ]
    assert [row.prompt for row in evaluation.disputed] == ["p001", "p000"]  # variance 1, then 8 / 9
    assert evaluation.disputed[1].votes == Counts(wins=2, losses=1)


def test_position_bias_is_the_share_of_left_answers() -> None:
    """Nine of ten answers without a tie choose the left one: 2 * (1 + 10) / 2^10 = 0.0215."""
    judgements = [judgement(f"i{n}", overall="a", left="b" if n == 9 else "a") for n in range(10)]
    evaluation = evaluate([*judgements, judgement("i10", overall="tie")], key(11), responses(11), seed=0)
    assert evaluation.left_preference is not None
    assert (evaluation.left_preference.share, evaluation.left_preference.n) == (0.9, 10)
    assert evaluation.left_preference.p_value == pytest.approx(22 / 1024)


def test_agreement_compares_the_votes_of_a_judge_with_majorities() -> None:
    """Both prefer one response in the pairs 0, 3, 15 and 16; they differ in 0.  Pair 29 is a tie for the machine."""
    assert evaluate([], key(30), responses(30), seed=0).agreement == {}
    people = [prefers(n, "rlhf") for n in (0, 15, 16, 29)] + [prefers(17, "tie"), prefers(3, "sft")]
    agreement = evaluate(people, key(30), responses(30), seed=0).agreement
    assert list(agreement) == ["optimised"]
    assert (agreement["optimised"].share, agreement["optimised"].n) == (0.75, 4)


def test_people_are_a_judge_whose_ties_count_as_half() -> None:
    models = ["rlhf"] * 30 + ["tie"] * 54 + ["sft"] * 16
    people = evaluate([prefers(n, model) for n, model in enumerate(models)], key(100), responses(100), 0).preference
    assert people is not None
    assert (people.kind, people.wins, people.ties, people.losses) == ("people", 30, 54, 16)
    assert people.win_rate.mean == pytest.approx(0.57)
    # the standard error of values 1, 1/2, 0 is sqrt((0.46 / 4 - 0.07^2) / 99) = 0.0333
    assert people.win_rate.ci95 == pytest.approx((0.57 - 1.98 * 0.0333, 0.57 + 1.98 * 0.0333), abs=0.003)
    assert people.win_rate.p_value == pytest.approx(0.054, abs=5e-4)
    assert people.length_controlled_win_rate.mean == pytest.approx(0.57, abs=0.005)


def test_times_are_medians() -> None:
    judgements = [judgement("i0", seconds=2.0), judgement("i1", seconds=30.0), judgement("i2", seconds=9.0)]
    assert evaluate(judgements, key(3), responses(3), seed=0).median_seconds == 9.0
