"""The PPO trainings of a run in results.json, and how they went on the way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.results.base import Record


class RejectedCheckpoint(Record):
    """A validated checkpoint that could not become the final model."""

    step: int = Field(ge=0)
    """PPO steps so far."""
    score: float
    """Its mean score on the validation prompts."""
    reasons: tuple[str, ...]
    """The bounds of ppo.selection that it broke."""


class EarlyEnd(Record):
    """Why PPO ended before its last step."""

    step: int = Field(ge=1)
    """The step whose rollouts exceeded the maximum; it was not trained on."""
    kl: float
    """Their mean KL to the SFT model, in nats per response."""
    max_kl: float
    """The maximum, ppo.max_kl."""


class SeedResults(Record):
    """One PPO training: RLHF minus SFT on the test prompts, without intervals."""

    seed: int
    """Seed of the training."""
    best_step: int = Field(ge=0)
    """PPO step of the final model; 0 is the SFT model itself."""
    best_score: float
    """Mean score of the final model on the validation prompts, by which it was chosen."""
    stopped_early: EarlyEnd | None
    """Set if the training ended before its last step."""
    rejected: tuple[RejectedCheckpoint, ...]
    """Validated checkpoints outside the bounds of ppo.selection."""
    reward_difference: float
    """Mean difference in the optimized reward."""
    reward_length_controlled: float
    """The same at equal length."""
    toxicity_difference: float
    """Mean difference in toxicity."""
    judge_win_rate: float | None
    """Win rate by the independent judge; null without one."""
    kl: float
    """Mean KL to the SFT model, in nats per response."""
    response_tokens: float
    """Mean tokens per response."""
    ended_share: float = Field(ge=0, le=1)
    """Share of responses that ended by themselves."""
    validation_loss_difference: float
    """Mean difference in the loss on validation demonstrations, in nats per token."""


class OverOptimizationPoint(Record):
    """What optimizing this far gains by the optimized reward model, and by the independent judge.

    All means are over the validation prompts.  Sources: Gao, Schulman and Hilton (2023), Scaling Laws for Reward Model
    Overoptimization; for best-of-n Nakano et al. (2021), WebGPT, section 3.
    """

    method: Literal["ppo", "best_of_n"]
    """`ppo`: a validated checkpoint; `best_of_n`: the best of n responses of the SFT model by the optimized reward."""
    seed: int
    """Seed of the PPO training, or of the run."""
    step: int | None = Field(default=None, ge=0)
    """PPO step."""
    n: int | None = Field(default=None, ge=1)
    """Responses from which the best is picked."""
    kl: float = Field(ge=0)
    """KL to the SFT model, in nats per response: measured for PPO, log n - (n - 1) / n for best-of-n."""
    optimised_score: float
    """Mean score by the optimized reward model."""
    judge_win_rate: float | None = Field(ge=0, le=1)
    """Win rate over responses of the SFT model by the independent judge; null without one."""
    ended_share: float = Field(ge=0, le=1)
    """Share of responses that ended by themselves."""
    response_words: float = Field(ge=0)
    """Mean length, in words."""
    distinct_ngrams: float | None = Field(ge=0, le=1)
    """Share of distinct 3-grams of words across all responses; null for best-of-n with n > 1."""
