"""Rows in both layouts become pairs, or are left out for a reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rlhf.config import SYNTHETIC, DataConfig
from rlhf.data.dialogues import Pair, first_human_turn, join_answers, read_file, read_pairs, split_dialogues
from rlhf.errors import UserError
from tests.support.data_files import dialogue, hh_row, shared, write_rows

CONTEXT = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"


def outcomes(items: list[Pair | str]) -> dict[str, int]:
    return dict(Counter("pair" if isinstance(item, Pair) else item for item in items))


def test_dialogues_are_cut_behind_the_last_assistant_marker() -> None:
    pair = split_dialogues(f"{CONTEXT} Because.", f"{CONTEXT} Human: go away")
    assert pair == Pair(CONTEXT, " Because.", " Human: go away")


def test_white_space_around_answers_is_made_uniform() -> None:
    assert split_dialogues(f"{CONTEXT}  Yes.\n", f"{CONTEXT}No. ") == Pair(CONTEXT, " Yes.", " No.")
    assert join_answers(f"{CONTEXT} ", "Yes.", " No.") == Pair(CONTEXT, " Yes.", " No.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (f"{CONTEXT} Yes.", f"{CONTEXT} Yes.", "equal answers"),
        (f"{CONTEXT} Yes.", f"{CONTEXT} Yes. ", "equal answers"),
        (f"{CONTEXT} Yes.", dialogue("Hi", " No."), "differing context"),
        (f"{CONTEXT} Yes.", f"{CONTEXT} No.\n\nHuman: Hm\n\nAssistant: No!", "differing context"),
        (f"{CONTEXT} Yes.\n\nHuman: Thanks", f"{CONTEXT} No.", "differing context"),
        (f"{CONTEXT} ", f"{CONTEXT} No.", "empty answer"),
        (f"{CONTEXT} Yes.", CONTEXT, "empty answer"),
        ("Yes.", "No.", "no dialogue"),
        ("\n\nHuman: Hi", "\n\nHuman: Ho", "no dialogue"),
        ("\n\nAssistant: Yes.", "\n\nAssistant: No.", "no dialogue"),
        ("Human: Hi\n\nAssistant: Yes.", "Human: Hi\n\nAssistant: No.", "no dialogue"),
    ],
)
def test_rows_without_a_pair_have_a_reason(chosen: str, rejected: str, reason: str) -> None:
    assert split_dialogues(chosen, rejected) == reason


def test_a_prompt_of_its_own_must_be_a_dialogue() -> None:
    assert join_answers("Why?", " Yes.", " No.") == "no dialogue"


@pytest.mark.parametrize(
    ("prompt", "turn"),
    [
        (CONTEXT, " Hi"),
        ("\n\nHuman: Hi\n\nHuman: Hey\n\nAssistant:", " Hi"),
        ("\n\nHuman:\n\nAssistant:", ""),
        ("\n\nHuman: One\n\ntwo Human: three\n\nAssistant:", " One\n\ntwo Human: three"),
    ],
)
def test_the_first_human_turn_ends_at_the_next_marker(prompt: str, turn: str) -> None:
    assert first_human_turn(prompt) == turn


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_both_layouts_give_the_same_pairs(tmp_path: Path, name: str) -> None:
    prompt = dialogue("Why?", "")
    expected = [Pair(prompt, " Yes.", " No.")]
    whole = write_rows(tmp_path / "hh" / name, [hh_row("Why?")])
    row: dict[str, object] = {"prompt": prompt, "response": " Yes.", "chosen": " Yes.", "rejected": " No."}
    parts = write_rows(tmp_path / "rm-static" / name, [row])
    assert list(read_file(whole, skip_unreadable=False)) == expected
    assert list(read_file(parts, skip_unreadable=False)) == expected


def test_files_of_a_folder_may_differ_in_layout(tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / "train.jsonl", [hh_row("Why?")])
    write_rows(tmp_path / "b.parquet", [{"prompt": dialogue("How?", ""), "chosen": " Yes.", "rejected": " No."}])
    pairs = list(read_pairs(DataConfig(source=str(tmp_path)), seed=0, source=tmp_path))
    assert [pair.prompt for pair in pairs if isinstance(pair, Pair)] == [dialogue("Why?", ""), dialogue("How?", "")]


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_a_file_with_other_columns_is_refused_and_its_columns_named(tmp_path: Path, skip_unreadable: bool) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x", "chosen": "y"}])
    with pytest.raises(UserError, match=r"a\.jsonl: no columns chosen and rejected \(found: chosen, text\)"):
        list(read_file(path, skip_unreadable=skip_unreadable))


def test_an_unreadable_line_stops_the_run_with_its_place_and_the_way_out(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [hh_row("Why?"), {"chosen": None, "rejected": ""}])
    with pytest.raises(
        UserError, match=r"a\.jsonl:2: field chosen is null.*; fix the line or set data\.on_bad_row=skip"
    ):
        list(read_file(path, skip_unreadable=False))


def test_skipped_lines_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [hh_row("Why?"), {"chosen": 1, "rejected": ""}, {"chosen": "x"}, hh_row("How?")]
    path = write_rows(tmp_path / "a.jsonl", rows)
    path.write_bytes(b"{broken\n" + path.read_bytes())
    assert outcomes(list(read_file(path, skip_unreadable=True))) == {"unreadable line": 3, "pair": 2}


def test_the_demonstration_gives_pairs_only() -> None:
    config = DataConfig(source=SYNTHETIC, synthetic_pairs=60)
    assert outcomes(list(read_pairs(config, seed=3, source=None))) == {"pair": 60}


# The files' own description counts 2 equal pairs and, without and with those that go on after the context, 2 and 9
# differing contexts in helpful-base; 4 differing contexts in harmless-base, where a fifth pair goes on.
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("hh-rlhf/helpful-base", {"pair": 2339, "equal answers": 2, "differing context": 9, "empty answer": 4}),
        ("hh-rlhf/harmless-base", {"pair": 2303, "differing context": 5, "empty answer": 4}),
        ("hh-rlhf-rm-static-schema", {"pair": 2339}),
    ],
)
def test_oddities_of_real_data_are_counted(file: str, expected: dict[str, int]) -> None:
    path = shared("data", file, "test.jsonl.gz")
    assert outcomes(list(read_file(path, skip_unreadable=False))) == expected


def test_both_layouts_of_the_real_data_give_the_same_pairs() -> None:
    whole = shared("data", "hh-rlhf", "helpful-base", "test.jsonl.gz")
    parts = shared("data", "hh-rlhf-rm-static-schema", "test.jsonl.gz")
    pairs = [item for item in read_file(whole, skip_unreadable=False) if isinstance(item, Pair)]
    assert pairs == list(read_file(parts, skip_unreadable=False))
