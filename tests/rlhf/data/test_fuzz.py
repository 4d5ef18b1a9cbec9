"""Any bytes in a data file, any values in its rows: rows, reasons to drop them, or one line for the user."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rlhf.config import DataConfig, ToxicityConfig
from rlhf.data.dialogues import Pair, first_human_turn, join_responses, read_pairs, split_dialogues, split_turns
from rlhf.data.questions import MultipleChoiceQuestion, read_questions
from rlhf.data.splits import normalize_text
from rlhf.data.toxicity_prompts import ToxicityPrompt, read_toxicity_prompts
from rlhf.errors import UserError
from tests.support.data_files import hh_row

Item = TypeVar("Item")
bounded = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.timeout(120)

any_text = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(), max_size=6),  # also lone surrogates and NUL
    st.text(st.sampled_from("\r\n \t:\u2028\x0b.aHumanAssistant"), max_size=40),
    st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "\r\n\r\nHuman:", " x", "\n", ""]), max_size=7).map(
        "".join
    ),
)
json_leaves = st.one_of(any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**105))
json_values = st.recursive(
    json_leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4), max_leaves=8
)
used_names = st.sampled_from(
    ["chosen", "rejected", "prompt", "text", "toxicity", "question", "choices", "label", "answer", "answerKey"]
)
row_values = st.dictionaries(used_names | any_text, json_values, max_size=6)
nearly_right = st.one_of(
    st.fixed_dictionaries({"chosen": any_text, "rejected": any_text}, optional={"prompt": json_values}),
    st.fixed_dictionaries({"prompt": st.fixed_dictionaries({"text": json_values, "toxicity": json_values})}),
    st.fixed_dictionaries(
        {"question": any_text, "choices": st.lists(any_text, max_size=4) | json_values},
        optional={"answer": json_values, "answerKey": json_values},
    ),
)
json_lines = st.lists(st.one_of(row_values, nearly_right).map(json.dumps), max_size=6).map("\n".join)


def read_dialogues(path: Path) -> None:
    """Every row gives a pair or a reason; with `skip`, only faults of the file end the reading."""
    for on_bad_row in ("error", "skip"):
        config = DataConfig.model_validate({"source": str(path), "on_bad_row": on_bad_row})
        items = expect_one_line(partial(read_all_pairs, config, path))
        assert all(isinstance(item, Pair | str) for item in items)


def read_all_pairs(config: DataConfig, path: Path) -> list[Pair | str]:
    return list(read_pairs(config, 0, path))


def read_prompts(path: Path) -> None:
    config = ToxicityConfig(prompts=str(path), n_prompts=2)
    prompts = expect_one_line(lambda: read_toxicity_prompts(config, 0, path))
    assert all(isinstance(prompt, ToxicityPrompt) for prompt in prompts)
    assert all(prompt.toxicity is None or 0 <= prompt.toxicity <= 1 for prompt in prompts)


def read_multiple_choice(path: Path) -> None:
    questions = expect_one_line(lambda: read_questions(str(path), 0, path))
    for question in questions:
        assert isinstance(question, MultipleChoiceQuestion)
        assert 0 <= question.correct < len(question.choices)


def expect_one_line(read: Callable[[], list[Item]]) -> list[Item]:
    """What `read` returns; nothing if it raises the error that users see, in one short line that can be printed."""
    try:
        return read()
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 2000
        message.encode()
        return []


readers = pytest.mark.parametrize("read", [read_dialogues, read_prompts, read_multiple_choice])
Reader = Callable[[Path], None]


@readers
@bounded
@given(content=st.one_of(st.binary(max_size=60), json_lines.map(str.encode)))
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_any_bytes(tmp_path: Path, name: str, read: Reader, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    read(tmp_path / name)


@readers
@bounded
@given(content=json_lines, cut=st.integers(0, 40), change=st.tuples(st.integers(0, 300), st.integers(0, 255)))
def test_damaged_gzip_data(tmp_path: Path, read: Reader, content: str, cut: int, change: tuple[int, int]) -> None:
    damaged = bytearray(gzip.compress(content.encode(), mtime=0))
    if change[0] < len(damaged):
        damaged[change[0]] = change[1]
    (tmp_path / "a.jsonl.gz").write_bytes(damaged[: len(damaged) - cut])
    read(tmp_path / "a.jsonl.gz")


@pytest.fixture(scope="module")
def parquet_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A parquet file with the columns of all readers."""
    rows = [
        {
            **hh_row(str(number)),
            "question": f"q {number}",
            "choices": ["a", "b"],
            "answer": number % 2,
            "prompt": {"text": f"text {number}", "toxicity": 0.5},
        }
        for number in range(20)
    ]
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


@readers
@bounded
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8), cut=st.integers(0, 5))
def test_damaged_parquet_data(
    tmp_path: Path, parquet_bytes: bytes, read: Reader, changes: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(parquet_bytes)
    for place, value in changes:
        damaged[4 + place % (len(damaged) - 12)] = value
    (tmp_path / "a.parquet").write_bytes(damaged[: len(damaged) - cut])
    read(tmp_path / "a.parquet")


columns = st.dictionaries(
    used_names,
    st.one_of(
        st.lists(st.none() | any_text.filter(lambda text: text.isascii()), min_size=3, max_size=3),
        st.lists(st.none() | st.binary(max_size=4), min_size=3, max_size=3),
        st.lists(st.none() | st.floats(), min_size=3, max_size=3),
        st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=3, max_size=3),
        st.lists(st.none() | st.lists(st.text(st.characters(codec="utf-8"), max_size=3)), min_size=3, max_size=3),
        st.lists(st.none() | st.datetimes(), min_size=3, max_size=3),
        st.lists(
            st.fixed_dictionaries({"text": st.none() | st.just("a"), "toxicity": st.none() | st.floats()}),
            min_size=3,
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=4,
)


@readers
@bounded
@given(table=columns)
def test_parquet_columns_of_any_type(tmp_path: Path, read: Reader, table: dict[str, list[object]]) -> None:
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    read(tmp_path / "a.parquet")


names = st.sampled_from(["a", "b.jsonl", ".x", "c.csv", "d.jsonl.gz", "e\nf.jsonl", "__MACOSX", "g.parquet", "\udcff"])
kinds = st.sampled_from(["file", "folder", "link", "pipe"])


@readers
@settings(bounded, max_examples=25)
@given(entries=st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), kinds, names), max_size=8))
def test_folders_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory, read: Reader, entries: list[tuple[list[str], str, str]]
) -> None:
    """Files, folders, pipes and links to anything, also to folders above."""
    root = tmp_path_factory.mktemp("folder")
    for parts, kind, target in entries:
        path = root.joinpath(*parts)
        if os.path.lexists(path) or not all(not os.path.lexists(p) or p.is_dir() for p in path.parents if p != root):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_text(json.dumps(hh_row("Why?")) + "\n")
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(root if target == "a" else target)
    read(root)


@settings(max_examples=200, deadline=None)
@given(chosen=any_text, rejected=any_text, prompt=any_text)
def test_a_pair_is_well_formed_and_made_of_its_texts(chosen: str, rejected: str, prompt: str) -> None:
    for pair in (split_dialogues(prompt + chosen, prompt + rejected), join_responses(prompt, chosen, rejected)):
        if isinstance(pair, Pair):
            assert pair.prompt.startswith("\n\nHuman:")
            assert pair.prompt.endswith("\n\nAssistant:")
            assert pair.chosen != pair.rejected
            assert not any(marker in text for marker in ("\n\nHuman:", "\n\nAssistant:") for text in pair[1:])
            assert pair.prompt.rstrip() in prompt + chosen
            normalize_text(first_human_turn(pair.prompt))


@settings(max_examples=200, deadline=None)
@given(text=any_text)
def test_the_turns_of_any_text_hold_all_of_it_but_markers_and_space(text: str) -> None:
    turns = split_turns(text)
    assert turns
    kept = "".join("".join(turn.text.split()) for turn in turns)
    markers = sum(len(turn.speaker) + 1 for turn in turns if turn.speaker)
    dropped = len("".join(text.split())) - len(kept) - markers
    assert dropped in (0, len("Human:"), len("Assistant:"))  # an empty last turn is left out with its marker
