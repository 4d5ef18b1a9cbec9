"""Padding never counts, and what is computed once is what would be computed again."""

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
from rlhf.training.ppo.rollout import estimate, keep_rollouts, minibatch_rows
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
def test_what_stands_in_the_padding_changes_nothing(rollouts: list[tuple[list[int], list[int]]], seed: int) -> None:
    """To the last bit."""
    policy, _ = tiny_policy()
    kept = run_trunk(policy.split, [prompt for prompt, _ in rollouts], [answer for _, answer in rollouts])
    batch = kept.batch(range(len(rollouts)))
    poisoned = batch.kept.clone()
    for row, states in enumerate(kept.kept):
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
    """Log-probabilities and values are those of the whole model, given masks and positions, padded on either side."""
    policy, _ = tiny_policy()
    prompts, answers = [prompt for prompt, _ in rollouts], [answer for _, answer in rollouts]
    estimates = estimate(policy, run_trunk(policy.split, prompts, answers), [list(range(len(rollouts)))])
    width = max(len(prompt) + len(answer) for prompt, answer in rollouts) + padding
    for row, (prompt, answer) in enumerate(rollouts):
        ids = prompt + answer
        blank = width - len(ids)
        left = blank if side == "left" else 0
        padded = [7] * left + ids + [7] * (blank - left)
        mask = torch.tensor([[0] * left + [1] * len(ids) + [0] * (blank - left)])
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        with torch.no_grad():
            logits = policy.model(torch.tensor([padded]), attention_mask=mask, position_ids=positions).logits[0]
        first = left + len(prompt) - 1
        expected = logits[first : first + len(answer)].log_softmax(-1)[range(len(answer)), answer]
        torch.testing.assert_close(estimates.logprob[row, : len(answer)], expected, rtol=0, atol=1e-5)
        assert not estimates.logprob[row, len(answer) :].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_generation_logprobs_equal_recomputed_ones(architecture: Architecture, temperature: float) -> None:
    """What the model gave while it drew each token, with a cache and padding on the left; and what it kept then."""
    policy, tokenizer = tiny_policy(architecture, temperature)
    prompts = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
    steps = _record_logits(policy.model)
    sampling = SamplingConfig(max_new_tokens=6, temperature=temperature)
    boundary = policy.split.boundary
    completions = generate(policy.model, tokenizer, prompts, sampling, [1, 2, 3], batch_size=3, record_block=boundary)
    answers = [completion.token_ids for completion in completions]
    assert all(len(answer) == 6 for answer in answers)
    kept = keep_rollouts(prompts, completions, policy.model.device)
    recomputed = run_trunk(policy.split, prompts, answers)
    for states, expected in zip(kept.kept, recomputed.kept, strict=True):
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
    estimates, again = (estimate(policy, rollouts, [[0, 1, 2]]) for rollouts in (kept, recomputed))
    torch.testing.assert_close(estimates.logprob, again.logprob, rtol=0, atol=1e-5)
    longest_first = [0, 2, 1]
    for place, row in enumerate(longest_first):
        drawn = [
            (logits[place] / temperature).log_softmax(-1)[token].item()
            for logits, token in zip(steps, answers[row], strict=True)
        ]
        assert estimates.logprob[row].tolist() == pytest.approx(drawn, abs=1e-5)


def _record_logits(model: PreTrainedModel) -> list[torch.Tensor]:
    steps: list[torch.Tensor] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: steps.append(output[:, -1].detach()) if output.dim() == 3 else None
    )
    return steps


def test_values_go_back_to_where_they_came_from() -> None:
    policy, _ = tiny_policy()
    rollouts = run_trunk(policy.split, [[5], [6, 7], [8]], [[1, 2], [3, 4, 5], [6]])
    values = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0], [6.0, 0.0, 0.0]])
    assert rollouts.flatten(values, [2, 0]).tolist() == [6.0, 1.0, 2.0]
    copied = torch.zeros(3, 3)
    for rows in ([2, 0], [1]):
        rollouts.unflatten(rollouts.flatten(values, rows), rows, copied)
    assert torch.equal(copied, values)


def test_minibatches_take_every_rollout_once_and_mix_anew_in_each_epoch() -> None:
    first, second = minibatch_rows(8, [1, 2, 3]), minibatch_rows(8, [4, 5, 6])
    assert len(first) == 8
    assert sorted(row for rows in first for row in rows) == list(range(24))
    assert first != second


def test_minibatches_are_the_same_on_one_process_and_on_two() -> None:
    """The second process has the second half of the lanes, and counts its rollouts from 0."""
    seeds = [1, 2, 3, 4]
    one = minibatch_rows(5, seeds)
    halves = minibatch_rows(5, seeds[:2]), minibatch_rows(5, seeds[2:])
    assert one == [rows + [row + 10 for row in others] for rows, others in zip(*halves, strict=True)]


def test_the_value_head_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    heads = [next(make_value_head(4, seed).parameters()) for seed in (5, 5, 6)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.random.get_rng_state(), state)
