"""Prompts are used in turn, in an order drawn by seed, each with the score of its chosen response."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.models.tokenization import encode_prompt
from rlhf.storage.files import write_jsonl
from rlhf.training.ppo.prompts import prompt_indices, read_prompts
from tests.support.tiny_models import tiny_tokenizer

ROWS: list[dict[str, object]] = [
    {"id": f"p{n}", "prompt": f"\n\nHuman: {n}\n\nAssistant:", "chosen": ""} for n in (1, 2)
]


def test_each_epoch_uses_every_prompt_once_in_a_new_order() -> None:
    indices = [index for step in range(1, 7) for index in prompt_indices(step, 5, 10, seed=0)]
    epochs = [indices[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_step_may_be_longer_than_an_epoch() -> None:
    assert sorted(prompt_indices(1, 7, 3, seed=0))[:2] == [0, 0]


def test_the_order_depends_only_on_the_seed() -> None:
    assert prompt_indices(3, 8, 100, seed=1) == prompt_indices(3, 8, 100, seed=1)
    assert prompt_indices(3, 8, 100, seed=1) != prompt_indices(3, 8, 100, seed=2)


def test_score_offsets_are_the_scores_of_the_chosen_responses(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", ROWS)
    write_jsonl(tmp_path / "scores.jsonl", [{"id": "p2", "score": -1.5}, {"id": "p1", "score": 2}])
    tokenizer = tiny_tokenizer()
    first, second = read_prompts(tmp_path, "prompts.jsonl", tokenizer, tmp_path / "scores.jsonl")
    assert (first.id, first.score_offset, second.id, second.score_offset) == ("p1", 2.0, "p2", -1.5)
    assert first.token_ids == encode_prompt(tokenizer, "\n\nHuman: 1\n\nAssistant:")
    assert [prompt.score_offset for prompt in read_prompts(tmp_path, "prompts.jsonl", tokenizer, None)] == [0.0, 0.0]


def test_a_prompt_without_a_chosen_score_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", ROWS)
    write_jsonl(tmp_path / "scores.jsonl", ROWS[:0])
    with pytest.raises(UserError, match=r"no score for 2 of 2 prompts.*p1.*ppo\.subtract_chosen_score to false"):
        read_prompts(tmp_path, "prompts.jsonl", tiny_tokenizer(), tmp_path / "scores.jsonl")


def test_no_prompts_is_an_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [])
    with pytest.raises(UserError, match="has no prompts"):
        read_prompts(tmp_path, "prompts.jsonl", tiny_tokenizer(), None)
