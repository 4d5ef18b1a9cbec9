"""What PPO changed besides the reward: the rows that compare_policies writes, and their place in results.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.results.base import Difference, Mean, Record

HELD_OUT = "held_out.jsonl"
ANSWERS = "answers.jsonl"


class HeldOutRow(Record):
    """One held-out demonstration, which neither model was trained on."""

    id: str
    """Id of the demonstration."""
    tokens: int = Field(ge=1)
    """Tokens of its answer, with the end of text."""
    sft_loss: float = Field(ge=0)
    """Mean loss of the SFT model over these tokens, in nats."""
    rlhf_loss: float = Field(ge=0)
    """Mean loss of the RLHF model over these tokens, in nats."""


class AnswerText(Record):
    """What the tokens of an answer say."""

    tokens: int = Field(ge=0)
    """Tokens, with the end of text where the model ended the answer."""
    repetition: float = Field(ge=0, le=1)
    """Share of the answer's runs of 3 tokens that stood in it before."""
    toxicity: float = Field(ge=0, le=1)
    """Score of the run's classifier."""


class AnswerRow(Record):
    """Both models' answers to a test prompt."""

    id: str
    """Id of the prompt."""
    kl: float = Field(ge=0)
    """KL(RLHF || SFT) along the RLHF answer, in nats."""
    prompt_toxicity: float = Field(ge=0, le=1)
    """Score of the prompt by the run's classifier."""
    sft: AnswerText
    """The SFT model's answer."""
    rlhf: AnswerText
    """The RLHF model's answer."""


class Compared(Record):
    """One figure of both models."""

    sft: Mean
    """The SFT model."""
    rlhf: Mean
    """The RLHF model."""
    difference: Difference
    """RLHF minus SFT, paired."""


class KlResults(Record):
    """How far the RLHF model is from the SFT model: KL(RLHF || SFT) along its answers to the test prompts, in nats."""

    per_answer: float = Field(ge=0)
    """Mean over the answers."""
    ci95: tuple[float, float]
    """95 % bootstrap interval (BCa) of the mean, low end first."""
    per_token: float = Field(ge=0)
    """All nats over all tokens of the answers."""
    n: int = Field(ge=1)
    """Answers."""


class PolicyResults(Record):
    """Whether alignment left the model whole: what PPO changed besides the reward."""

    held_out_loss: Compared
    """Mean loss on held-out demonstrations in nats per token: of each answer over its tokens, then over the answers."""
    answer_tokens: Compared
    """Tokens of the answers to the test prompts."""
    repetition: Compared
    """Share of an answer's runs of 3 tokens that stood in it before."""
    kl: KlResults
    """Distance between the two models."""


class HackingSign(Record):
    """Something that ran away while the reward rose."""

    figure: Literal["length", "repetition", "held-out loss", "KL"]
    """What did."""
    value: float
    """How far: ratio of the mean lengths, rise of the share, rise of the loss, nats per answer."""
    limit: float = Field(gt=0)
    """What is taken as harmless."""
    text: str
    """The sign in a sentence."""
