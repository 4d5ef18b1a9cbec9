"""Everything that the steps of one PPO run share, on one rank.  N rollouts of this rank."""

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
from rlhf.training.ppo.memory import decode_batch_size
from rlhf.training.ppo.optimizer import Optimizer
from rlhf.training.ppo.policy import Policy
from rlhf.training.ppo.prompts import Prompt
from rlhf.training.ppo.rollout import Rollouts, pack_rollouts
from rlhf.training.ppo.score_scaling import RunningStatistics

CPU_SCORE_BATCH_SIZE = 8
"""Maximum number of responses scored together on a CPU; more are no faster, as their activations exceed its cache."""


@dataclass
class PpoContext:
    """Models, prompts and running state of a PPO run."""

    config: PpoConfig
    stop_sequences: tuple[str, ...]
    """A response ends before the first of these texts."""
    seed: int
    policy: Policy
    optimizer: Optimizer
    tokenizer: PreTrainedTokenizerBase
    reward_model: RewardModel
    prompts: list[Prompt]
    validation_prompts: list[Prompt]
    kl_controller: KlController
    score_statistics: RunningStatistics
    cache_bytes_per_token: int
    """Bytes of one token's keys and values."""
    kv_cache_budget: int
    """Bytes that the keys and values of a batch may take."""
    rank: int
    world_size: int

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        device: torch.device = self.policy.model.device
        return device

    def shard(self, count: int) -> range:
        """This rank's contiguous part of `count` items; all parts are equal if `world_size` divides `count`."""
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def generate(self, prompts: Sequence[Prompt], seeds: list[int]) -> list[Response]:
        """Sample a response to each prompt from the current policy."""
        prompt_ids = [prompt.token_ids for prompt in prompts]
        return generate(
            self.policy.model,
            self.tokenizer,
            prompt_ids,
            self.config.sampling,
            seeds,
            batch_size=self.decode_batch_size(prompt_ids),
            stop_sequences=self.stop_sequences,
            record_block=self.policy.split.first_trained_block,
        )

    def decode_batch_size(self, prompt_ids: list[list[int]]) -> int:
        """Number of prompts that get their responses at the same time."""
        longest = max(map(len, prompt_ids), default=0) + self.config.sampling.max_new_tokens
        return decode_batch_size(
            len(prompt_ids),
            max_batch_size=self.config.rollout_batch_size,
            bytes_per_row=longest * self.cache_bytes_per_token,
            budget=self.kv_cache_budget,
        )

    def score(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        """Reward model's scores [N] of the responses' text, minus the prompts' score offsets."""
        return subtract_offsets(self.raw_score(prompts, responses), prompts)

    def raw_score(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Tensor:
        """Reward model's scores [N] of the responses' text."""
        texts = [response.text for response in responses]
        batch_size = self.config.rollout_batch_size
        if self.device.type == "cpu":
            batch_size = min(batch_size, CPU_SCORE_BATCH_SIZE)
        return self.reward_model.score([prompt.text for prompt in prompts], texts, batch_size).to(self.device)

    def pack_rollouts(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Rollouts:
        """Prompts and responses as tensors for training."""
        return pack_rollouts([prompt.token_ids for prompt in prompts], responses, self.device)


def subtract_offsets(score_N: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Scores minus the scores of the prompts' chosen responses, if these are subtracted."""
    return score_N - torch.tensor([prompt.score_offset for prompt in prompts], device=score_N.device)
