"""Sample responses of a model to many prompts, and score them with a reward model.

Prompts of similar length form a batch, and each batch is handled by exactly one rank, so the rows are byte-identical
for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf.config import SamplingConfig
from rlhf.models.loading import Dtype, load_causal_lm
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import generate
from rlhf.models.tokenization import encode_prompt, load_tokenizer
from rlhf.runtime.distributed import all_gather_rows, init_distributed
from rlhf.runtime.stage import progress


class Draw(NamedTuple):
    """One response that is to be sampled."""

    prompt_id: str
    prompt: str
    seed: int
    """Seed of the response."""


def respond_and_score(
    policy: Path,
    reward: Path,
    draws: Sequence[Draw],
    *,
    sampling: SamplingConfig,
    stop_sequences: tuple[str, ...],
    batch_size: int,
    dtype: Dtype,
) -> list[dict[str, object]]:
    """A row {id, prompt, response, seed, reward, stopped} for each draw, in their order, on every rank.

    `policy` and `reward` are folders of a causal language model and of a reward model.
    """
    state = init_distributed()
    tokenizer, model = load_tokenizer(policy), load_causal_lm(policy, dtype).to(state.device).eval()
    reward_model = RewardModel.load(reward, dtype, state.device)
    prompt_ids = [encode_prompt(tokenizer, draw.prompt) for draw in draws]
    longest_first = sorted(range(len(draws)), key=lambda index: -len(prompt_ids[index]))
    starts = range(0, len(draws), batch_size)[state.process_index :: state.num_processes]
    numbered: list[tuple[int, dict[str, object]]] = []
    for start in starts:
        batch = longest_first[start : start + batch_size]
        responses = generate(
            model,
            tokenizer,
            [prompt_ids[index] for index in batch],
            sampling,
            [draws[index].seed for index in batch],
            batch_size=batch_size,
            stop_sequences=stop_sequences,
        )
        prompts, texts = [draws[index].prompt for index in batch], [response.text for response in responses]
        scores = reward_model.score(prompts, texts, batch_size).tolist()
        for index, response, score in zip(batch, responses, scores, strict=True):
            prompt_id, prompt, seed = draws[index]
            row = {"id": prompt_id, "prompt": prompt, "response": response.text, "seed": seed, "reward": score}
            numbered.append((index, {**row, "stopped": response.stopped}))
        progress("responses", min(start + batch_size * state.num_processes, len(draws)), len(draws))
    return [row for _, row in sorted(all_gather_rows(numbered), key=lambda pair: pair[0])]
