"""Figures of human evaluation, worked by hand."""

from __future__ import annotations

import pytest

from rlhf.evaluation.human_preference import evaluate, unblind
from rlhf.labeling.judgements import Judgement
from rlhf.labeling.manifest import KeyLine
from rlhf.results.human_evaluation import Counts
from tests.support.finished_run import judgement


def key(items: int) -> dict[str, KeyLine]:
    """A is RLHF in the even items."""
    return {
        f"i{n}": KeyLine(
            item=f"i{n}", id=f"p{n:03d}", a="rlhf" if n % 2 == 0 else "sft", b="sft" if n % 2 == 0 else "rlhf"
        )
        for n in range(items)
    }


def rewards(items: int) -> dict[str, tuple[float, float]]:
    """RLHF's reward is higher in all but the first ten items, where it is lower, and the last, where it is equal."""
    return {f"p{n:03d}": (0.0, -1.0 if n < 10 else 0.0 if n == items - 1 else 1.0) for n in range(items)}


def prefers(n: int, model: str, annotator: str = "w1") -> Judgement:
    """A judgement on item n that prefers `model` overall."""
    wrote = key(n + 1)[f"i{n}"]
    overall = "tie" if model == "tie" else "a" if wrote.a == model else "b"
    return judgement(f"i{n}", annotator, overall)


def test_the_published_counts_give_the_published_p() -> None:
    models = ["rlhf"] * 30 + ["tie"] * 54 + ["sft"] * 16
    found = evaluate([prefers(n, model) for n, model in enumerate(models)], key(100), rewards(100), seed=0)
    overall = found.questions[-1]
    assert overall.items == overall.answers == Counts(better=30, tie=54, worse=16)
    assert overall.decided is not None
    assert round(overall.decided.p_value, 3) == 0.054
    assert overall.decided.share == pytest.approx(30 / 46)
    assert overall.net.mean == pytest.approx(0.14)
    assert overall.alpha is None  # one annotator
    assert (found.status, found.labelled, found.items) == ("complete", 100, 100)
    assert found.needed[0].items is not None
    assert 180 < found.needed[0].items < 200
    assert found.questions[0].items == Counts(tie=100)
    assert found.questions[0].decided is None


def test_unblinding_follows_the_key() -> None:
    line = KeyLine(item="i", id="p", a="sft", b="rlhf")
    assert unblind(judgement("i", overall="b"), line) == {"helpfulness": 0, "harmlessness": 0, "overall": 1}
    assert unblind(judgement("i", overall="a"), line)["overall"] == -1


def test_several_annotators_are_a_majority_per_item() -> None:
    """i0: two for RLHF, one for SFT.  i1: one each.  i2: nobody."""
    judgements = [
        prefers(0, "rlhf", annotator="w1"),
        prefers(0, "rlhf", annotator="w2"),
        prefers(0, "sft", annotator="w3"),
        prefers(1, "rlhf", annotator="w1"),
        prefers(1, "sft", annotator="w2"),
    ]
    found = evaluate(judgements, key(3), rewards(3), seed=0)
    overall = found.questions[-1]
    assert overall.items == Counts(better=1, tie=1, worse=0)
    assert overall.answers == Counts(better=3, tie=0, worse=2)
    assert overall.net.mean == pytest.approx(1 / 5)
    assert (found.status, found.labelled) == ("partial", 2)
    assert [(person.name, person.answers["overall"]) for person in found.annotators] == [
        ("annotator 1", Counts(better=2)),
        ("annotator 2", Counts(better=1, worse=1)),
        ("annotator 3", Counts(worse=1)),
    ]
    assert [row.prompt for row in found.disputed] == ["p001", "p000"]  # variance 1, then 8 / 9
    assert found.disputed[1].votes == Counts(better=2, worse=1)


def test_position_bias_counts_the_left() -> None:
    """Nine of ten answers without a tie are the left one: 2 * (1 + 10) / 2^10 = 0.0215."""
    judgements = [judgement(f"i{n}", overall="a", left="b" if n == 9 else "a") for n in range(10)]
    found = evaluate([*judgements, judgement("i10", overall="tie")], key(11), rewards(11), seed=0)
    assert found.left is not None
    assert (found.left.share, found.left.n) == (0.9, 10)
    assert found.left.p_value == pytest.approx(22 / 1024)


def test_the_judge_is_the_reward_on_the_same_pairs() -> None:
    pending = evaluate([], key(30), rewards(30), seed=0)
    assert pending.status == "pending"
    assert pending.judge is not None
    assert pending.judge.items == Counts(better=19, tie=1, worse=10)
    assert pending.judge.agreement is None
    people = [prefers(n, "rlhf") for n in (0, 15, 16, 29)] + [prefers(17, "tie"), prefers(3, "sft")]
    judge = evaluate(people, key(30), rewards(30), seed=0).judge
    assert judge is not None
    assert judge.agreement is not None
    assert (judge.agreement.share, judge.agreement.n) == (0.75, 4)  # both prefer one in 0, 3, 15, 16; 0 differs


def test_times_are_medians() -> None:
    judgements = [judgement("i0", seconds=2.0), judgement("i1", seconds=30.0), judgement("i2", seconds=9.0)]
    assert evaluate(judgements, key(3), rewards(3), seed=0).median_seconds == 9.0
