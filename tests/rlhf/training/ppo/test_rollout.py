"""Padding never counts, and tensors that are computed once per rollout equal recomputed ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import SamplingConfig
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import generate
from rlhf.models.tokenization import load_tokenizer
from rlhf.training.ppo.policy import Batch, Policy, make_value_head
from rlhf.training.ppo.rollout import evaluate_rollouts, minibatch_rows, pack_rollouts
from rlhf.training.ppo.trunk import split_model
from tests.support.recomputed_ppo import run_trunk
from tests.support.tiny_models import WIDTH, Architecture, tiny_model

ARCHITECTURES: tuple[Architecture, ...] = ("gptj", "gpt_neox", "llama", "gpt2", "qwen2")
TOKENS = st.lists(st.integers(1, 300), min_size=1, max_size=6)
ROLLOUTS = st.lists(st.tuples(TOKENS, TOKENS), min_size=2, max_size=4)


@cache
def tiny_policy(
    architecture: Architecture = "gptj", temperature: float = 1.0
) -> tuple[Policy, PreTrainedTokenizerBase]:
    with TemporaryDirectory() as folder:
        path = tiny_model(Path(folder), architecture)
        model, tokenizer = load_causal_lm(path, "float32"), load_tokenizer(path)
    return Policy(model, split_model(model, 1), make_value_head(WIDTH, 0), temperature), tokenizer


@settings(max_examples=25, deadline=None)
@given(rollouts=ROLLOUTS, seed=st.integers(0, 99))
def test_the_content_of_padding_changes_nothing(rollouts: list[tuple[list[int], list[int]]], seed: int) -> None:
    """Not even the last bit."""
    policy, _ = tiny_policy()
    clean_rollouts = run_trunk(policy.split, [prompt for prompt, _ in rollouts], [response for _, response in rollouts])
    batch = clean_rollouts.batch(range(len(rollouts)))
    poisoned = batch.trunk_states.clone()
    for row, states in enumerate(clean_rollouts.trunk_states):
        noise = torch.randn(poisoned[row, len(states) :].shape, generator=torch.Generator().manual_seed(seed))
        poisoned[row, len(states) :] = 10 * noise
    clean, poisoned_result = policy.predict(batch), policy.predict(Batch(poisoned, *batch[1:]))
    assert torch.equal(clean[0], poisoned_result[0])
    assert torch.equal(clean[1], poisoned_result[1])


@settings(max_examples=25, deadline=None)
@given(rollouts=ROLLOUTS, side=st.sampled_from(["left", "right"]), padding=st.integers(0, 4))
def test_the_side_of_the_padding_changes_nothing(
    rollouts: list[tuple[list[int], list[int]]], side: str, padding: int
) -> None:
    """Log-probabilities equal those of the unsplit model with masks and positions, padded on either side."""
    policy, _ = tiny_policy()
    prompts, responses = [prompt for prompt, _ in rollouts], [response for _, response in rollouts]
    outputs = evaluate_rollouts(policy, run_trunk(policy.split, prompts, responses), [list(range(len(rollouts)))])
    width = max(len(prompt) + len(response) for prompt, response in rollouts) + padding
    for row, (prompt, response) in enumerate(rollouts):
        ids = prompt + response
        blank = width - len(ids)
        left = blank if side == "left" else 0
        padded = [7] * left + ids + [7] * (blank - left)
        mask = torch.tensor([[0] * left + [1] * len(ids) + [0] * (blank - left)])
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            logits = policy.model(torch.tensor([padded]), attention_mask=mask, position_ids=positions).logits[0]
        first = left + len(prompt) - 1
        expected = logits[first : first + len(response)].log_softmax(-1)[range(len(response)), response]
        torch.testing.assert_close(outputs.logprob[row, : len(response)], expected, rtol=0, atol=1e-5)
        assert not outputs.logprob[row, len(response) :].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_trunk_states_of_decoding_equal_recomputed_ones(
    architecture: Architecture, temperature: float
) -> None:
    """Decoding uses a KV cache and padding on the left; recomputing uses neither."""
    policy, tokenizer = tiny_policy(architecture, temperature)
    prompts = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
    steps = _record_logits(policy.model)
    sampling = SamplingConfig(max_new_tokens=6, temperature=temperature)
    responses = generate(
        policy.model,
        tokenizer,
        prompts,
        sampling,
        [1, 2, 3],
        batch_size=3,
        record_block=policy.split.first_trained_block,
    )
    response_ids = [response.token_ids for response in responses]
    assert all(len(ids) == 6 for ids in response_ids)
    recorded = pack_rollouts(prompts, responses, policy.model.device)
    recomputed = run_trunk(policy.split, prompts, response_ids)
    for states, expected in zip(recorded.trunk_states, recomputed.trunk_states, strict=True):
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
    outputs, expected_outputs = (
        evaluate_rollouts(policy, rollouts, [[0, 1, 2]]) for rollouts in (recorded, recomputed)
    )
    torch.testing.assert_close(outputs.logprob, expected_outputs.logprob, rtol=0, atol=1e-5)
    longest_first = [0, 2, 1]
    for batch_row, row in enumerate(longest_first):
        sampled_logprobs = [
            (logits[batch_row] / temperature).log_softmax(-1)[token].item()
            for logits, token in zip(steps, response_ids[row], strict=True)
        ]
        assert outputs.logprob[row].tolist() == pytest.approx(sampled_logprobs, abs=1e-5)


def _record_logits(model: PreTrainedModel) -> list[torch.Tensor]:
    steps: list[torch.Tensor] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: steps.append(output[:, -1].detach()) if output.dim() == 3 else None
    )
    return steps


def test_unflatten_is_the_inverse_of_flatten() -> None:
    policy, _ = tiny_policy()
    rollouts = run_trunk(policy.split, [[5], [6, 7], [8]], [[1, 2], [3, 4, 5], [6]])
    values = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0], [6.0, 0.0, 0.0]])
    assert rollouts.flatten(values, [2, 0]).tolist() == [6.0, 1.0, 2.0]
    copied = torch.zeros(3, 3)
    for rows in ([2, 0], [1]):
        rollouts.unflatten(rollouts.flatten(values, rows), rows, copied)
    assert torch.equal(copied, values)


def test_minibatches_use_every_rollout_once_and_are_shuffled_in_each_epoch() -> None:
    first, second = minibatch_rows(8, [1, 2, 3]), minibatch_rows(8, [4, 5, 6])
    assert len(first) == 8
    assert sorted(row for rows in first for row in rows) == list(range(24))
    assert first != second


def test_minibatches_are_the_same_on_one_rank_and_on_two() -> None:
    """Rank 1 has the second half of the slots, and counts its rollouts from 0."""
    seeds = [1, 2, 3, 4]
    one = minibatch_rows(5, seeds)
    halves = minibatch_rows(5, seeds[:2]), minibatch_rows(5, seeds[2:])
    assert one == [rows + [row + 10 for row in others] for rows, others in zip(*halves, strict=True)]


def test_the_value_head_depends_only_on_its_seed() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    heads = [next(make_value_head(4, seed).parameters()) for seed in (5, 5, 6)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.random.get_rng_state(), state)
