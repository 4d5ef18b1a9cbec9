"""How good the policy is on prompts that it is not trained on.  N validation prompts of this process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.models.sampling import Response
from rlhf.runtime.seeds import row_seed
from rlhf.training.ppo.context import Run
from rlhf.training.ppo.kl import answer_kl
from rlhf.training.ppo.metrics import answer_sums, means
from rlhf.training.ppo.prompts import Prompt
from rlhf.training.ppo.rollout import estimate


def validate(run: Run, step: int) -> dict[str, float]:
    """Means over the validation answers of the policy after `step`, drawn with the same seeds every time."""
    prompts = [run.validation_prompts[index] for index in run.share(len(run.validation_prompts))]
    answers = run.answer(prompts, [row_seed(run.seed, "validation", prompt.id) for prompt in prompts])
    score_N = run.score(prompts, answers)
    return {"step": step, **means(answer_sums(answers, score_N, _kl(run, prompts, answers)))}


def _kl(run: Run, prompts: Sequence[Prompt], answers: Sequence[Response]) -> Tensor:
    """KL of each answer [N], estimated in batches as large as this process's part of a minibatch."""
    if not prompts:
        return torch.zeros(0)
    rollouts = run.keep(prompts, answers)
    rows, size = list(range(len(prompts))), len(run.share(run.config.minibatch_size))
    estimates = estimate(run.policy, rollouts, [rows[start : start + size] for start in range(0, len(rows), size)])
    return answer_kl(estimates.logprob, estimates.reference_logprob, rollouts.mask)
