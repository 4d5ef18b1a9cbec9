"""Side effects of PPO: the rows that compare_policies writes, and their summary in results.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.results.base import PairedMetric, Record

VALIDATION_LOSS = "validation_loss.jsonl"
RESPONSE_METRICS = "response_metrics.jsonl"


class ValidationLossRow(Record):
    """Loss of both models on one validation demonstration, which neither was trained on."""

    id: str
    """ID of the demonstration."""
    tokens: int = Field(ge=1)
    """Tokens of its response, including the end of text."""
    sft_loss: float = Field(ge=0)
    """Mean loss of the SFT model over these tokens, in nats."""
    rlhf_loss: float = Field(ge=0)
    """Mean loss of the RLHF model over these tokens, in nats."""


class ResponseMetrics(Record):
    """Metrics of one response."""

    tokens: int = Field(ge=0)
    """Number of tokens, including the end of text if the model produced it."""
    repetition: float = Field(ge=0, le=1)
    """Share of the response's 3-grams of tokens that occur earlier in it."""
    toxicity: float = Field(ge=0, le=1)
    """Score of the run's classifier."""


class ResponseRow(Record):
    """Metrics of both models' responses to one test prompt."""

    id: str
    """ID of the prompt."""
    kl: float = Field(ge=0)
    """KL(RLHF || SFT) along the RLHF response, in nats."""
    prompt_toxicity: float = Field(ge=0, le=1)
    """Score of the prompt by the run's classifier."""
    sft: ResponseMetrics
    """Response of the SFT model."""
    rlhf: ResponseMetrics
    """Response of the RLHF model."""


class KlResults(Record):
    """KL(RLHF || SFT) along the RLHF model's responses to the test prompts, in nats."""

    per_response: float = Field(ge=0)
    """Mean over the responses."""
    ci95: tuple[float, float]
    """95 % interval of the mean, low end first."""
    per_token: float = Field(ge=0)
    """Sum over all responses divided by the number of their tokens."""
    n: int = Field(ge=1)
    """Number of responses."""


class Diversity(Record):
    """Share of distinct 3-grams of words across all responses of one model to the test prompts."""

    sft: float = Field(ge=0, le=1)
    """The SFT model."""
    rlhf: float = Field(ge=0, le=1)
    """The RLHF model; the mean over seeds if there are several."""


class PolicyComparison(Record):
    """Side effects: what PPO changed apart from reward and toxicity."""

    validation_loss: PairedMetric
    """Loss on the validation demonstrations: mean nats per token of each response, then mean over the responses."""
    response_tokens: PairedMetric
    """Tokens per response to the test prompts."""
    repetition: PairedMetric
    """Share of a response's 3-grams of tokens that occur earlier in it."""
    ended_share: PairedMetric
    """Share of responses to the test prompts that ended by themselves, with an end of text or a stop sequence."""
    distinct_ngrams: Diversity
    """Diversity across responses."""
    kl: KlResults
    """Distance of the RLHF model from the SFT model."""


class RewardHackingSign(Record):
    """A metric that got clearly worse while the reward rose."""

    metric: Literal["length", "repetition", "diversity", "validation loss", "KL"]
    """Name of the metric."""
    value: float
    """Its change: ratio of mean lengths or of diversities, rise of the share or of the loss, or nats per response."""
    limit: float = Field(gt=0)
    """Largest change that is considered harmless."""
    text: str
    """One sentence for the report."""
