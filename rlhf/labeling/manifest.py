"""The two files of a labeling task: the pairs that annotators see, and the key that stays hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from rlhf.data.text import valid_unicode
from rlhf.errors import UserError
from rlhf.labeling.blinding import Model, blinded_id, model_shown_as_a

MANIFEST_FILE = "manifest.jsonl"
KEY_FILE = "key.jsonl"
MAX_LINE_BYTES = 100_000
"""Longest line that Ground Truth accepts in an input manifest."""


class PromptResponses(NamedTuple):
    """Both models' responses to a prompt."""

    id: str
    prompt: str
    sft: str
    rlhf: str


class BlindedPair(BaseModel):
    """One line of the manifest; annotators and Ground Truth templates may read all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Id of the pair; it reveals nothing about the prompt or the models."""
    source: str
    """The dialogue before the answers; Ground Truth requires this name."""
    answer_a: str
    """Answer shown first."""
    answer_b: str
    """Answer shown second."""


class KeyEntry(BaseModel):
    """One line of the key: which model wrote which answer of a pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Id of the pair in the manifest."""
    prompt_id: str
    """Id of the test prompt."""
    a: Model
    """Model that wrote answer A."""
    b: Model
    """Model that wrote answer B."""


def blind(rows: list[PromptResponses], secret: str) -> tuple[list[BlindedPair], list[KeyEntry]]:
    """Blinded pairs and their key, both sorted by the pairs' ids, so that the order reveals nothing about prompts."""
    pairs, key = [], []
    for row in rows:
        first = model_shown_as_a(secret, row.id)
        second: Model = "rlhf" if first == "sft" else "sft"
        responses: dict[Model, str] = {"sft": row.sft, "rlhf": row.rlhf}
        pair_id = blinded_id(secret, row.id)
        pairs.append(BlindedPair(id=pair_id, source=row.prompt, answer_a=responses[first], answer_b=responses[second]))
        key.append(KeyEntry(id=pair_id, prompt_id=row.id, a=first, b=second))
    return sorted(pairs, key=lambda pair: pair.id), sorted(key, key=lambda entry: entry.id)


def write_labeling_task(folder: Path, pairs: list[BlindedPair], key: list[KeyEntry]) -> None:
    """Write manifest and key into `folder`.  Raises UserError if a line is longer than Ground Truth accepts."""
    lines = [_line(pair) for pair in pairs]
    prompt_ids = {entry.id: entry.prompt_id for entry in key}
    for pair, line in zip(pairs, lines, strict=True):
        if len(line.encode()) > MAX_LINE_BYTES:
            raise UserError(
                f"test prompt {prompt_ids[pair.id]}: {len(line.encode())} bytes with both responses, but Ground Truth "
                f"accepts at most {MAX_LINE_BYTES}; lower data.max_prompt_tokens or responses.sampling.max_new_tokens"
            )
    (folder / MANIFEST_FILE).write_text("".join(lines), encoding="utf-8")
    (folder / KEY_FILE).write_text("".join(_line(entry) for entry in key), encoding="utf-8")


def read_blinded_pairs(folder: Path) -> list[BlindedPair]:
    """The pairs of a manifest that `write_labeling_task` wrote."""
    return [BlindedPair.model_validate_json(line) for line in (folder / MANIFEST_FILE).read_text("utf-8").splitlines()]


def read_key(folder: Path) -> dict[str, KeyEntry]:
    """The key by id of the pair.  Code that serves annotators must not call this."""
    entries = [KeyEntry.model_validate_json(line) for line in (folder / KEY_FILE).read_text("utf-8").splitlines()]
    return {entry.id: entry for entry in entries}


def _line(record: BlindedPair | KeyEntry) -> str:
    """JSON in ASCII, so that no reader mistakes a character for a line break."""
    return json.dumps({name: valid_unicode(text) for name, text in record.model_dump().items()}) + "\n"
