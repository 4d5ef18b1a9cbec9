"""Child process: the prompts in a folder answered by our `generate` or one at a time, by the same model."""

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
from tests.benchmarks.measure import Gauge, Measured, tell
from tests.benchmarks.work import as_published

ANSWER_TOKENS = 60
"""The weights are random, so every token is about as likely; the EOS is made to come once in so many."""
SETTINGS = ResponsesConfig()
"""128 tokens at most, everything kept (top_k 0, top_p 1), as in the published notebook."""
Answer = Callable[[PreTrainedModel, PreTrainedTokenizerBase, list[str]], list[str]]


def ours(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[str]:
    """As generate_responses does it."""
    answers = generate(
        model,
        tokenizer,
        [encode_prompt(tokenizer, prompt) for prompt in prompts],
        SETTINGS.sampling,
        [derive_seed(1, prompt) for prompt in prompts],
        batch_size=SETTINGS.batch_size,
        stop_sequences=SETTINGS.stop_sequences,
    )
    return [answer.text for answer in answers]


def one_at_a_time(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[str]:
    """As the published notebook does it: each prompt sampled by itself, then cut at the first stop sequence."""
    torch.manual_seed(1)
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            drawn = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=SETTINGS.sampling.top_k,
                top_p=SETTINGS.sampling.top_p,
                max_new_tokens=SETTINGS.sampling.max_new_tokens,
            )
        text = tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True)
        for stop in SETTINGS.stop_sequences:
            text = text.split(stop)[0]
        answers.append(text.rstrip())
    return answers


SIDES: dict[str, Answer] = {"ours": ours, "one_at_a_time": one_at_a_time}


def main() -> None:
    """Answer, keep the answers, tell what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()
    gauge = Gauge()
    tokenizer = load_tokenizer(options.model)
    if options.side == "ours":
        model = load_causal_lm(options.model, "float32")
    else:
        model = as_published(AutoModelForCausalLM, options.model, "float32")
    model.lm_head.bias.data[tokenizer.eos_token_id] = math.log(len(tokenizer) / ANSWER_TOKENS)
    prompts = json.loads(options.prompts.read_text())
    gauge.begin()
    started, cpu_started = time.perf_counter(), time.process_time()
    answers = SIDES[options.side](model, tokenizer, prompts)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    options.answers.write_text(json.dumps(answers))
    tell(Measured(seconds={"answer": seconds}, cpu_seconds=cpu_seconds, peak_bytes=gauge.peak_bytes()))


if __name__ == "__main__":
    main()
