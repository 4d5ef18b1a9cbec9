"""Choices of both models against log-likelihoods computed another way, and their summary by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.data.questions import MultipleChoiceQuestion, read_questions
from rlhf.errors import UserError
from rlhf.evaluation.capability import capability_results
from rlhf.evaluation.multiple_choice import question_rows
from rlhf.evaluation.policy_comparison import ModelPair
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import load_tokenizer
from rlhf.results.capability import QuestionRow
from tests.support.tiny_models import CONTEXT, tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny models with different weights."""
    root = tmp_path_factory.mktemp("models")
    return tiny_model(root / "sft", seed=0), tiny_model(root / "rlhf", seed=1)


@pytest.fixture
def models(folders: tuple[Path, Path]) -> ModelPair:
    sft, rlhf = folders
    return ModelPair(load_tokenizer(sft), load_causal_lm(sft, "float32"), load_causal_lm(rlhf, "float32"))


def questions() -> list[MultipleChoiceQuestion]:
    """Synthetic questions, and one with choices of very different lengths, more than are run at once."""
    lengths = tuple("rice and eggs " * count + str(count) for count in range(1, 11))
    return [*read_questions("synthetic", 0, None)[:20], MultipleChoiceQuestion("many", "How many?", lengths, 3)]


def likeliest(folder: Path, question: MultipleChoiceQuestion) -> tuple[int, int]:
    """The model's choice by the loss of transformers, one unpadded choice at a time, in sum and per byte."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    sums = []
    prompt = tokenizer(f"Question: {question.text}\nAnswer:").input_ids
    for choice in question.choices:
        answer = tokenizer(f" {choice}", add_special_tokens=False).input_ids
        with torch.no_grad():
            loss = model(
                input_ids=torch.tensor([prompt + answer]), labels=torch.tensor([[-100] * len(prompt) + answer])
            )
        sums.append(-float(loss.loss) * len(answer))
    per_byte = [total / len(choice.encode()) for total, choice in zip(sums, question.choices, strict=True)]
    return max(range(len(sums)), key=sums.__getitem__), max(range(len(sums)), key=per_byte.__getitem__)


def test_choices_are_those_of_unpadded_log_likelihoods(folders: tuple[Path, Path], models: ModelPair) -> None:
    rows = question_rows(models, questions())
    for question, row in zip(questions(), rows, strict=True):
        assert (row.id, row.correct, row.choices) == (question.id, question.correct, len(question.choices))
        assert (row.sft, row.sft_normalized) == likeliest(folders[0], question)
        assert (row.rlhf, row.rlhf_normalized) == likeliest(folders[1], question)
    assert any(row.sft != row.sft_normalized for row in rows)
    assert any(row.sft != row.rlhf for row in rows)


def test_a_model_that_knows_nothing_prefers_few_tokens_or_few_tokens_per_byte(models: ModelPair) -> None:
    """Every token has probability 1 / V, so the choice with the fewest tokens wins in sum.

    The tokens are a space and each byte: 2, 5 and 13, or 2, 1.25 and 1.08 per byte.  Per character, the last choice
    would have 2.17 and lose against the second.
    """
    for model in (models.sft, models.rlhf):
        model.lm_head.weight.data.zero_()
        model.lm_head.bias.data.zero_()
    choices = ("x", "xxxx", "éééééé")
    tokens = [len(models.tokenizer(f" {choice}", add_special_tokens=False).input_ids) for choice in choices]
    assert tokens == [2, 5, 13]
    (row,) = question_rows(models, [MultipleChoiceQuestion("q", "Which?", choices, 1)])
    assert (row.sft, row.rlhf) == (0, 0)
    assert (row.sft_normalized, row.rlhf_normalized) == (2, 2)


def test_a_row_does_not_depend_on_other_questions(models: ModelPair) -> None:
    rows = question_rows(models, questions())
    assert question_rows(models, questions()[::-1]) == rows[::-1]


def test_a_question_longer_than_the_context_keeps_its_end(models: ModelPair) -> None:
    """Its beginning does not matter; a choice that fills the context is an error."""
    choices = ("rice and eggs", "the blue sky")
    end = "x" * CONTEXT
    ends = [MultipleChoiceQuestion("q", begin + end, choices, 0) for begin in ("", "y" * 300)]
    first, second = question_rows(models, ends)
    assert first == second
    [megabytes] = question_rows(models, [MultipleChoiceQuestion("q", "y " * 2**21 + end, choices, 0)])
    assert megabytes == first
    with pytest.raises(
        UserError, match=rf"a choice of the question 'Which\?' has \d+ tokens or more, .* context of {CONTEXT}"
    ):
        question_rows(models, [MultipleChoiceQuestion("q", "Which?", ("x" * CONTEXT, "y"), 0)])


def test_weights_that_are_not_finite_are_reported(models: ModelPair) -> None:
    models.rlhf.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="log-probability of a choice of question many is nan"):
        question_rows(models, questions()[-1:])


def row(correct: int, sft: int, rlhf: int, choices: int = 4) -> QuestionRow:
    """A row; per byte, the SFT model chooses the first and the RLHF model the second choice."""
    return QuestionRow(
        id=f"{correct} {sft} {rlhf}",
        correct=correct,
        choices=choices,
        sft=sft,
        rlhf=rlhf,
        sft_normalized=0,
        rlhf_normalized=1,
    )


def test_the_summary_by_hand() -> None:
    """Of 10 questions, both models get 3 right, only SFT 5, only RLHF 1, none 1.

    McNemar: 1 of 6 or fewer, twice: 2 x (1 + 6) / 64.  Wilson's interval of 8 of 10 is 0.490 to 0.943.
    Chance: 8 questions of 4 choices and 2 of 2.
    """
    rows = [row(0, 0, 0)] * 3 + [row(1, 1, 0)] * 5 + [row(0, 1, 0, choices=2)] + [row(0, 1, 1, choices=2)]
    results = capability_results(rows, seed=0)
    assert results.questions == 10
    assert (results.sft.share, results.rlhf.share) == pytest.approx((0.8, 0.4))
    assert results.sft.ci95 == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert results.difference.mean == pytest.approx(-0.4)
    assert results.difference.p_value == pytest.approx(2 * 7 / 64)
    assert results.difference.ci95[0] < -0.4 < results.difference.ci95[1]
    assert results.chance == pytest.approx((8 / 4 + 2 / 2) / 10)
    assert (results.normalized.sft.share, results.normalized.rlhf.share) == pytest.approx((0.5, 0.5))


def test_equal_models_do_not_differ() -> None:
    results = capability_results([row(0, 0, 0), row(0, 1, 1)], seed=0)
    assert (results.difference.mean, results.difference.ci95, results.difference.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_a_row_with_an_impossible_choice_is_rejected() -> None:
    with pytest.raises(ValueError, match="choice 4 of 4 choices, counted from 0"):
        row(4, 0, 0)
