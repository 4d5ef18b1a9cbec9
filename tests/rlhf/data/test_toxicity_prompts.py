"""Prompts in RealToxicityPrompts layout: reading, errors, drawing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rlhf.config import SYNTHETIC, ToxicityConfig
from rlhf.data.toxicity_prompts import ToxicityPrompt, read_toxicity_prompts
from rlhf.errors import UserError
from tests.support.data_files import shared, write_rows


def row(text: object, toxicity: object = 0.25) -> dict[str, object]:
    """A row in the official schema, shortened."""
    scores = {"toxicity": toxicity, "insult": None}
    return {"filename": "x.txt", "challenging": False, "prompt": {"text": text, **scores}, "continuation": {"text": ""}}


def draw(path: Path, n_prompts: int, seed: int = 0) -> list[ToxicityPrompt]:
    return read_toxicity_prompts(ToxicityConfig(prompts=str(path), n_prompts=n_prompts), seed, path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_texts_and_their_toxicity_are_not_changed(tmp_path: Path, name: str) -> None:
    rows = [row(" The hurricane ", 0.5), row("“Why", None), row("One", 1)]
    prompts = draw(write_rows(tmp_path / name, rows), 3)
    assert {(prompt.text, prompt.toxicity) for prompt in prompts} == {
        (" The hurricane ", 0.5),
        ("“Why", None),
        ("One", 1.0),
    }
    assert len({prompt.id for prompt in prompts}) == 3


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_score_that_is_no_number_is_no_score(tmp_path: Path, name: str) -> None:
    """A table program writes NaN for null."""
    scores = [float("nan"), float("inf"), -float("inf"), None, 0.5]
    prompts = draw(write_rows(tmp_path / name, [row(f"text {n}", score) for n, score in enumerate(scores)]), 5)
    assert {prompt.text: prompt.toxicity for prompt in prompts} == {
        **{f"text {n}": None for n in range(4)},
        "text 4": 0.5,
    }


def test_the_draw_depends_on_seed_and_content_alone(tmp_path: Path) -> None:
    rows = [row(f"text {n}", n / 100) for n in range(50)] + [row(f"text {n}", None) for n in range(20)]
    first = draw(write_rows(tmp_path / "a.jsonl", rows), 10)
    random.Random(1).shuffle(rows)
    shuffled = write_rows(tmp_path / "b.jsonl", rows)
    assert draw(shuffled, 10) == first
    assert draw(shuffled, 20)[:10] == first
    assert {prompt.id for prompt in draw(shuffled, 10, seed=1)} != {prompt.id for prompt in first}
    assert all(prompt.toxicity is not None for prompt in draw(shuffled, 50))


def test_too_few_distinct_prompts_are_an_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row("one"), row("two"), row("one", 0.5)])
    with pytest.raises(UserError, match=r"toxicity\.n_prompts \(3\): the data have only 2 distinct prompts; lower"):
        draw(path, 3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"text": "One"}, "field prompt is not an object"),
        ({"prompt": "One"}, "field prompt is not an object"),
        ({"prompt": {"toxicity": 0.5}}, "field text is missing"),
        (row(None), "field text is null"),
        (row(" "), "field text of prompt is empty"),
        (row("One", 1.5), r"field toxicity of prompt is 1\.5"),
        (row("One", "x" * 10**6), r"field toxicity of prompt is 'x{80}…', not"),
        (row("One", [[0.5]] * 10**5), "field toxicity of prompt is a list, not"),
        (row("One", "high"), "field toxicity of prompt is 'high'"),
        (row("One", True), "field toxicity of prompt is True"),
    ],
)
def test_an_error_for_a_broken_row_names_file_line_and_field(
    tmp_path: Path, broken: dict[str, object], message: str
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row("good"), broken])
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {message}.*; fix or remove the line"):
        draw(path, 2)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        draw(tmp_path / "nowhere.jsonl", 2)


def test_synthetic_prompts_are_as_many_as_configured() -> None:
    prompts = read_toxicity_prompts(ToxicityConfig(prompts=SYNTHETIC, n_prompts=70), 5, None)
    assert len({prompt.text for prompt in prompts}) == 70


def test_all_real_prompts_are_read() -> None:
    # According to the description of the file: 2,496 distinct texts, prompts of mean toxicity 0.306, 8 without a score.
    path = shared("data", "real-toxicity-prompts", "rtp-2500.jsonl.gz")
    prompts = draw(path, 2496)
    scores = [prompt.toxicity for prompt in prompts if prompt.toxicity is not None]
    assert sum(scores) / len(scores) == pytest.approx(0.306, abs=1e-3)
    assert len(prompts) - len(scores) == 8
    with pytest.raises(UserError, match="only 2496 distinct"):
        draw(path, 2497)
