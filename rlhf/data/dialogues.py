"""Preference pairs: one prompt with a better and a worse response, read from the layouts of Anthropic HH and rm-static.

HH: `chosen` and `rejected` are complete dialogues, "\\n\\nHuman: ...\\n\\nAssistant: ...".
rm-static: `prompt` ends with the last "\\n\\nAssistant:" of the dialogue, `chosen` and `rejected` are the responses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf.config import HUB, SYNTHETIC, DataConfig
from rlhf.data.files import SUFFIXES, find_files
from rlhf.data.hub import download
from rlhf.data.parquet_reader import column_names
from rlhf.data.readers import read_rows
from rlhf.data.rows import Row, UnreadableLineError, listed, text_field
from rlhf.data.synthetic import synthetic_pairs
from rlhf.errors import UserError
from rlhf.runtime.stage import note
from rlhf.storage.untrusted import path_inside

SPEAKERS = ("Human", "Assistant")
HUMAN, ASSISTANT = (f"\n\n{speaker}:" for speaker in SPEAKERS)
"""Markers at the start of a turn."""
TURN = re.compile(rf"(?:^|\n\n)({'|'.join(SPEAKERS)}):")
"""A marker.  At the start of a text its line breaks may be missing."""

WINDOWS_TURN = re.compile(rf"\r\n\r\n(?:{'|'.join(SPEAKERS)}):")

FIELDS = ("prompt", "chosen", "rejected")
"""Fields of a row that are read."""
NO_DIALOGUE = "no dialogue"
"""Reason to drop a row: the context does not start with a Human turn, or has no Assistant turn."""
EQUAL_RESPONSES = "equal responses"
CONTEXT_MISMATCH = "context mismatch"
"""Reason to drop a row: the dialogues differ before the last response, or one has turns after it."""
EMPTY_RESPONSE = "empty response"
UNREADABLE_LINE = "unreadable line"


class Pair(NamedTuple):
    """A prompt that starts with HUMAN and ends with ASSISTANT, and two responses that each start with one space."""

    prompt: str
    chosen: str
    rejected: str


class Turn(NamedTuple):
    """One turn of a dialogue."""

    speaker: str
    text: str


def read_pairs(config: DataConfig, seed: int, source: Path | None) -> Iterator[Pair | str]:
    """For each row of the data that `config` names: its pair, or the reason to drop it.

    `source` is the user's file or folder if `config.source` names one.  Raises UserError if data are missing, if a file
    has the wrong columns, or if a line cannot be read and `config.on_bad_row` does not skip it.
    """
    if config.source == SYNTHETIC:
        rows = synthetic_pairs(config.synthetic_pairs, seed)
        yield from (split_dialogues(row["chosen"], row["rejected"]) for row in rows)
        return
    for file in _hub_files(config) if config.source == HUB else find_files(source or Path(config.source)):
        yield from read_file(file, skip_unreadable=config.on_bad_row == "skip")


def read_file(path: Path, *, skip_unreadable: bool) -> Iterator[Pair | str]:
    """For each row of a file: its pair, or the reason to drop it.  The first readable row determines the layout."""
    fields: tuple[str, ...] | None = None
    skipped, first_problem = 0, ""
    for number, row in read_rows(path, FIELDS):
        try:
            content = _content(row)
            fields = fields or _layout(path, content)
            texts = [text_field(content, name) for name in fields]
        except UnreadableLineError as problem:
            if not skip_unreadable:
                raise UserError(f"{path}:{number}: {problem}; fix the line or set data.on_bad_row=skip") from problem
            skipped, first_problem = skipped + 1, first_problem or f"{path}:{number}: {problem}"
            yield UNREADABLE_LINE
        else:
            texts = with_plain_turns(texts)
            yield split_dialogues(*texts) if len(texts) == 2 else join_responses(*texts)
    if skipped:
        note(f"{path}: {skipped} unreadable lines are skipped; the first: {first_problem}")


def with_plain_turns(texts: list[str]) -> list[str]:
    """The texts of a row.  If turns in them are marked with Windows line ends, all of its line ends become "\\n"."""
    for text in texts:
        if "\r" in text and WINDOWS_TURN.search(text):
            return [text.replace("\r\n", "\n") for text in texts]
    return texts


def split_dialogues(chosen: str, rejected: str) -> Pair | str:
    """The pair in two complete dialogues, cut after the last ASSISTANT of `chosen`, or the reason to drop them."""
    context, marker, _ = chosen.rpartition(ASSISTANT)
    prompt = context + marker
    if not prompt.startswith(HUMAN):
        return NO_DIALOGUE
    if chosen == rejected:
        return EQUAL_RESPONSES
    if not rejected.startswith(prompt):
        return CONTEXT_MISMATCH
    return join_responses(prompt, chosen[len(prompt) :], rejected[len(prompt) :])


def join_responses(prompt: str, chosen: str, rejected: str) -> Pair | str:
    """The pair of a prompt and two responses, with uniform white space around them, or the reason to drop them."""
    prompt = prompt.rstrip()
    if not (prompt.startswith(HUMAN) and prompt.endswith(ASSISTANT)):
        return NO_DIALOGUE
    if any(marker in response for marker in (HUMAN, ASSISTANT) for response in (chosen, rejected)):
        return CONTEXT_MISMATCH
    chosen, rejected = chosen.strip(), rejected.strip()
    if chosen == rejected:
        return EQUAL_RESPONSES
    if not chosen or not rejected:
        return EMPTY_RESPONSE
    return Pair(prompt, f" {chosen}", f" {rejected}")


def first_human_turn(prompt: str) -> str:
    """Text of the first human turn of a prompt, without the marker; of the next turn if that one is blank."""
    turns = re.split(f"{HUMAN}|{ASSISTANT}", prompt)[1:]
    return next((turn for turn in turns if turn.strip()), turns[0])


def _content(row: Row) -> dict[str, object]:
    if isinstance(row, UnreadableLineError):
        raise row
    return row


def _layout(path: Path, row: Iterable[str]) -> tuple[str, ...]:
    """The fields to read from a file with the columns of this row."""
    columns = set(row)
    if not columns >= {"chosen", "rejected"}:
        found = sorted(column_names(path) if path.suffix == ".parquet" else columns)
        raise UserError(
            f"{path}: no columns chosen and rejected (found: {listed(found)}); give data in HH or rm-static layout"
        )
    return FIELDS if "prompt" in columns else FIELDS[1:]


def _hub_files(config: DataConfig) -> list[Path]:
    patterns = [f"{subset}/*{suffix}" for subset in config.subsets for suffix in SUFFIXES]
    folder = download("dataset", config.repository, config.revision, patterns, setting="data.source")
    for subset in config.subsets:
        if not path_inside(folder, subset).is_dir():
            raise UserError(
                f"data.subsets ({subset}): {config.repository} at {config.revision} has no such folder with data "
                "files; name folders that it has"
            )
    return [file for subset in config.subsets for file in find_files(folder / subset)]


def split_turns(prompt: str) -> list[Turn]:
    """The turns of a dialogue, without an empty last one.  Text before the first marker is a turn without a speaker."""
    before, *rest = TURN.split(prompt)
    turns = [Turn(speaker, text.strip()) for speaker, text in zip(rest[::2], rest[1::2], strict=True)]
    if before.strip() or not turns:
        turns.insert(0, Turn("", before.strip()))
    return turns if turns[-1].text or len(turns) == 1 else turns[:-1]
