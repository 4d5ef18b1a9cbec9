"""The two files of a comparison: what annotators get, and the key that stays behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from rlhf.data.text import valid_unicode
from rlhf.errors import UserError
from rlhf.labeling.blinding import Model, item_name, toss_coin

MANIFEST_FILE = "manifest.jsonl"
KEY_FILE = "key.jsonl"
MAX_LINE_BYTES = 100_000
"""Longest line that Ground Truth accepts in an input manifest."""


class Pair(NamedTuple):
    """Both models' answers to a prompt."""

    id: str
    prompt: str
    sft: str
    rlhf: str


class Item(BaseModel):
    """One line of the manifest, which annotators and their templates may read in full."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str
    """Name of the item; it says nothing about the prompt or the models."""
    source: str
    """The dialogue up to the answer; Ground Truth wants this key."""
    answer_a: str
    """Answer shown first."""
    answer_b: str
    """Answer shown second."""


class KeyLine(BaseModel):
    """One line of the key: who wrote which answer of an item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str
    """Name of the item in the manifest."""
    id: str
    """Id of the test prompt."""
    a: Model
    """Model that wrote answer A."""
    b: Model
    """Model that wrote answer B."""


def blind(pairs: list[Pair], secret: str) -> tuple[list[Item], list[KeyLine]]:
    """Items and their key, both in the order of the items' names, which is no order of the prompts."""
    items, key = [], []
    for pair in pairs:
        first = toss_coin(secret, pair.id)
        second: Model = "rlhf" if first == "sft" else "sft"
        answers: dict[Model, str] = {"sft": pair.sft, "rlhf": pair.rlhf}
        name = item_name(secret, pair.id)
        items.append(Item(item=name, source=pair.prompt, answer_a=answers[first], answer_b=answers[second]))
        key.append(KeyLine(item=name, id=pair.id, a=first, b=second))
    return sorted(items, key=lambda item: item.item), sorted(key, key=lambda line: line.item)


def write_comparison(folder: Path, items: list[Item], key: list[KeyLine]) -> None:
    """Write manifest and key into `folder`.  Raises UserError where a line is longer than Ground Truth takes."""
    lines = [_line(item) for item in items]
    ids = {line.item: line.id for line in key}
    for item, line in zip(items, lines, strict=True):
        if len(line.encode()) > MAX_LINE_BYTES:
            raise UserError(
                f"test prompt {ids[item.item]}: {len(line.encode())} bytes with its answers, where Ground Truth takes "
                f"at most {MAX_LINE_BYTES} a line; lower data.max_prompt_tokens or responses.sampling.max_new_tokens"
            )
    (folder / MANIFEST_FILE).write_text("".join(lines), encoding="utf-8")
    (folder / KEY_FILE).write_text("".join(_line(line) for line in key), encoding="utf-8")


def read_items(folder: Path) -> list[Item]:
    """The items of a manifest that this package wrote."""
    return [Item.model_validate_json(line) for line in (folder / MANIFEST_FILE).read_text("utf-8").splitlines()]


def read_key(folder: Path) -> dict[str, KeyLine]:
    """The key by item.  Nothing that annotators reach may call this."""
    lines = [KeyLine.model_validate_json(line) for line in (folder / KEY_FILE).read_text("utf-8").splitlines()]
    return {line.item: line for line in lines}


def _line(record: Item | KeyLine) -> str:
    """JSON in ASCII, so that no reader can see a line break in it."""
    return json.dumps({name: valid_unicode(text) for name, text in record.model_dump().items()}) + "\n"
