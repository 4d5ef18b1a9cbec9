"""Throughput of the phases of a PPO step, by hand."""

from __future__ import annotations

from rlhf.runtime.throughput import throughput_metrics


def test_throughput_by_hand() -> None:
    seconds = {"generate": 2.0, "score": 1.0, "evaluate": 1.0, "train": 4.0}
    metrics = throughput_metrics(seconds, response_tokens=100, sequence_tokens=300, epochs=2, rollouts=16)
    assert (metrics["generate_tokens_per_second"], metrics["evaluate_tokens_per_second"]) == (50, 300)
    assert (metrics["train_tokens_per_second"], metrics["rollouts_per_second"]) == (150, 2)
