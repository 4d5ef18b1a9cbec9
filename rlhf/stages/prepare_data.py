"""Prepare the data: pairs that fit the model, split by prompt, and a count of every row left out and why.

Tokens are those of the base model.  A row is in exactly one of preferences, validation_preferences, test_prompts and
the counts of left_out.json; the other files are views of the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.config import DataConfig
from rlhf.data.dialogues import Pair, read_pairs
from rlhf.data.splits import Splits, content_id, split_pairs
from rlhf.errors import UserError
from rlhf.models.tokenization import RESPONSE_BOUNDARY, encode_prompt, load_tokenizer
from rlhf.runtime.stage import main, note, progress
from rlhf.stage_config import DataStage
from rlhf.storage.files import write_atomically, write_jsonl

DUPLICATE = "duplicate"
PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "answer too long"

ROWS_AT_ONCE = 2000
"""Rows that are tokenised together."""

Rows = list[dict[str, object]]


def prepare_data(config: DataStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the splits into `output`; the figures are numbers of rows."""
    tokenizer = load_tokenizer(inputs["model"] / "model")
    left_out: Counter[str] = Counter()
    read, pairs = _read_fitting(config, inputs.get("source"), tokenizer, left_out)
    try:
        splits = split_pairs(
            pairs,
            seed=config.seed,
            test_prompts=config.data.test_prompts,
            validation_prompts=config.data.validation_prompts,
            near_duplicate_threshold=config.data.near_duplicate_threshold,
            max_pairs=config.data.max_pairs,
        )
    except UserError as error:
        raise UserError(f"{error}.  Of {read} rows read, left out before: {_sentence(left_out)}") from None
    left_out += splits.left_out

    files = _files(splits)
    for name, rows in files.items():
        write_jsonl(output / name, rows)
    kept = {name: len(rows) for name, rows in files.items()}
    counts = {"read": read, "kept": kept, "left_out": dict(sorted(left_out.items()))}
    write_atomically(output / "left_out.json", json.dumps(counts, indent=2))
    note(
        f"read {read} rows; {len(splits.training)} pairs to train on, {len(splits.validation)} pairs of "
        f"{kept['validation_prompts.jsonl']} validation prompts, {len(splits.test)} test prompts; "
        f"left out: {_sentence(left_out)}"
    )
    return {
        "rows_read": read,
        "rows_left_out": left_out.total(),
        "training_pairs": len(splits.training),
        "training_prompts": kept["ppo_prompts.jsonl"],
        "validation_pairs": len(splits.validation),
        "validation_prompts": kept["validation_prompts.jsonl"],
        "test_prompts": len(splits.test),
    }


def count_prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[int]:
    """Tokens of each prompt, as many as encode_prompt gives it."""
    return [
        len(encode_prompt(tokenizer, prompt)) if ids[-1:] == [tokenizer.eos_token_id] else len(ids)
        for prompt, ids in zip(prompts, _encode_all(tokenizer, prompts, special_tokens=True), strict=True)
    ]


def count_response_tokens(tokenizer: PreTrainedTokenizerBase, answers: list[str]) -> list[int]:
    """Tokens of each answer with its end of text, as many as encode_response gives it."""
    behind_seam = [RESPONSE_BOUNDARY, *(RESPONSE_BOUNDARY + answer for answer in answers)]
    seam, *encoded = _encode_all(tokenizer, behind_seam, special_tokens=False)
    merged = [answer for answer, ids in zip(answers, encoded, strict=True) if ids[: len(seam)] != seam]
    alone = dict(zip(merged, _encode_all(tokenizer, merged, special_tokens=False), strict=True))
    return [
        1 + (len(alone[answer]) if answer in alone else len(ids) - len(seam))
        for answer, ids in zip(answers, encoded, strict=True)
    ]


def _encode_all(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special_tokens: bool) -> list[list[int]]:
    """Ids of all texts at once: many times faster than one by one on several cores."""
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(
        texts,
        add_special_tokens=special_tokens,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    ).input_ids
    return encoded


def _read_fitting(
    config: DataStage, source: Path | None, tokenizer: PreTrainedTokenizerBase, left_out: Counter[str]
) -> tuple[int, list[Pair]]:
    """How many rows the data have, and their distinct pairs that are short enough; the others are counted."""
    rows = read_pairs(config.data, config.seed, source)
    read = 0
    kept: list[Pair] = []
    seen: set[str] = set()
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        read += len(batch)
        left_out.update(item for item in batch if isinstance(item, str))
        distinct = {content_id(*item): item for item in batch if isinstance(item, Pair)}
        new = {key: pair for key, pair in distinct.items() if key not in seen}
        seen.update(new)
        left_out[DUPLICATE] += sum(isinstance(item, Pair) for item in batch) - len(new)
        kept += _short_enough(config.data, tokenizer, list(new.values()), left_out)
        progress("read", read, read, pairs=len(kept))
    return read, kept


def _short_enough(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], left_out: Counter[str]
) -> Iterator[Pair]:
    prompt_tokens = count_prompt_tokens(tokenizer, [pair.prompt for pair in pairs])
    chosen_tokens = count_response_tokens(tokenizer, [pair.chosen for pair in pairs])
    rejected_tokens = count_response_tokens(tokenizer, [pair.rejected for pair in pairs])
    for pair, prompt, chosen, rejected in zip(pairs, prompt_tokens, chosen_tokens, rejected_tokens, strict=True):
        if prompt > config.max_prompt_tokens:
            left_out[PROMPT_TOO_LONG] += 1
        elif max(chosen, rejected) > config.max_response_tokens:
            left_out[RESPONSE_TOO_LONG] += 1
        else:
            yield pair


def _files(splits: Splits) -> dict[str, Rows]:
    return {
        "demonstrations.jsonl": _demonstrations(splits.training),
        "validation_demonstrations.jsonl": _demonstrations(splits.validation),
        "preferences.jsonl": _preferences(splits.training),
        "validation_preferences.jsonl": _preferences(splits.validation),
        "ppo_prompts.jsonl": _prompts(splits.training),
        "validation_prompts.jsonl": _prompts(splits.validation),
        "test_prompts.jsonl": _prompts(splits.test),
    }


def _preferences(pairs: list[Pair]) -> Rows:
    return [{"id": content_id(*pair), **pair._asdict()} for pair in pairs]


def _demonstrations(pairs: list[Pair]) -> Rows:
    """Each distinct pair of prompt and chosen answer once."""
    distinct = dict.fromkeys((pair.prompt, pair.chosen) for pair in pairs)
    return [{"id": content_id(prompt, answer), "prompt": prompt, "response": answer} for prompt, answer in distinct]


def _prompts(pairs: list[Pair]) -> Rows:
    """Each distinct prompt once, with the chosen answer of its first pair."""
    first: dict[str, str] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair.chosen)
    return [{"id": content_id(prompt), "prompt": prompt, "chosen": chosen} for prompt, chosen in first.items()]


def _sentence(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()) if count) or "nothing"


if __name__ == "__main__":
    main(DataStage, prepare_data)
