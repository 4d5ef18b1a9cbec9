"""Rows in both layouts become pairs, or are dropped for a reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rlhf.config import SYNTHETIC, DataConfig
from rlhf.data.dialogues import Pair, first_human_turn, join_responses, read_file, read_pairs, split_dialogues
from rlhf.errors import UserError
from tests.support.data_files import dialogue, hh_row, shared, write_rows

CONTEXT = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"


def outcomes(items: list[Pair | str]) -> dict[str, int]:
    return dict(Counter("pair" if isinstance(item, Pair) else item for item in items))


def test_dialogues_are_cut_after_the_last_assistant_marker() -> None:
    pair = split_dialogues(f"{CONTEXT} Because.", f"{CONTEXT} Human: go away")
    assert pair == Pair(CONTEXT, " Because.", " Human: go away")


def test_white_space_around_responses_is_made_uniform() -> None:
    assert split_dialogues(f"{CONTEXT}  Yes.\n", f"{CONTEXT}No. ") == Pair(CONTEXT, " Yes.", " No.")
    assert join_responses(f"{CONTEXT} ", "Yes.", " No.") == Pair(CONTEXT, " Yes.", " No.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (f"{CONTEXT} Yes.", f"{CONTEXT} Yes.", "equal responses"),
        (f"{CONTEXT} Yes.", f"{CONTEXT} Yes. ", "equal responses"),
        (f"{CONTEXT} Yes.", dialogue("Hi", " No."), "context mismatch"),
        (f"{CONTEXT} Yes.", f"{CONTEXT} No.\n\nHuman: Hm\n\nAssistant: No!", "context mismatch"),
        (f"{CONTEXT} Yes.\n\nHuman: Thanks", f"{CONTEXT} No.", "context mismatch"),
        (f"{CONTEXT} ", f"{CONTEXT} No.", "empty response"),
        (f"{CONTEXT} Yes.", CONTEXT, "empty response"),
        ("Yes.", "No.", "no dialogue"),
        ("\n\nHuman: Hi", "\n\nHuman: Ho", "no dialogue"),
        ("\n\nAssistant: Yes.", "\n\nAssistant: No.", "no dialogue"),
        ("Human: Hi\n\nAssistant: Yes.", "Human: Hi\n\nAssistant: No.", "no dialogue"),
    ],
)
def test_rows_that_give_no_pair_give_the_reason(chosen: str, rejected: str, reason: str) -> None:
    assert split_dialogues(chosen, rejected) == reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_turns_with_windows_line_ends_are_read_as_others(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, object]] = [hh_row("Why?\n\nNow.", " Yes.\nYes.", " No.")]
    windows: list[dict[str, object]] = [
        {field: str(text).replace("\n", "\r\n") for field, text in row.items()} for row in rows
    ]
    prompt, chosen = str(windows[0]["chosen"]).split(" Yes.", 1)
    parts: dict[str, object] = {"prompt": prompt, "chosen": f" Yes.{chosen}", "rejected": " No."}
    expected = list(read_file(write_rows(tmp_path / "plain" / name, rows), skip_unreadable=False))
    assert outcomes(expected) == {"pair": 1}
    assert list(read_file(write_rows(tmp_path / "hh" / name, windows), skip_unreadable=False)) == expected
    assert list(read_file(write_rows(tmp_path / "rm" / name, [parts]), skip_unreadable=False)) == expected


def test_other_line_ends_and_odd_characters_stay(tmp_path: Path) -> None:
    odd = "a\r\nb\u2028c\u2029d\u0085e\x0bf\x0cg\x00h\x1ci\u202ej\u200bk\ud83d\ude00l"
    row = {"chosen": f"\n\nHuman: q {odd}\n\nAssistant: r {odd}.", "rejected": f"\n\nHuman: q {odd}\n\nAssistant: No."}
    path = tmp_path / "a.jsonl"
    for ascii_only in (False, True):
        content = json.dumps(row, ensure_ascii=ascii_only).encode("utf-16", "surrogatepass").decode("utf-16")
        path.write_bytes(b"\xef\xbb\xbf" + f"{content}\r\n".encode() * 2)
        [pair, again] = read_file(path, skip_unreadable=False)
        text = odd.replace("\ud83d\ude00", "😀")
        assert pair == again == Pair(f"\n\nHuman: q {text}\n\nAssistant:", f" r {text}.", " No.")


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000, '"\\ud83d"', "NaN", '"\\u0000"', '{"chosen": 1}'])
def test_an_odd_value_in_a_field_that_nobody_reads(tmp_path: Path, value: str) -> None:
    """It does no harm, or its row is unreadable; the other rows are read."""
    path = tmp_path / "a.jsonl"
    good = json.dumps(hh_row("Why?"))
    path.write_text(f'{good}\n{good[:-1]}, "unused": {value}}}\n{good}\n')
    seen = outcomes(list(read_file(path, skip_unreadable=True)))
    assert seen == ({"pair": 2, "unreadable line": 1} if value[0] in "[9" else {"pair": 3})


def test_a_separate_prompt_must_be_a_dialogue() -> None:
    assert join_responses("Why?", " Yes.", " No.") == "no dialogue"


@pytest.mark.parametrize(
    ("prompt", "turn"),
    [
        (CONTEXT, " Hi"),
        ("\n\nHuman: Hi\n\nHuman: Hey\n\nAssistant:", " Hi"),
        ("\n\nHuman: \n\nHuman: Hey\n\nAssistant:", " Hey"),
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
    hh = write_rows(tmp_path / "hh" / name, [hh_row("Why?")])
    row: dict[str, object] = {"prompt": prompt, "response": " Yes.", "chosen": " Yes.", "rejected": " No."}
    rm_static = write_rows(tmp_path / "rm-static" / name, [row])
    assert list(read_file(hh, skip_unreadable=False)) == expected
    assert list(read_file(rm_static, skip_unreadable=False)) == expected


def test_files_of_a_folder_may_differ_in_layout(tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / "train.jsonl", [hh_row("Why?")])
    write_rows(tmp_path / "b.parquet", [{"prompt": dialogue("How?", ""), "chosen": " Yes.", "rejected": " No."}])
    pairs = list(read_pairs(DataConfig(source=str(tmp_path)), seed=0, source=tmp_path))
    assert [pair.prompt for pair in pairs if isinstance(pair, Pair)] == [dialogue("Why?", ""), dialogue("How?", "")]


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_an_error_for_a_file_with_other_columns_names_its_columns(tmp_path: Path, skip_unreadable: bool) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x", "chosen": "y"}])
    with pytest.raises(UserError, match=r"a\.jsonl: no columns chosen and rejected \(found: chosen, text\)"):
        list(read_file(path, skip_unreadable=skip_unreadable))


def test_an_error_for_an_unreadable_line_names_file_line_and_remedy(tmp_path: Path) -> None:
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


def test_all_synthetic_rows_give_pairs() -> None:
    config = DataConfig(source=SYNTHETIC, synthetic_pairs=60)
    assert outcomes(list(read_pairs(config, seed=3, source=None))) == {"pair": 60}


# According to the description of the files, helpful-base has 2 equal pairs, 2 pairs with different contexts and 7 with
# turns after the context; harmless-base has 4 pairs with different contexts and one with a turn after the context.
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("hh-rlhf/helpful-base", {"pair": 2339, "equal responses": 2, "context mismatch": 9, "empty response": 4}),
        ("hh-rlhf/harmless-base", {"pair": 2303, "context mismatch": 5, "empty response": 4}),
        ("hh-rlhf-rm-static-schema", {"pair": 2339}),
    ],
)
def test_irregular_rows_of_real_data_are_counted(file: str, expected: dict[str, int]) -> None:
    path = shared("data", file, "test.jsonl.gz")
    assert outcomes(list(read_file(path, skip_unreadable=False))) == expected


def test_both_layouts_of_the_real_data_give_the_same_pairs() -> None:
    hh = shared("data", "hh-rlhf", "helpful-base", "test.jsonl.gz")
    rm_static = shared("data", "hh-rlhf-rm-static-schema", "test.jsonl.gz")
    pairs = [item for item in read_file(hh, skip_unreadable=False) if isinstance(item, Pair)]
    assert pairs == list(read_file(rm_static, skip_unreadable=False))
