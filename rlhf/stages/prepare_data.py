"""Stage: read preference pairs, drop those that do not fit, and split the others by prompt.

Lengths are in tokens of the base model.  Every row is in preferences.jsonl, judge_preferences.jsonl,
validation_preferences.jsonl or test_prompts.jsonl, or counted in dropped.json.  The other files are made of the same
rows; those for the policy contain nothing of judge_preferences.jsonl.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.config import DataConfig
from rlhf.data.dialogues import NO_DIALOGUE, UNREADABLE_LINE, Pair, read_pairs
from rlhf.data.lengths import characters_per_token
from rlhf.data.splits import Splits, content_id, split_pairs
from rlhf.errors import UserError
from rlhf.models.tokenization import RESPONSE_BOUNDARY, encode_prompt, encode_response, load_tokenizer
from rlhf.runtime.stage import main, note, progress
from rlhf.stage_config import DataStage
from rlhf.storage.files import write_atomically, write_jsonl

DUPLICATE = "duplicate"
PROMPT_TOO_LONG = "prompt too long"
RESPONSE_TOO_LONG = "response too long"

REMEDIES = {
    NO_DIALOGUE: 'mark the turns as in "\\n\\nHuman: ...\\n\\nAssistant: ...": each one, also the first, starts with '
    "two line breaks and the name of its speaker",
    PROMPT_TOO_LONG: "raise data.max_prompt_tokens",
    RESPONSE_TOO_LONG: "raise data.max_response_tokens",
    UNREADABLE_LINE: "correct the unreadable lines",
}
"""What to do if most rows are dropped for a reason."""
ROWS_AT_ONCE = 2000
"""Rows that are tokenized together."""

Rows = list[dict[str, object]]


def prepare_data(config: DataStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Write the splits and dropped.json to `output`; returns numbers of rows."""
    tokenizer = load_tokenizer(inputs["model"] / "model")
    dropped: Counter[str] = Counter()
    read, pairs = _read_fitting_pairs(config, inputs.get("source"), tokenizer, dropped)
    try:
        splits = split_pairs(
            pairs,
            seed=config.seed,
            test_prompts=config.data.test_prompts,
            validation_prompts=config.data.validation_prompts,
            near_duplicate_threshold=config.data.near_duplicate_threshold,
            judge_share=config.data.judge_share,
            max_pairs=config.data.max_pairs,
        )
    except UserError as error:
        raise UserError(
            f"{error}.  Of {read} rows read, dropped before: {_sentence(dropped)}{_remedy(dropped, read)}"
        ) from error
    dropped += splits.dropped

    files = _files(splits)
    for name, rows in files.items():
        write_jsonl(output / name, rows)
    row_counts = {name: len(rows) for name, rows in files.items()}
    counts = {"read": read, "kept": row_counts, "dropped": dict(sorted(dropped.items()))}
    write_atomically(output / "dropped.json", json.dumps(counts, indent=2))
    note(
        f"read {read} rows; {len(splits.training)} pairs to train on, {len(splits.judge)} for the independent judge, "
        f"{len(splits.validation)} pairs of "
        f"{row_counts['validation_prompts.jsonl']} validation prompts, {len(splits.test)} test prompts; "
        f"dropped: {_sentence(dropped)}"
    )
    return {
        "rows_read": read,
        "rows_dropped": dropped.total(),
        "training_pairs": len(splits.training),
        "judge_pairs": len(splits.judge),
        "training_prompts": row_counts["ppo_prompts.jsonl"],
        "validation_pairs": len(splits.validation),
        "validation_prompts": row_counts["validation_prompts.jsonl"],
        "test_prompts": len(splits.test),
    }


def count_prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[int]:
    """Number of tokens of each prompt, as encode_prompt encodes it."""
    return [
        len(encode_prompt(tokenizer, prompt)) if ids[-1:] == [tokenizer.eos_token_id] else len(ids)
        for prompt, ids in zip(prompts, _encode_all(tokenizer, prompts, special_tokens=True), strict=True)
    ]


def count_response_tokens(tokenizer: PreTrainedTokenizerBase, responses: list[str]) -> list[int]:
    """Number of tokens of each response with its EOS, as encode_response encodes it."""
    texts = [RESPONSE_BOUNDARY, *(RESPONSE_BOUNDARY + response for response in responses)]
    boundary, *encoded = _encode_all(tokenizer, texts, special_tokens=False)
    merged = [response for response, ids in zip(responses, encoded, strict=True) if ids[: len(boundary)] != boundary]
    counts = {response: len(encode_response(tokenizer, response)) for response in merged}
    return [
        counts[response] if response in counts else 1 + len(ids) - len(boundary)
        for response, ids in zip(responses, encoded, strict=True)
    ]


def _encode_all(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special_tokens: bool) -> list[list[int]]:
    """Token ids of all texts, encoded in one call, which uses all cores."""
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


def _read_fitting_pairs(
    config: DataStage, source: Path | None, tokenizer: PreTrainedTokenizerBase, dropped: Counter[str]
) -> tuple[int, list[Pair]]:
    """The number of rows, and their distinct pairs that are short enough.  Counts the others in `dropped`."""
    rows = _within_bounds(config.data, tokenizer, read_pairs(config.data, config.seed, source))
    read = 0
    fitting: list[Pair] = []
    seen: set[str] = set()
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        read += len(batch)
        dropped.update(item for item in batch if isinstance(item, str))
        distinct = {content_id(*item): item for item in batch if isinstance(item, Pair)}
        new = {key: pair for key, pair in distinct.items() if key not in seen}
        seen.update(new)
        dropped[DUPLICATE] += sum(isinstance(item, Pair) for item in batch) - len(new)
        fitting += _short_enough(config.data, tokenizer, list(new.values()), dropped)
        progress("read", read, read, pairs=len(fitting))
    return read, fitting


def _within_bounds(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Pair | str]
) -> Iterator[Pair | str]:
    """The rows, with the reason to drop it in place of each pair that is so long that it need not be tokenized."""
    characters = characters_per_token(tokenizer.get_vocab())
    prompt_bound, response_bound = config.max_prompt_tokens * characters, config.max_response_tokens * characters
    for row in rows:
        if isinstance(row, Pair) and len(row.prompt) > prompt_bound:
            yield PROMPT_TOO_LONG
        elif isinstance(row, Pair) and max(len(row.chosen), len(row.rejected)) > response_bound:
            yield RESPONSE_TOO_LONG
        else:
            yield row


def _short_enough(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], dropped: Counter[str]
) -> Iterator[Pair]:
    prompt_tokens = count_prompt_tokens(tokenizer, [pair.prompt for pair in pairs])
    chosen_tokens = count_response_tokens(tokenizer, [pair.chosen for pair in pairs])
    rejected_tokens = count_response_tokens(tokenizer, [pair.rejected for pair in pairs])
    for pair, prompt, chosen, rejected in zip(pairs, prompt_tokens, chosen_tokens, rejected_tokens, strict=True):
        if prompt > config.max_prompt_tokens:
            dropped[PROMPT_TOO_LONG] += 1
        elif max(chosen, rejected) > config.max_response_tokens:
            dropped[RESPONSE_TOO_LONG] += 1
        else:
            yield pair


def _files(splits: Splits) -> dict[str, Rows]:
    return {
        "demonstrations.jsonl": _demonstrations(splits.training),
        "validation_demonstrations.jsonl": _demonstrations(splits.validation),
        "preferences.jsonl": _preferences(splits.training),
        "judge_preferences.jsonl": _preferences(splits.judge),
        "validation_preferences.jsonl": _preferences(splits.validation),
        "ppo_prompts.jsonl": _prompts(splits.training),
        "validation_prompts.jsonl": _prompts(splits.validation),
        "test_prompts.jsonl": _prompts(splits.test),
    }


def _preferences(pairs: list[Pair]) -> Rows:
    return [{"id": content_id(*pair), **pair._asdict()} for pair in pairs]


def _demonstrations(pairs: list[Pair]) -> Rows:
    """Each distinct combination of prompt and chosen response once."""
    distinct = dict.fromkeys((pair.prompt, pair.chosen) for pair in pairs)
    return [
        {"id": content_id(prompt, response), "prompt": prompt, "response": response} for prompt, response in distinct
    ]


def _prompts(pairs: list[Pair]) -> Rows:
    """Each distinct prompt once, with the chosen response of its first pair."""
    first: dict[str, str] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair.chosen)
    return [{"id": content_id(prompt), "prompt": prompt, "chosen": chosen} for prompt, chosen in first.items()]


def _sentence(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()) if count) or "nothing"


def _remedy(dropped: Counter[str], read: int) -> str:
    """What to do if one reason dropped at least half of the rows."""
    return next((f"; {REMEDIES[name]}" for name, n in dropped.items() if name in REMEDIES and 2 * n >= read), "")


if __name__ == "__main__":
    main(DataStage, prepare_data)
