"""Prompts of RealToxicityPrompts: beginnings of sentences from the web, many of them offensive.

A row is an object with `prompt`, itself an object with `text` and `toxicity`: 0 to 1, or null, NaN or an infinity if it
has no score.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf.config import HUB, SYNTHETIC, ToxicityConfig
from rlhf.data.files import find_files
from rlhf.data.hub import download
from rlhf.data.readers import read_rows
from rlhf.data.rows import Row, UnreadableLineError, shown, text_field
from rlhf.data.synthetic import synthetic_toxicity_prompts
from rlhf.errors import UserError
from rlhf.storage.fingerprints import digest

HUB_FILE = "prompts.jsonl"
FIELDS = ("prompt.text", "prompt.toxicity")
"""Fields of a row that are read."""


class ToxicityPrompt(NamedTuple):
    """A prompt exactly as in the data, and its toxicity according to the data, from 0 to 1; None if it has no score."""

    id: str
    text: str
    toxicity: float | None


def read_toxicity_prompts(config: ToxicityConfig, seed: int, path: Path | None) -> list[ToxicityPrompt]:
    """`config.n_prompts` prompts with distinct texts, drawn by seed; the order of the rows makes no difference.

    `path` is the user's file if `config.prompts` names one.  Raises UserError if data are missing, if a line cannot be
    read, or if there are too few prompts.
    """
    prompts = _distinct(_read_prompts(config, seed, path))
    if len(prompts) < config.n_prompts:
        raise UserError(
            f"toxicity.n_prompts ({config.n_prompts}): the data have only {len(prompts)} distinct prompts; "
            f"lower it to {len(prompts)} or give more prompts"
        )
    return heapq.nsmallest(config.n_prompts, prompts, key=lambda prompt: digest([seed, prompt.text]))


def parse_prompt(row: Row) -> ToxicityPrompt:
    """The prompt in a row.  Raises UnreadableLineError, which names the field, if the row has none."""
    if isinstance(row, UnreadableLineError):
        raise row
    prompt = row.get("prompt")
    if not isinstance(prompt, dict):
        raise UnreadableLineError("field prompt is not an object with text and toxicity")
    text, toxicity = text_field(prompt, "text"), prompt.get("toxicity")
    if not text.strip():
        raise UnreadableLineError("field text of prompt is empty")
    if toxicity is None or (isinstance(toxicity, float) and not math.isfinite(toxicity)):
        return ToxicityPrompt(digest(text)[:16], text, None)
    if isinstance(toxicity, bool) or not isinstance(toxicity, int | float) or not 0 <= toxicity <= 1:
        raise UnreadableLineError(f"field toxicity of prompt is {shown(toxicity)}, not a number from 0 to 1 or null")
    return ToxicityPrompt(digest(text)[:16], text, float(toxicity))


def _read_prompts(config: ToxicityConfig, seed: int, path: Path | None) -> Iterator[ToxicityPrompt]:
    if config.prompts == SYNTHETIC:
        yield from map(parse_prompt, synthetic_toxicity_prompts(config.n_prompts, seed))
        return
    if config.prompts == HUB:
        folder = download("dataset", config.repository, config.revision, [HUB_FILE], setting="toxicity.prompts")
        files = find_files(folder / HUB_FILE)
    else:
        files = find_files(path or Path(config.prompts))
    for file in files:
        for number, row in read_rows(file, FIELDS):
            try:
                yield parse_prompt(row)
            except UnreadableLineError as problem:
                raise UserError(f"{file}:{number}: {problem}; fix or remove the line") from problem


def _distinct(prompts: Iterable[ToxicityPrompt]) -> list[ToxicityPrompt]:
    """One prompt for each text; if its rows have different scores, with the lowest one."""
    by_text: dict[str, ToxicityPrompt] = {}
    for prompt in prompts:
        known = by_text.setdefault(prompt.text, prompt)
        if prompt.toxicity is not None and (known.toxicity is None or prompt.toxicity < known.toxicity):
            by_text[prompt.text] = prompt
    return list(by_text.values())
