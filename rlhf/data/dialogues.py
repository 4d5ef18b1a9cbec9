"""Dialogues with a better and a worse last answer: the Anthropic HH layout and that of rm-static.

HH: `chosen` and `rejected` are whole dialogues, "\\n\\nHuman: ...\\n\\nAssistant: ...".
rm-static: `prompt` is the dialogue up to and with the last "\\n\\nAssistant:", `chosen` and `rejected` are the answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf.config import HUB, SYNTHETIC, DataConfig
from rlhf.data.hub import download_dataset
from rlhf.data.readers import SUFFIXES, Row, UnreadableLineError, find_files, read_rows, text_field
from rlhf.data.synthetic import synthetic_pairs
from rlhf.errors import UserError

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")

NO_DIALOGUE = "no dialogue"
"""Reason: the context does not start with a Human turn, or has no Assistant turn."""
EQUAL_ANSWERS = "equal answers"
DIFFERING_CONTEXT = "differing context"
"""Reason: the two dialogues differ before the last answer, or one goes on after it."""
EMPTY_ANSWER = "empty answer"
UNREADABLE_LINE = "unreadable line"


class Pair(NamedTuple):
    """A prompt that starts with HUMAN and ends with ASSISTANT, and two answers that each start with one space."""

    prompt: str
    chosen: str
    rejected: str


class Turn(NamedTuple):
    """One turn of a dialogue."""

    speaker: str
    text: str


def read_pairs(config: DataConfig, seed: int, source: Path | None) -> Iterator[Pair | str]:
    """One item for every row of the data that `config` names: its pair, or the reason why it gives none.

    `source` is the user's file or folder where `config.source` names one.  Raises UserError where data are missing,
    a file has the wrong columns, or a line cannot be read and `config.on_bad_row` does not skip it.
    """
    if config.source == SYNTHETIC:
        rows = synthetic_pairs(config.synthetic_pairs, seed)
        yield from (split_dialogues(row["chosen"], row["rejected"]) for row in rows)
        return
    for file in _hub_files(config) if config.source == HUB else find_files(source or Path(config.source)):
        yield from read_file(file, skip_unreadable=config.on_bad_row == "skip")


def read_file(path: Path, *, skip_unreadable: bool) -> Iterator[Pair | str]:
    """One item for every row of a file in either layout, which the columns of its first readable row tell."""
    fields: tuple[str, ...] | None = None
    for number, row in read_rows(path):
        try:
            content = _content(row)
            fields = fields or _layout(path, content)
            texts = [text_field(content, name) for name in fields]
        except UnreadableLineError as problem:
            if not skip_unreadable:
                raise UserError(f"{path}:{number}: {problem}; fix the line or set data.on_bad_row=skip") from None
            yield UNREADABLE_LINE
        else:
            yield split_dialogues(*texts) if len(texts) == 2 else join_answers(*texts)


def split_dialogues(chosen: str, rejected: str) -> Pair | str:
    """The pair in two whole dialogues, cut behind the last ASSISTANT of `chosen`, or the reason why there is none."""
    context, marker, _ = chosen.rpartition(ASSISTANT)
    prompt = context + marker
    if not prompt.startswith(HUMAN):
        return NO_DIALOGUE
    if chosen == rejected:
        return EQUAL_ANSWERS
    if not rejected.startswith(prompt):
        return DIFFERING_CONTEXT
    return join_answers(prompt, chosen[len(prompt) :], rejected[len(prompt) :])


def join_answers(prompt: str, chosen: str, rejected: str) -> Pair | str:
    """The pair of a prompt and its two answers, white space around them made uniform, or why there is none."""
    prompt = prompt.rstrip()
    if not (prompt.startswith(HUMAN) and prompt.endswith(ASSISTANT)):
        return NO_DIALOGUE
    if any(marker in answer for marker in (HUMAN, ASSISTANT) for answer in (chosen, rejected)):
        return DIFFERING_CONTEXT
    chosen, rejected = chosen.strip(), rejected.strip()
    if chosen == rejected:
        return EQUAL_ANSWERS
    if not chosen or not rejected:
        return EMPTY_ANSWER
    return Pair(prompt, f" {chosen}", f" {rejected}")


def first_human_turn(prompt: str) -> str:
    """What the human says first in a prompt, without the marker."""
    return re.split(f"{HUMAN}|{ASSISTANT}", prompt, maxsplit=2)[1]


def _content(row: Row) -> dict[str, object]:
    if isinstance(row, UnreadableLineError):
        raise row
    return row


def _layout(path: Path, row: Iterable[str]) -> tuple[str, ...]:
    """The fields to read in a file that has this row's columns."""
    columns = set(row)
    if not columns >= {"chosen", "rejected"}:
        found = ", ".join(sorted(columns)) or "none"
        raise UserError(f"{path}: no columns chosen and rejected (found: {found}); give data in HH or rm-static layout")
    return ("prompt", "chosen", "rejected") if "prompt" in columns else ("chosen", "rejected")


def _hub_files(config: DataConfig) -> list[Path]:
    patterns = [f"{subset}/*{suffix}" for subset in config.subsets for suffix in SUFFIXES]
    folder = download_dataset(config.repository, config.revision, patterns, field="data.source")
    for subset in config.subsets:
        if not (folder / subset).is_dir():
            raise UserError(
                f"data.subsets ({subset}): {config.repository} at {config.revision} has no such folder with data "
                "files; name those it has"
            )
    return [file for subset in config.subsets for file in find_files(folder / subset)]


def split_turns(prompt: str) -> list[Turn]:
    """The turns of a dialogue, without the empty one at its end; a prompt of another form is one nameless turn."""
    before, *rest = TURN.split(prompt)
    turns = [Turn(speaker, text.strip()) for speaker, text in zip(rest[::2], rest[1::2], strict=True)]
    if before.strip() or not turns:
        turns.insert(0, Turn("", before.strip()))
    return turns if turns[-1].text or len(turns) == 1 else turns[:-1]
