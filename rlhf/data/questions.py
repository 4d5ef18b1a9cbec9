"""Multiple-choice questions, which show whether a model keeps its knowledge: the user's file, or synthetic ones.

A row has the fields `question`, `choices` and an answer, in one of two layouts:

- `choices` is a list of texts and `answer` is the index of one of them, counted from 0 (as in MMLU), its letter (A is
  the first), or its text;
- `choices` is an object with the lists `text` and `label`, and `answerKey` is one of the labels (as in ARC).

Spaces around texts do not count.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from rlhf.config import SYNTHETIC
from rlhf.data.files import find_files
from rlhf.data.readers import read_rows
from rlhf.data.rows import Row, UnreadableLineError, listed, shown, text_field
from rlhf.data.synthetic import synthetic_questions
from rlhf.errors import UserError
from rlhf.storage.fingerprints import digest

SYNTHETIC_QUESTIONS = 60
FIELDS = ("question", "choices", "answer", "answerKey")
"""Fields of a row that are read."""


class MultipleChoiceQuestion(NamedTuple):
    """A question, at least two different choices, and the index of the correct one."""

    id: str
    text: str
    choices: tuple[str, ...]
    correct: int


def read_questions(source: str, seed: int, path: Path | None) -> list[MultipleChoiceQuestion]:
    """The questions that the setting evaluation.questions names, in the order of the file.

    `source` is the setting, `path` the user's file if the setting names one; `seed` draws synthetic questions.  Raises
    UserError with file and line if a row is not a question, or the same question as an earlier one.
    """
    if source == SYNTHETIC:
        return [parse_question(row) for row in synthetic_questions(SYNTHETIC_QUESTIONS, seed)]
    questions: dict[str, MultipleChoiceQuestion] = {}
    for file in find_files(path or Path(source)):
        for number, row in read_rows(file, FIELDS):
            try:
                question = parse_question(row)
                if question.id in questions:
                    raise UnreadableLineError("the same question and choices as in an earlier line")
            except UnreadableLineError as problem:
                raise UserError(
                    f"evaluation.questions: {file}:{number}: {problem}; fix or remove the line"
                ) from problem
            questions[question.id] = question
    return list(questions.values())


def parse_question(row: Row) -> MultipleChoiceQuestion:
    """The question in a row.  Raises UnreadableLineError, which names the field, if the row has none."""
    if isinstance(row, UnreadableLineError):
        raise row
    text = _nonblank(row, "question")
    content = row.get("choices")
    if isinstance(content, dict):
        choices = _texts(content.get("text"), "text of choices")
        correct = _labeled(_texts(content.get("label"), "label of choices"), choices, _nonblank(row, "answerKey"))
    else:
        choices = _texts(content, "choices")
        correct = _indexed(choices, row)
    return MultipleChoiceQuestion(digest([text, choices])[:16], text, tuple(choices), correct)


def _texts(values: object, field: str) -> list[str]:
    """At least two different texts."""
    if not isinstance(values, list):
        raise UnreadableLineError(f"field {field} is not a list of texts")
    texts = [_nonblank({f"{field}[{index}]": value}, f"{field}[{index}]") for index, value in enumerate(values)]
    if len(texts) < 2:
        raise UnreadableLineError(f"field {field} has {len(texts)} entries, not at least 2")
    if len(set(texts)) < len(texts):
        repeated = Counter(texts).most_common(1)[0][0]
        raise UnreadableLineError(f"field {field} contains {shown(repeated)} twice")
    return texts


def _labeled(labels: list[str], choices: list[str], answer: str) -> int:
    if len(labels) != len(choices):
        raise UnreadableLineError(f"field choices has {len(choices)} texts, but {len(labels)} labels")
    if answer not in labels:
        raise UnreadableLineError(f"field answerKey is {shown(answer)}, not one of the labels {listed(labels)}")
    return labels.index(answer)


def _indexed(choices: list[str], row: dict[str, object]) -> int:
    answer = row.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(choices):
            raise UnreadableLineError(f"field answer is {answer}, not an index from 0 to {len(choices) - 1}")
        return answer
    answer = _nonblank(row, "answer")
    letters = list(ascii_uppercase[: len(choices)])
    meanings = {names.index(answer) for names in (letters, choices) if answer in names}
    if not meanings:
        raise UnreadableLineError(
            f"field answer is {shown(answer)}, not an index, a letter from A to {letters[-1]} or the text of a choice"
        )
    if len(meanings) > 1:
        raise UnreadableLineError(
            f"field answer is {shown(answer)}, the letter of one choice and the text of another; give the index from 0"
        )
    return meanings.pop()


def _nonblank(row: dict[str, object], field: str) -> str:
    text = text_field(row, field).strip()
    if not text:
        raise UnreadableLineError(f"field {field} is empty")
    return text
