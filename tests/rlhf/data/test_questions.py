"""Multiple-choice questions: the layouts of well-known files, errors with file and line, synthetic ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.data.questions import MultipleChoiceQuestion, read_questions
from rlhf.data.synthetic import synthetic_corpus, synthetic_pairs
from rlhf.data.synthetic_words import TOPICS
from rlhf.errors import UserError
from tests.support.data_files import write_rows

CHOICES = ["Mars", "Venus", "Jupiter"]
MMLU: dict[str, object] = {
    "question": "Which planet is largest?",
    "subject": "astronomy",
    "choices": CHOICES,
    "answer": 2,
}
ARC: dict[str, object] = {
    "id": "Mercury_1",
    "question": "Which planet is largest?",
    "choices": {"text": CHOICES, "label": ["A", "B", "C"]},
    "answerKey": "C",
}


def read(path: Path) -> list[MultipleChoiceQuestion]:
    return read_questions(str(path), 0, path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize(
    "row",
    [
        MMLU,
        MMLU | {"answer": "C"},
        MMLU | {"answer": "Jupiter"},
        MMLU | {"answer": " Jupiter "},
        MMLU | {"question": " Which planet is largest?\n", "choices": [" Mars", "Venus ", "Jupiter"]},
        ARC,
        ARC | {"choices": {"text": CHOICES, "label": ["1", "2", "3"]}, "answerKey": "3"},
    ],
)
def test_every_layout_is_the_same_question(tmp_path: Path, name: str, row: dict[str, object]) -> None:
    (question,) = read(write_rows(tmp_path / name, [row]))
    assert question[1:] == ("Which planet is largest?", ("Mars", "Venus", "Jupiter"), 2)
    assert question.id == read(write_rows(tmp_path / "b.jsonl", [MMLU]))[0].id


def test_the_labels_decide_not_the_order_of_letters(tmp_path: Path) -> None:
    row = ARC | {"choices": {"text": CHOICES, "label": ["C", "A", "B"]}}
    assert read(write_rows(tmp_path / "a.jsonl", [row]))[0].correct == 0


def test_questions_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [MMLU | {"question": f"Question {number}?"} for number in (3, 1, 2)]
    questions = read(write_rows(tmp_path / "a.jsonl", [*rows, MMLU | {"choices": ["Mars", "Jupiter"], "answer": 1}]))
    assert [question.text[-2] for question in questions] == ["3", "1", "2", "t"]
    assert len({question.id for question in questions}) == 4


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"choices": CHOICES, "answer": 0}, "field question is missing"),
        (MMLU | {"question": " "}, "field question is empty"),
        (MMLU | {"question": 3}, "field question is a number, not text"),
        (MMLU | {"choices": "Mars"}, "field choices is not a list of texts"),
        (MMLU | {"choices": ["Mars"], "answer": 0}, "field choices has 1 entries, not at least 2"),
        (MMLU | {"choices": ["Mars", ""]}, r"field choices\[1\] is empty"),
        (MMLU | {"choices": ["Mars", None]}, r"field choices\[1\] is null, not text"),
        (MMLU | {"choices": ["Mars", "Venus", "Mars "]}, "field choices contains 'Mars' twice"),
        ({"question": "q", "choices": CHOICES}, "field answer is missing"),
        (MMLU | {"answer": 3}, "field answer is 3, not an index from 0 to 2"),
        (MMLU | {"answer": -1}, "field answer is -1, not an index from 0 to 2"),
        (MMLU | {"answer": True}, "field answer is a truth value, not text"),
        (MMLU | {"answer": 1.0}, "field answer is a number, not text"),
        (MMLU | {"answer": "D"}, "field answer is 'D', not an index, a letter from A to C or the text of a choice"),
        (MMLU | {"answer": "2"}, "field answer is '2', not an index"),
        (
            MMLU | {"choices": ["B", "A"], "answer": "A"},
            "field answer is 'A', the letter of one choice and the text of another; give the index from 0",
        ),
        (ARC | {"answerKey": "D"}, "field answerKey is 'D', not one of the labels A, B, C"),
        (ARC | {"answerKey": None}, "field answerKey is null, not text"),
        (ARC | {"choices": {"text": CHOICES, "label": ["A", "B"]}}, "field choices has 3 texts, but 2 labels"),
        (ARC | {"choices": {"text": CHOICES}}, "field label of choices is not a list of texts"),
        (ARC | {"choices": {"text": CHOICES, "label": ["A", "B", "A"]}}, "field label of choices contains 'A' twice"),
        (MMLU, "the same question and choices as in an earlier line"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, broken: dict[str, object], message: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [MMLU, broken])
    with pytest.raises(UserError, match=rf"evaluation\.questions: .*a\.jsonl:2: {message}.*; fix or remove the line"):
        read(path)


def test_an_error_quotes_only_the_beginning_of_a_long_value(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [MMLU | {"answer": "x" * 10**6}])
    with pytest.raises(UserError, match=r"field answer is 'x{80}…', not an index"):
        read(path)
    labels = [str(number) for number in range(500)]
    path = write_rows(tmp_path / "a.jsonl", [ARC | {"choices": {"text": labels, "label": labels}}])
    with pytest.raises(UserError, match=r"not one of the labels 0, 1, .*, 19, …; fix"):
        read(path)


@pytest.mark.timeout(20)
def test_very_many_choices_are_read_in_seconds(tmp_path: Path) -> None:
    choices = [str(number) for number in range(200_000)]
    [question] = read(write_rows(tmp_path / "a.jsonl", [MMLU | {"choices": choices, "answer": 199_999}]))
    assert question.correct == 199_999


def test_a_letter_that_is_also_the_text_of_its_own_choice_is_clear(tmp_path: Path) -> None:
    row = MMLU | {"choices": ["A", "B"], "answer": "B"}
    assert read(write_rows(tmp_path / "a.jsonl", [row]))[0].correct == 1


def test_a_line_that_is_not_json_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q"\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1: broken JSON"):
        read(path)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "nowhere.jsonl")


def test_synthetic_questions_have_one_choice_of_the_right_topic() -> None:
    """The right choice is advice of the topic whose object the question names; the others are of other topics."""
    questions = read_questions("synthetic", 5, None)
    assert questions == read_questions("synthetic", 5, None) != read_questions("synthetic", 6, None)
    assert len({question.text for question in questions}) == len({question.id for question in questions}) == 60
    for question in questions:
        (thing,) = {
            thing for topic in TOPICS for thing in topic.objects if all(thing in choice for choice in question.choices)
        } & set(question.text.replace("?", " ").replace(".", " ").replace(",", " ").split())
        advice = [{tip.format(x=thing) for tip in topic.tips} for topic in TOPICS if thing in topic.objects]
        assert [question.choices[index] in advice[0] for index in range(4)] == [
            index == question.correct for index in range(4)
        ]
    assert {question.correct for question in questions} == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", [0, 1])
def test_no_synthetic_question_is_in_the_data_that_models_are_trained_on(seed: int) -> None:
    """No first turn of a dialogue is one of them, however many are drawn."""
    texts = [*synthetic_corpus(4000, seed), *(pair["chosen"] for pair in synthetic_pairs(4000, seed))]
    first_turns = {text.removeprefix("\n\nHuman: ").split("\n\nAssistant:")[0] for text in texts}
    assert len(first_turns) > 5000
    questions = {question.text for number in range(20) for question in read_questions("synthetic", number, None)}
    assert len(questions) > 900
    assert questions.isdisjoint(first_turns)
