"""Seconds and throughput of the phases of a PPO step.  Imports nothing that trlx's older environment lacks."""

from __future__ import annotations

from collections.abc import Mapping


def throughput_metrics(
    seconds: Mapping[str, float], *, response_tokens: float, sequence_tokens: float, epochs: int, rollouts: int
) -> dict[str, float]:
    """Seconds of each phase, tokens per second of all ranks, and rollouts per second.

    `response_tokens` are the sampled tokens of all rollouts, `sequence_tokens` those of prompts and responses.  The
    phase `generate` counts the former, `score`, `evaluate` and each epoch of `train` the latter.
    """
    tokens = {
        "generate": response_tokens,
        "score": sequence_tokens,
        "evaluate": sequence_tokens,
        "train": sequence_tokens * epochs,
    }
    return {
        **{f"{phase}_seconds": round(seconds[phase], 4) for phase in tokens},
        **{f"{phase}_tokens_per_second": round(count / seconds[phase], 1) for phase, count in tokens.items()},
        "rollouts_per_second": round(rollouts / sum(seconds[phase] for phase in tokens), 3),
    }
