"""A decoding step can be recorded once and replayed, as a CUDA graph does."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import MistralConfig, MistralForCausalLM

from rlhf.config import SamplingConfig
from rlhf.models import decoder, sampling
from rlhf.models.cuda_graph import as_cuda_graph
from rlhf.models.decoder import CPU_WINDOW
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import Response, generate
from rlhf.models.tokenization import load_tokenizer
from tests.support.tiny_models import Architecture, tiny_model, tiny_tokenizer

ARCHITECTURES: tuple[Architecture, ...] = ("gptj", "gpt_neox", "llama", "gpt2", "qwen2")
PROMPTS = [[5, 6, 7, 8], [9], [10, 11], [12, 13, 14]]
SAMPLING = SamplingConfig(max_new_tokens=2 * CPU_WINDOW + 3)


def record(function: Callable[[], Tensor], _device: torch.device) -> Callable[[], Tensor]:
    """Record the operations of one call on its tensors; a replay runs no Python code of `function`."""
    function()
    nothing = torch.zeros(())
    return partial(make_fx(lambda _: function())(nothing), nothing)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recorded_step_gives_the_same_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: Architecture
) -> None:
    """Over several windows, with rows that finish early; recorded hidden states are the same too."""
    model, tokenizer = load_causal_lm(tiny_model(tmp_path, architecture), "float32"), load_tokenizer(tmp_path)
    block = next(child for child in model.base_model.modules() if isinstance(child, torch.nn.ModuleList))[1]
    tokenizer.eos_token_id = 40
    recordings: list[Callable[[], Tensor]] = []

    def recording(function: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        recordings.append(record(function, device))
        return recordings[-1]

    def respond() -> list[Response]:
        return generate(model, tokenizer, PROMPTS, SAMPLING, [1, 2, 3, 4], batch_size=4, record_block=block)

    expected = respond()
    monkeypatch.setattr(decoder, "as_cuda_graph", recording)
    responses = respond()
    assert 3 <= len(recordings) <= 6
    assert responses == expected
    for response, other in zip(responses, expected, strict=True):
        assert response.hidden_states is not None
        assert other.hidden_states is not None
        torch.testing.assert_close(response.hidden_states, other.hidden_states, rtol=0, atol=1e-6)


def test_a_model_with_a_sliding_window_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache moves, so every step runs as plain Python, with shapes that grow."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(**sizes, num_key_value_heads=2, vocab_size=328, sliding_window=4)
    model = MistralForCausalLM(config).eval()

    def refuse(_function: object, _device: object) -> None:
        raise AssertionError

    monkeypatch.setattr(decoder, "as_cuda_graph", refuse)
    (response,) = generate(model, tiny_tokenizer(), [[5, 6]], SamplingConfig(max_new_tokens=8), [1], batch_size=1)
    ids = [5, 6]
    uniforms = torch.rand(8, generator=torch.Generator().manual_seed(1))
    for token, uniform in zip(response.token_ids, uniforms, strict=False):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        cumulative = logits.softmax(-1).cumsum(-1)
        assert token == int((cumulative <= uniform).sum())
        ids.append(token)


def test_on_a_cpu_the_function_itself_is_returned() -> None:
    def step() -> Tensor:
        return torch.zeros(1)

    assert as_cuda_graph(step, torch.device("cpu")) is step


def test_keys_and_values_are_freed_immediately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which may run batches later."""
    model, tokenizer = load_causal_lm(tiny_model(tmp_path), "float32"), load_tokenizer(tmp_path)
    caches: list[weakref.ref[object]] = []

    class TrackedDecoder(decoder.Decoder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            caches.append(weakref.ref(self.cache))

    monkeypatch.setattr(sampling, "Decoder", TrackedDecoder)
    gc.disable()
    try:
        generate(model, tokenizer, PROMPTS, SamplingConfig(max_new_tokens=4), [1, 2, 3, 4], batch_size=2)
        assert [cache() for cache in caches] == [None, None]
    finally:
        gc.enable()
