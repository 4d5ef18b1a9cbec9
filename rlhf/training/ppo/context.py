"""One PPO run in one process: everything that its steps share.  N rollouts of this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.config import PpoConfig
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import Response, generate
from rlhf.training.ppo.kl import KlController
from rlhf.training.ppo.memory import decode_rows
from rlhf.training.ppo.optimizer import Optimizer
from rlhf.training.ppo.policy import Policy
from rlhf.training.ppo.prompts import Prompt
from rlhf.training.ppo.rollout import Rollouts, keep_rollouts
from rlhf.training.ppo.score_scaling import RunningMoments

CPU_SCORE_BATCH = 8
"""Answers scored at once on a CPU, where more are no faster and their activations no longer fit its cache."""


@dataclass
class Run:
    """The models, the prompts and the running figures."""

    config: PpoConfig
    seed: int
    policy: Policy
    optimizer: Optimizer
    tokenizer: PreTrainedTokenizerBase
    reward_model: RewardModel
    prompts: list[Prompt]
    validation_prompts: list[Prompt]
    kl: KlController
    scores: RunningMoments
    cache_token_bytes: int
    """Keys and values of one token."""
    cache_room: int
    """Bytes that the keys and values of a batch may take."""
    process: int
    """This process's number, from 0."""
    processes: int

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        device: torch.device = self.policy.model.device
        return device

    def share(self, count: int) -> range:
        """This process's part of `count` things in order: equal parts where the processes divide them."""
        return range(self.process * count // self.processes, (self.process + 1) * count // self.processes)

    def answer(self, prompts: Sequence[Prompt], seeds: list[int]) -> list[Response]:
        """The policy's answers as it is now."""
        prompt_ids = [prompt.token_ids for prompt in prompts]
        return generate(
            self.policy.model,
            self.tokenizer,
            prompt_ids,
            self.config.sampling,
            seeds,
            batch_size=self.decode_rows(prompt_ids),
            record_block=self.policy.split.boundary,
        )

    def decode_rows(self, prompt_ids: list[list[int]]) -> int:
        """How many of the prompts are answered at once."""
        longest = max(map(len, prompt_ids), default=0) + self.config.sampling.max_new_tokens
        return decode_rows(
            len(prompt_ids),
            at_most=self.config.rollout_batch_size,
            row_bytes=longest * self.cache_token_bytes,
            room=self.cache_room,
        )

    def keep(self, prompts: Sequence[Prompt], answers: Sequence[Response]) -> Rollouts:
        """The answers as training takes them."""
        return keep_rollouts([prompt.token_ids for prompt in prompts], answers, self.device)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Response]) -> Tensor:
        """Scores [N] of the answers' text, less the prompts' baselines."""
        texts = [answer.text for answer in answers]
        size = self.config.rollout_batch_size
        if self.device.type == "cpu":
            size = min(size, CPU_SCORE_BATCH)
        score_N = self.reward_model.score([prompt.text for prompt in prompts], texts, size)
        return (score_N - torch.tensor([prompt.baseline for prompt in prompts])).to(self.device)
