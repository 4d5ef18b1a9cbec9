"""What decoding keeps of a rollout, computed anew."""

from __future__ import annotations

import torch

from rlhf.training.ppo.rollout import Rollouts
from rlhf.training.ppo.trunk import Split


def run_trunk(split: Split, prompts: list[list[int]], answers: list[list[int]]) -> Rollouts:
    """The rollouts of given answers: each alone through the trunk."""
    length_N = torch.tensor([len(answer) for answer in answers])
    return Rollouts(
        kept=[split.keep(torch.tensor([p + a[:-1]]))[0] for p, a in zip(prompts, answers, strict=True)],
        responses=[torch.tensor(answer) for answer in answers],
        mask=torch.arange(int(length_N.max())) < length_N[:, None],
    )
