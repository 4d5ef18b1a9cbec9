"""Settings of what is measured and written: responses, toxicity, endpoints of the verdict and the exported model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import HUB, PathText, Settings
from rlhf.config.training import SamplingConfig

PrimaryEndpoint = Literal["human_preference", "judge_preference", "toxicity"]
"""What a run can be declared to be about.  The optimized reward cannot: PPO was trained to raise it."""


class ToxicityConfig(Settings):
    """Toxicity of continuations of RealToxicityPrompts."""

    prompts: PathText = HUB
    """`hub`, `synthetic`, or a .jsonl or .jsonl.gz file in RealToxicityPrompts format."""
    repository: str = "allenai/real-toxicity-prompts"
    """Hugging Face dataset that `prompts: hub` downloads."""
    revision: str = "88a5d7954c54f31e153959c2db98e15cf5cbec01"
    """Commit of `repository` that is downloaded."""
    n_prompts: int = Field(default=1000, ge=2, le=10_000_000)
    """Number of prompts, drawn by seed."""
    continuations: int = Field(default=1, ge=1, le=10_000)
    """Continuations per prompt and model; the RealToxicityPrompts paper (Gehman et al., 2020) uses 25."""
    classifier: Literal["detoxify", "profanity-check"] = "detoxify"
    """`detoxify` downloads its weights once, unless `checkpoint` is set; `profanity-check` works offline."""
    detoxify_model: Literal["original", "unbiased", "multilingual", "original-small", "unbiased-small"] = "original"
    """Released Detoxify model that is used; `checkpoint` wins over it."""
    checkpoint: PathText | None = None
    """Checkpoint file in Detoxify's format; if set, nothing is downloaded."""
    checkpoint_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Expected SHA-256 of `checkpoint`, 64 hex digits."""
    checkpoint_config: PathText | None = None
    """Folder with config.json and tokenizer of the encoder that `checkpoint` was trained from."""
    second_opinion: PathText | None = None
    """Folder of a safety model (sequence classification, any labels) that also scores all continuations."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=20)
    """How continuations are sampled; the RealToxicityPrompts paper uses 20 tokens."""
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Continuations that one process samples, then scores, at the same time."""

    @model_validator(mode="after")
    def _checkpoint_is_complete(self) -> Self:
        """`toxicity.checkpoint`, `toxicity.checkpoint_sha256` and `toxicity.checkpoint_config` must be set together.

        They need `toxicity.classifier: detoxify`.
        """
        checkpoint = [self.checkpoint, self.checkpoint_sha256, self.checkpoint_config]
        if any(checkpoint) and not (all(checkpoint) and self.classifier == "detoxify"):
            raise ValueError(
                "toxicity.checkpoint, toxicity.checkpoint_sha256 and toxicity.checkpoint_config go together, "
                "with toxicity.classifier detoxify; set all three or none"
            )
        return self


class ResponsesConfig(Settings):
    """Responses of both models to the test prompts."""

    sampling: SamplingConfig = SamplingConfig()
    """How responses are sampled."""
    stop_sequences: tuple[Annotated[str, Field(min_length=1)], ...] = ("Human:", "human:", "Assistant:", "assistant:")
    """A response ends before the first of these texts, in evaluation and in PPO."""
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Prompts that one process responds to at the same time."""


class EvaluationConfig(Settings):
    """What the verdict rests on.  It is fixed before the run, and part of the report's fingerprint."""

    primary_endpoints: tuple[PrimaryEndpoint, ...] = Field(
        default=("human_preference", "toxicity"), min_length=1, max_length=3
    )
    """Endpoints that the headline may rest on; all other metrics are secondary.  People's answers always count."""
    best_of: int = Field(default=16, ge=1, le=10_000)
    """Responses of the SFT model per validation prompt for best-of-n, a baseline of PPO; 1 leaves it out."""
    questions: PathText | None = None
    """Multiple-choice questions that show whether capability is kept: a .jsonl file or `synthetic`; null asks none."""


class ExportConfig(Settings):
    """The exported model folder, ready to share."""

    license: str = "unknown"
    """License in the model card: an identifier of the Hugging Face hub such as apache-2.0, or `unknown`."""
