"""The headline metrics of a run, in the order in which every table shows them."""

from __future__ import annotations

from typing import NamedTuple

from rlhf.results.base import Difference
from rlhf.results.schema import Results


class HeadlineMetric(NamedTuple):
    """One metric of both models."""

    key: str
    """Short name for programs."""
    name: str
    """Name for readers."""
    unit: str
    """Unit, or nothing."""
    digits: int
    """Decimals that are worth showing."""
    sft: float
    rlhf: float
    difference: Difference
    """RLHF minus SFT, with its interval and p-value."""
    n: int
    """Number of prompts or demonstrations."""

    @property
    def title(self) -> str:
        """Name and unit, for the head of a row."""
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.name[0].upper()}{self.name[1:]}{unit}"


def headline_metrics(results: Results) -> list[HeadlineMetric]:
    """Reward, toxicity, validation loss, response length, endings and repetition of both models."""
    comparison = results.policy_comparison
    return [
        HeadlineMetric(key, name, unit, digits, paired.sft.mean, paired.rlhf.mean, paired.difference, paired.rlhf.n)
        for key, name, unit, digits, paired in (
            ("reward", "optimized reward", "", 3, results.reward),
            ("toxicity", f"mean {results.toxicity.measure}", "", 4, results.toxicity),
            ("loss", "validation loss", "nats per token", 3, comparison.validation_loss),
            ("length", "tokens per response", "", 1, comparison.response_tokens),
            ("ended", "share of responses that ended", "", 3, comparison.ended_share),
            ("repetition", "repetition", "", 3, comparison.repetition),
        )
    ]
