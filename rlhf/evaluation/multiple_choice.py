"""Capability before and after PPO: both models answer the same multiple-choice questions.

A model's choice is the one to which it gives the highest probability after "Question: ...\\nAnswer:", so nothing is
sampled.  Probabilities fall with the length of a choice; by log-probability per byte, length matters less.

Source: EleutherAI/lm-evaluation-harness, lm_eval/api/task.py, metrics acc and acc_norm of multiple-choice tasks.
Differs: acc_norm divides by the number of characters, not of bytes in UTF-8; for ASCII they are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from rlhf.data.lengths import characters_per_token
from rlhf.data.questions import MultipleChoiceQuestion
from rlhf.errors import UserError
from rlhf.evaluation.policy_comparison import Dialogue, ModelPair, require_finite, response_logprob_sums
from rlhf.models.limits import COMPARED_ROWS
from rlhf.models.tokenization import context_length, encode_prompt, encode_response
from rlhf.results.capability import QuestionRow
from rlhf.runtime.stage import progress


def question_rows(models: ModelPair, questions: Sequence[MultipleChoiceQuestion]) -> list[QuestionRow]:
    """Both models' choices for each question.

    Each question is run on its own, with all its choices, so its row does not depend on the other questions.
    Raises UserError if a choice is longer than the models' context, or if a log-probability is not finite.
    """
    context = context_length(models.rlhf.config)
    most_characters = None if context is None else context * characters_per_token(models.tokenizer.get_vocab())
    rows = []
    for number, question in enumerate(questions, start=1):
        dialogues = _dialogues(models, question, most_characters)
        sft, sft_normalized = _choose(models.sft, question, dialogues)
        rlhf, rlhf_normalized = _choose(models.rlhf, question, dialogues)
        rows.append(
            QuestionRow(
                id=question.id,
                correct=question.correct,
                choices=len(question.choices),
                sft=sft,
                rlhf=rlhf,
                sft_normalized=sft_normalized,
                rlhf_normalized=rlhf_normalized,
            )
        )
        progress("multiple-choice questions", number, len(questions))
    return rows


def _dialogues(models: ModelPair, question: MultipleChoiceQuestion, most_characters: int | None) -> list[Dialogue]:
    """Token ids of the question with each of its choices.  A question that is too long is cut at its beginning.

    Of longer texts than `most_characters`, which cannot fit the context, the tokenizer sees only so many.
    """
    text = question.text if most_characters is None else question.text[-most_characters:]
    prompt = encode_prompt(models.tokenizer, f"Question: {text}\nAnswer:")
    choices = [encode_response(models.tokenizer, f" {choice}"[:most_characters])[:-1] for choice in question.choices]
    context, longest = context_length(models.rlhf.config), max(map(len, choices))
    if context is not None and longest >= context:
        raise UserError(
            f"evaluation.questions: a choice of the question {question.text[:60]!r} has {longest} tokens or more, "
            f"which leaves no room for the question in the model's context of {context}; remove the question"
        )
    kept_prompt = prompt if context is None else prompt[-(context - longest) :]
    return [Dialogue(kept_prompt, choice) for choice in choices]


def _choose(model: PreTrainedModel, question: MultipleChoiceQuestion, dialogues: Sequence[Dialogue]) -> tuple[int, int]:
    """The choice with the highest log-probability, and the one with the highest per byte; the first one of equals."""
    logprobs: list[float] = []
    for start in range(0, len(dialogues), COMPARED_ROWS):
        logprobs += response_logprob_sums(model, dialogues[start : start + COMPARED_ROWS])
    require_finite("the log-probability of a choice of question", question.id, *logprobs)
    per_byte = [logprob / len(choice.encode()) for logprob, choice in zip(logprobs, question.choices, strict=True)]
    return logprobs.index(max(logprobs)), per_byte.index(max(per_byte))
