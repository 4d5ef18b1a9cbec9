"""Score and KL of the policy on the validation prompts.  N validation prompts of this rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.models.sampling import Response
from rlhf.runtime.seeds import derive_seed
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.kl import response_kl
from rlhf.training.ppo.metrics import all_reduce_means, response_metric_sums
from rlhf.training.ppo.prompts import Prompt
from rlhf.training.ppo.rollout import evaluate_rollouts


def validate(context: PpoContext, step: int) -> dict[str, float]:
    """Mean metrics of the validation responses after `step`; these are sampled with the same seeds every time."""
    prompts = [context.validation_prompts[index] for index in context.shard(len(context.validation_prompts))]
    responses = context.generate(prompts, [derive_seed(context.seed, "validation", prompt.id) for prompt in prompts])
    score_N = context.score(prompts, responses)
    kl_N = _kl(context, prompts, responses)
    return {"step": step, **all_reduce_means(response_metric_sums(responses, score_N, kl_N))}


def _kl(context: PpoContext, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
    """KL of each response [N], computed in batches of this rank's share of a minibatch."""
    if not prompts:
        return torch.zeros(0)
    rollouts = context.pack_rollouts(prompts, responses)
    rows, size = list(range(len(prompts))), len(context.shard(context.config.minibatch_size))
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    outputs = evaluate_rollouts(context.policy, rollouts, batches)
    return response_kl(outputs.logprob, outputs.reference_logprob, rollouts.mask)
