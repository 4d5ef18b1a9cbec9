"""Rollouts whose trunk states are recomputed instead of recorded during decoding."""

from __future__ import annotations

import torch

from rlhf.training.ppo.rollout import Rollouts
from rlhf.training.ppo.trunk import Split


def run_trunk(split: Split, prompts: list[list[int]], responses: list[list[int]]) -> Rollouts:
    """Rollouts of these prompts and responses, each alone through the trunk."""
    length_N = torch.tensor([len(response) for response in responses])
    return Rollouts(
        trunk_states=[
            split.trunk_states(torch.tensor([prompt + response[:-1]]))[0]
            for prompt, response in zip(prompts, responses, strict=True)
        ],
        responses=[torch.tensor(response) for response in responses],
        mask=torch.arange(int(length_N.max())) < length_N[:, None],
    )
