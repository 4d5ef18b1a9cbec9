"""Score, KL and diversity of the policy on the validation prompts.  N validation prompts of this rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf.data.text import distinct_ngrams
from rlhf.models.sampling import Response
from rlhf.runtime.distributed import all_gather_rows
from rlhf.runtime.metrics_log import MetricsLog, drop_rows_after
from rlhf.runtime.seeds import derive_seed
from rlhf.runtime.stage import is_main_process
from rlhf.runtime.trackers import log_metrics
from rlhf.storage.files import append_durably
from rlhf.training.ppo.context import PpoContext, subtract_offsets
from rlhf.training.ppo.kl import response_kl
from rlhf.training.ppo.metrics import all_reduce_means, response_metric_sums
from rlhf.training.ppo.prompts import Prompt
from rlhf.training.ppo.rollout import evaluate_rollouts


class Validation(NamedTuple):
    """What the policy did on the validation prompts after a step."""

    row: dict[str, float]
    """Means over the responses of all ranks."""
    responses: list[dict[str, object]]
    """Response of each prompt, in the order of the prompts, on every rank."""


class ValidationLog:
    """The files `validation.jsonl` and `validation_responses.jsonl`; a resumed run neither repeats nor misses a row."""

    def __init__(self, output: Path, resumed_after: int | None) -> None:
        """Drop the rows after the step that the run resumes from, or all rows if it is None."""
        self._metrics = MetricsLog(output / "validation.jsonl", resumed_after, log_metrics)
        self._responses = output / "validation_responses.jsonl"
        drop_rows_after(resumed_after, self._responses)

    def write(self, validation: Validation) -> None:
        """Append a validation's rows.  They are on the disk when this returns, so before any later checkpoint."""
        if is_main_process():
            append_durably(self._responses, "".join(json.dumps(row) + "\n" for row in validation.responses))
        self._metrics.write(validation.row)


def validate(context: PpoContext, step: int) -> Validation:
    """Sample a response to each validation prompt after `step`, with the same seeds every time, and measure them."""
    prompts = [context.validation_prompts[index] for index in context.shard(len(context.validation_prompts))]
    responses = context.generate(prompts, [derive_seed(context.seed, "validation", prompt.id) for prompt in prompts])
    raw_score_N = context.raw_score(prompts, responses)
    kl_N = _kl(context, prompts, responses)
    metrics = all_reduce_means(response_metric_sums(responses, subtract_offsets(raw_score_N, prompts), kl_N))
    token_ids = all_gather_rows([response.token_ids for response in responses])
    rows = _response_rows(step, prompts, responses, raw_score_N=raw_score_N, kl_N=kl_N)
    return Validation({"step": step, **metrics, "distinct_ngrams": distinct_ngrams(token_ids)}, all_gather_rows(rows))


def _response_rows(
    step: int, prompts: Sequence[Prompt], responses: Sequence[Response], *, raw_score_N: Tensor, kl_N: Tensor
) -> list[dict[str, object]]:
    return [
        {
            "step": step,
            "id": prompt.id,
            "prompt": prompt.text,
            "response": response.text,
            "ended": response.stopped,
            "tokens": len(response.token_ids),
            "kl": kl,
            "reward": reward,
        }
        for prompt, response, kl, reward in zip(prompts, responses, kl_N.tolist(), raw_score_N.tolist(), strict=True)
    ]


def _kl(context: PpoContext, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
    """KL of each response [N], computed in batches of this rank's share of a minibatch."""
    if not prompts:
        return torch.zeros(0)
    rollouts = context.pack_rollouts(prompts, responses)
    rows, size = list(range(len(prompts))), len(context.shard(context.config.minibatch_size))
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    outputs = evaluate_rollouts(context.policy, rollouts, batches)
    return response_kl(outputs.logprob, outputs.reference_logprob, rollouts.mask)
