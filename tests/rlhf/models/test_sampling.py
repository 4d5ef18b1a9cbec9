"""Sampling draws from the right distribution, independent of the batch, and stops at the right token."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import SamplingConfig
from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import generate, sample_tokens
from rlhf.models.tokenization import decode_response, encode_prompt, load_tokenizer
from rlhf.runtime.seeds import derive_seed
from tests.support.tiny_models import CONTEXT, Architecture, tiny_model

ARCHITECTURES: tuple[Architecture, ...] = ("gptj", "gpt_neox", "llama", "gpt2", "qwen2")
PROMPTS = ("Hi", "Why is the sky blue and not red, or is it?", "What can I cook with rice?", "Is it?", "Eggs?")
LOGITS = torch.tensor([[0.5, 0.3, 0.2]]).log()


def load(folder: Path, architecture: Architecture = "gptj") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tiny_model(folder, architecture)
    return load_causal_lm(folder, "float32"), load_tokenizer(folder)


def prefer(model: PreTrainedModel, token: int) -> None:
    """Make `token` almost certain at every position."""
    head = model.get_output_embeddings()
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.bias.data[token] = 100.0


def sample(uniforms: list[float], logits: Tensor = LOGITS, **sampling: float) -> list[int]:
    rows = logits.expand(len(uniforms), -1)
    tokens: list[int] = sample_tokens(rows, torch.tensor(uniforms), SamplingConfig.model_validate(sampling)).tolist()
    return tokens


class TestSampleTokens:
    def test_the_token_where_the_cumulative_distribution_passes_the_number(self) -> None:
        assert sample([0.0, 0.49, 0.51, 0.79, 0.81, 0.999]) == [0, 0, 1, 1, 2, 2]

    def test_temperature_divides_the_logits(self) -> None:
        """At 0.5 the weights are 25, 9, 4 of 38: boundaries 0.658 and 0.895."""
        assert sample([0.65, 0.66, 0.89, 0.9], temperature=0.5) == [0, 1, 1, 2]

    def test_top_k_keeps_the_k_most_likely(self) -> None:
        """5 and 3 of 8: the boundary is 0.625."""
        assert sample([0.62, 0.63, 0.9999], top_k=2) == [0, 1, 1]

    def test_top_p_keeps_the_fewest_tokens_that_reach_the_share(self) -> None:
        assert sample([0.9999], top_p=0.5) == [0]
        assert sample([0.62, 0.63, 0.9999], top_p=0.51) == [0, 1, 1]

    def test_a_token_without_probability_is_never_sampled(self) -> None:
        """Also at the greatest number below 1, at either end of the vocabulary."""
        logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]])
        assert sample([0.0, 1 - 2**-24], logits=logits) == [1, 2]

    def test_frequencies_are_the_probabilities(self) -> None:
        logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3))
        uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(4))
        counts = torch.bincount(torch.tensor(sample(uniforms.tolist(), logits=logits)), minlength=12)
        expected = logits[0].double().softmax(0) * 20_000
        assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestEveryArchitecture:
    sampling = SamplingConfig(max_new_tokens=12)

    def test_batch_size_and_order_change_nothing(self, tmp_path: Path, architecture: Architecture) -> None:
        model, tokenizer = load(tmp_path, architecture)
        prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
        seeds = [derive_seed(0, prompt) for prompt in PROMPTS]
        together = generate(model, tokenizer, prompts, self.sampling, seeds, batch_size=5)
        apart = generate(model, tokenizer, prompts, self.sampling, seeds, batch_size=1)
        backwards = generate(model, tokenizer, prompts[::-1], self.sampling, seeds[::-1], batch_size=2)
        assert together == apart == backwards[::-1]
        assert len({tuple(response.token_ids) for response in together}) == len(PROMPTS)

    def test_the_cache_changes_nothing(self, tmp_path: Path, architecture: Architecture) -> None:
        """Each token is that of a forward pass over the complete sequence without padding."""
        model, tokenizer = load(tmp_path, architecture)
        prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
        seeds = list(range(len(prompts)))
        responses = generate(model, tokenizer, prompts, self.sampling, seeds, batch_size=5)
        for prompt, seed, response in zip(prompts, seeds, responses, strict=True):
            uniforms = torch.rand(12, generator=torch.Generator().manual_seed(seed))
            expected: list[int] = []
            while len(expected) < 12 and tokenizer.eos_token_id not in expected:
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + expected])).logits[:, -1]
                expected += sample_tokens(logits, uniforms[len(expected)][None], self.sampling).tolist()
            assert response.token_ids == expected


class TestStopping:
    def test_at_the_end_of_text(self, tmp_path: Path) -> None:
        model, tokenizer = load(tmp_path)
        prefer(model, tokenizer.eos_token_id)
        (response,) = generate(model, tokenizer, [[5, 6]], SamplingConfig(), [0], batch_size=1)
        assert response.token_ids == [tokenizer.eos_token_id]
        assert response.text == ""
        assert response.stopped

    def test_at_the_maximum_length(self, tmp_path: Path) -> None:
        model, tokenizer = load(tmp_path)
        prefer(model, 40)
        (response,) = generate(model, tokenizer, [[5]], SamplingConfig(max_new_tokens=7), [0], batch_size=1)
        assert response.token_ids == [40] * 7
        assert not response.stopped

    def test_at_a_stop_sequence_which_is_cut_off(self, tmp_path: Path) -> None:
        """The stop sequence takes two tokens."""
        model, tokenizer = load(tmp_path)
        token = tokenizer.convert_tokens_to_ids("e")
        prefer(model, token)
        sampling = SamplingConfig(max_new_tokens=6)
        (response,) = generate(model, tokenizer, [[5]], sampling, [0], batch_size=1, stop_sequences=("ee", "x"))
        assert response.token_ids == [token] * 2
        assert response.text == ""
        assert response.stopped

    def test_white_space_at_the_end_is_removed(self, tmp_path: Path) -> None:
        model, tokenizer = load(tmp_path)
        space = encode_prompt(tokenizer, " ")[0]
        prefer(model, space)
        (response,) = generate(model, tokenizer, [[5]], SamplingConfig(max_new_tokens=2), [0], batch_size=1)
        assert decode_response(tokenizer, response.token_ids) == "  "
        assert response.text == ""

    def test_when_the_context_is_full(self, tmp_path: Path) -> None:
        """The response to a shorter prompt of the same batch is not shortened."""
        model, tokenizer = load(tmp_path)
        prefer(model, 40)
        prompts = [[5] * (CONTEXT - 3), [5]]
        long, short = generate(model, tokenizer, prompts, SamplingConfig(max_new_tokens=9), [0, 1], batch_size=2)
        assert len(long.token_ids) == 3
        assert len(short.token_ids) == 9


def test_recorded_hidden_states_stay_with_their_rows(tmp_path: Path) -> None:
    """Rows finish at different times and are removed from the cache; each has the states of its tokens but the last."""
    model, tokenizer = load(tmp_path)
    prompts = [[5, 6], [7], [8, 9, 10, 11], [12, 13, 14]]
    model.get_output_embeddings().bias.data[tokenizer.eos_token_id] = 4.0
    block = model.base_model.h[1]
    sampling = SamplingConfig(max_new_tokens=20)
    responses = generate(model, tokenizer, prompts, sampling, [1, 2, 3, 4], batch_size=4, record_block=block)
    assert len({len(response.token_ids) for response in responses}) >= 3
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            ids = torch.tensor([prompt + response.token_ids[:-1]])
            expected = model(ids, output_hidden_states=True).hidden_states[1][0]
        assert response.hidden_states is not None
        torch.testing.assert_close(response.hidden_states, expected, rtol=0, atol=1e-5)
    assert not block._forward_pre_hooks


class TestBadInput:
    def test_a_prompt_that_fills_the_context(self, tmp_path: Path) -> None:
        model, tokenizer = load(tmp_path)
        prompts = [[5], [5] * CONTEXT]
        with pytest.raises(
            UserError, match=r"prompt 2 has 128 tokens.*context of 128.*max_prompt_tokens to at most 127"
        ):
            generate(model, tokenizer, prompts, SamplingConfig(), [0, 1], batch_size=2)

    def test_a_model_of_nan(self, tmp_path: Path) -> None:
        model, tokenizer = load(tmp_path)
        model.get_output_embeddings().weight.data.fill_(math.nan)
        with pytest.raises(UserError, match="logits that are not finite"):
            generate(model, tokenizer, [[5]], SamplingConfig(), [0], batch_size=1)

    def test_no_prompts(self, tmp_path: Path) -> None:
        model, tokenizer = load(tmp_path)
        assert generate(model, tokenizer, [], SamplingConfig(), [], batch_size=2) == []


def test_progress_is_reported_after_each_batch(tmp_path: Path) -> None:
    model, tokenizer = load(tmp_path)
    counts: list[int] = []
    generate(
        model,
        tokenizer,
        [[5]] * 5,
        SamplingConfig(max_new_tokens=1),
        list(range(5)),
        batch_size=2,
        on_batch=counts.append,
    )
    assert counts == [2, 4, 5]
