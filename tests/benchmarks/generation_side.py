"""Child process: samples responses to prompts with our `generate` or one at a time, from the same model."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config import ResponsesConfig
from rlhf.models.loading import load_causal_lm
from rlhf.models.sampling import generate
from rlhf.models.tokenization import encode_prompt, load_tokenizer
from rlhf.runtime.seeds import derive_seed
from tests.benchmarks.measure import Gauge, Measured, print_measured
from tests.benchmarks.work import as_published

MEAN_RESPONSE_TOKENS = 60
"""Weights are random, so all tokens are about equally likely; the EOS gets the probability 1 / MEAN_RESPONSE_TOKENS."""
SETTINGS = ResponsesConfig()
"""128 tokens at most, no filtering (top_k 0, top_p 1), as in the published notebook."""
Side = Callable[[PreTrainedModel, PreTrainedTokenizerBase, list[str]], list[str]]


def ours(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[str]:
    """As in generate_responses."""
    responses = generate(
        model,
        tokenizer,
        [encode_prompt(tokenizer, prompt) for prompt in prompts],
        SETTINGS.sampling,
        [derive_seed(1, prompt) for prompt in prompts],
        batch_size=SETTINGS.batch_size,
        stop_sequences=SETTINGS.stop_sequences,
    )
    return [response.text for response in responses]


def one_at_a_time(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[str]:
    """As in the published notebook: each prompt alone, and the text is cut at the first stop sequence."""
    torch.manual_seed(1)
    responses = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=SETTINGS.sampling.top_k,
                top_p=SETTINGS.sampling.top_p,
                max_new_tokens=SETTINGS.sampling.max_new_tokens,
            )
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        for stop in SETTINGS.stop_sequences:
            text = text.split(stop)[0]
        responses.append(text.rstrip())
    return responses


SIDES: dict[str, Side] = {"ours": ours, "one_at_a_time": one_at_a_time}


def main() -> None:
    """Generate responses, save them and report the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("responses", type=Path)
    options = parser.parse_args()
    gauge = Gauge()
    tokenizer = load_tokenizer(options.model)
    if options.side == "ours":
        model = load_causal_lm(options.model, "float32")
    else:
        model = as_published(AutoModelForCausalLM, options.model, "float32")
    model.lm_head.bias.data[tokenizer.eos_token_id] = math.log(len(tokenizer) / MEAN_RESPONSE_TOKENS)
    prompts = json.loads(options.prompts.read_text())
    gauge.begin()
    started, cpu_started = time.perf_counter(), time.process_time()
    responses = SIDES[options.side](model, tokenizer, prompts)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    options.responses.write_text(json.dumps(responses))
    print_measured(Measured(seconds={"generate": seconds}, cpu_seconds=cpu_seconds, peak_bytes=gauge.peak_bytes()))


if __name__ == "__main__":
    main()
