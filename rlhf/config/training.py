"""Settings of what is trained: SFT, reward model, judges and PPO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.config.base import PathText, Settings
from rlhf.config.inputs import ModelConfig

DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of an average."""


class TrainingConfig(Settings):
    """Settings that supervised fine-tuning and reward model training share."""

    epochs: float = Field(default=1.0, gt=0, le=10_000)
    """Passes over the training data."""
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Maximum number of optimizer steps; null runs all epochs."""
    batch_size: int = Field(default=8, ge=1, le=1_000_000)
    """Examples (reward model: pairs) per optimizer step, summed over all processes."""
    device_batch_size: int = Field(default=8, ge=1, le=1_000_000)
    """Examples (reward model: pairs) per forward pass of one process; gradients accumulate up to `batch_size`."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW; decays linearly to 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    """Optimizer steps of linear warmup."""
    checkpoint_every: int = Field(default=500, ge=1, le=1_000_000_000)
    """Optimizer steps between checkpoints; the validation loss is measured at the same time."""


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on the chosen responses.  The loss covers the response and its end of text."""


class RewardConfig(TrainingConfig):
    """Bradley-Terry reward model, trained on the preference pairs or loaded."""

    path: PathText | None = None
    """Folder of a finished reward model (sequence classification with one label); if set, none is trained."""


class LlmJudgeConfig(Settings):
    """A language model that compares the test responses of both models, each pair in both orders."""

    url: str | None = None
    """Base address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model on that server."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the server's API key, where the stage runs; without it no key is sent."""
    path: PathText | None = None
    """Folder of a causal language model to use instead of a server."""
    requests_at_once: int = Field(default=8, ge=1, le=1000)
    """Questions that are asked at the same time (folder: compared in one batch)."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        """`judge.llm` needs either `url` and `model`, or `path`."""
        if (self.url is None) == (self.path is None) or (self.url is not None and not self.model):
            raise ValueError("judge.llm needs either url and model, or path")
        return self


class JudgeConfig(Settings):
    """The independent judge: a reward model on the dialogues of `data.judge_share`, which PPO never sees."""

    model: ModelConfig | None = None
    """Base model of the judge; null uses that of the policy.  A text is the folder of one."""
    training: TrainingConfig | None = None
    """Settings of its training; null uses those of `reward`."""
    llm: LlmJudgeConfig | None = None
    """A second judge: a language model that is asked which response is better; null asks none."""

    @field_validator("model", mode="before")
    @classmethod
    def _text_is_a_folder(cls, model: object) -> object:
        return {"path": model} if isinstance(model, str) else model


class SamplingConfig(Settings):
    """How tokens are sampled."""

    max_new_tokens: int = Field(default=128, ge=1, le=1_000_000)
    """Maximum number of sampled tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature: the logits are divided by it."""
    top_k: int = Field(default=0, ge=0, le=10_000_000)
    """Sample from the k most likely tokens only; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have this probability; 1 keeps all."""


class SelectionConfig(Settings):
    """Bounds that a PPO checkpoint must keep to become the final model, measured on the validation prompts.

    Reasons for the defaults: docs/ppo.md.
    """

    max_kl: float = Field(default=25.0, gt=0)
    """Largest KL to the SFT model, in nats per response."""
    max_ended_share_drop: float = Field(default=0.05, ge=0, le=1)
    """Largest fall of the share of responses that end by themselves, below that of the SFT model."""
    max_length_ratio: float = Field(default=1.5, gt=1)
    """Largest ratio of mean response lengths, RLHF to SFT or SFT to RLHF."""
    min_diversity_ratio: float = Field(default=0.8, ge=0, le=1)
    """Smallest ratio, RLHF to SFT, of the share of distinct 3-grams of tokens across all responses."""


class PpoConfig(Settings):
    """PPO against the reward model.  The defaults are the published 6B recipe (trlx, examples/hh/ppo_hh.py)."""

    steps: int = Field(default=94, ge=1, le=10_000_000)
    """PPO steps; each samples rollouts, then trains on them.  94, in minibatches of 28, are 6,000 optimizer steps."""
    rollouts_per_step: int = Field(default=448, ge=1, le=1_000_000)
    """Responses sampled per PPO step, summed over all processes."""
    epochs: int = Field(default=4, ge=1, le=1000)
    """Passes over the rollouts of a PPO step."""
    minibatch_size: int = Field(default=32, ge=1, le=1_000_000)
    """Rollouts per optimizer step, summed over all processes."""
    rollout_batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Maximum number of rollouts that one process samples or scores at the same time; limited by its memory."""
    unfrozen_blocks: Annotated[int, Field(ge=1, le=1000)] | Literal["all"] = 2
    """Number of top transformer blocks that are trained; `all` trains every weight and keeps a full reference model."""
    sampling: SamplingConfig = SamplingConfig()
    """How rollouts are sampled.  `top_k` and `top_p` must be off: PPO needs the probabilities of all tokens."""
    seeds: int = Field(default=1, ge=1, le=1000)
    """Number of trainings, which differ in their seed only: `seed`, `seed` + 1, ...; people compare the first."""
    learning_rate: float = Field(default=8e-6, gt=0)
    """Learning rate of AdamW, constant."""
    adam_betas: tuple[DecayRate, DecayRate] = (0.9, 0.95)
    """Decay rates of AdamW's gradient averages."""
    weight_decay: float = Field(default=1e-6, ge=0)
    """Decoupled weight decay of AdamW."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this L2 norm."""
    kl_coefficient: float = Field(default=0.05, ge=0)
    """Initial weight of the KL penalty."""
    kl_target: float | None = Field(default=6.0, gt=0)
    """KL to the reference, in nats per response, that the adaptive KL coefficient aims at; null keeps it constant."""
    kl_horizon: int = Field(default=10_000, ge=1, le=1_000_000_000)
    """Time constant of the adaptive KL coefficient, in rollouts."""
    max_kl: float = Field(default=100.0, gt=0)
    """Mean KL of a step's rollouts, in nats per response, at which PPO ends early with the best checkpoint so far."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Discount factor of later rewards (gamma)."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Decay of generalized advantage estimation (lambda)."""
    policy_clip: float = Field(default=0.2, gt=0)
    """The probability ratio is clipped to 1 plus or minus this."""
    value_clip: float = Field(default=0.2, gt=0)
    """A value is clipped to its old value plus or minus this."""
    value_coefficient: float = Field(default=1.0, ge=0)
    """Weight of the value loss."""
    score_clip: float = Field(default=10.0, gt=0)
    """Scores are clipped to plus or minus this, before scaling."""
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """Subtracted from the score of a rollout that was cut at the maximum length; not with `trainer: trlx`."""
    subtract_chosen_score: bool = True
    """Subtract the score of the prompt's chosen response from each score."""
    scale_scores: bool = True
    """Divide scores by their running standard deviation."""
    validate_every: int = Field(default=50, ge=1, le=1_000_000_000)
    """PPO steps between measurements on the validation prompts, which select the best checkpoint."""
    selection: SelectionConfig = SelectionConfig()
    """Bounds of the best checkpoint."""
    checkpoint_every: int = Field(default=50, ge=1, le=1_000_000_000)
    """PPO steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1, le=1_000_000)
    """Number of latest checkpoints that are kept, in addition to the best one."""

    @model_validator(mode="after")
    def _seeds_can_be_compared(self) -> Self:
        """`ppo.seeds` must be 1 or at least 3: two trainings hardly show how much trainings differ."""
        if self.seeds == 2:
            raise ValueError("ppo.seeds (2) must be 1 or at least 3: two trainings hardly show how much they differ")
        return self

    @model_validator(mode="after")
    def _samples_from_all_tokens(self) -> Self:
        """`ppo.sampling.top_k` must be 0 and `ppo.sampling.top_p` 1."""
        if self.sampling.top_k != 0 or self.sampling.top_p != 1:
            raise ValueError(
                f"ppo.sampling.top_k ({self.sampling.top_k}) must be 0, and ppo.sampling.top_p "
                f"({self.sampling.top_p:g}) 1: PPO needs the probabilities of all tokens; use temperature instead"
            )
        return self
