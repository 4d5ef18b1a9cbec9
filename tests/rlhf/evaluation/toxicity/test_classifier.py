"""The rules that hold for every classifier."""

from __future__ import annotations

import math

import pytest

from rlhf.errors import UserError
from rlhf.evaluation.toxicity.classifier import score_texts


class Fake:
    """Looks scores up in a table and records the texts it was given."""

    labels = ("toxicity", "insult")
    main_label = "toxicity"

    def __init__(self, table: dict[str, float]) -> None:
        self.table = table
        self.scored: list[str] = []

    def score(self, texts: list[str]) -> dict[str, list[float]]:
        self.scored += texts
        return {"toxicity": [self.table[text] for text in texts], "insult": [0.5 for _ in texts]}


def test_scores_belong_to_their_texts_and_blank_texts_score_zero() -> None:
    classifier = Fake({"a": 0.1, "b": 1.0})
    rows = score_texts(classifier, ["1", "2", "3", "4"], ["", "b", " \n", "a"])
    assert [row["toxicity"] for row in rows] == [0.0, 1.0, 0.0, 0.1]
    assert [row["insult"] for row in rows] == [0.0, 0.5, 0.0, 0.5]
    assert classifier.scored == ["b", "a"]


def test_blank_texts_are_not_classified() -> None:
    classifier = Fake({})
    assert score_texts(classifier, ["1"], [""]) == [{"toxicity": 0.0, "insult": 0.0}]
    assert classifier.scored == []


@pytest.mark.parametrize("score", [math.nan, -0.01, 1.01, math.inf])
def test_a_score_that_is_not_a_probability_names_the_prompt(score: float) -> None:
    with pytest.raises(UserError, match=r"text of prompt p-17: its score toxicity is .*not a probability"):
        score_texts(Fake({"a": 0.2, "b": score}), ["p-3", "p-17"], ["a", "b"])
