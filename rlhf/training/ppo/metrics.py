"""Metrics of a PPO step, averaged over all ranks.  N rollouts of this rank, T response tokens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rlhf.data.text import repetition
from rlhf.models.sampling import Response
from rlhf.runtime.distributed import all_reduce_sum

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12}
"""Dense bfloat16 operations per second by a part of the GPU's name.  Source: NVIDIA's data sheets; the SXM version if
there are several."""


def model_flops_utilization(operations: float, seconds: float, gpu: str) -> float | None:
    """Share of the GPU's peak that `operations` in `seconds` are; None if the GPU is not in PEAK_FLOPS."""
    peak = next((peak for name, peak in PEAK_FLOPS.items() if name in gpu), None)
    return None if peak is None else operations / seconds / peak


class PhaseTimer:
    """Seconds of each phase of a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the `with` block to phase `name`."""
        started = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()


def response_metric_sums(
    responses: Sequence[Response], score_N: Tensor, kl_N: Tensor
) -> dict[str, tuple[Tensor | float, float]]:
    """Sum and count of each metric over this rank's responses."""
    sums: dict[str, Tensor | float] = {
        "score": score_N.sum(),
        "kl": kl_N.sum(),
        "response_tokens": sum(len(response.token_ids) for response in responses),
        "truncated_share": sum(not response.stopped for response in responses),
        "repetition": sum(repetition(response.token_ids) for response in responses),
    }
    return {name: (total, len(responses)) for name, total in sums.items()}


def all_reduce_means(sums: Mapping[str, tuple[Tensor | float, float]]) -> dict[str, float]:
    """Mean of each metric over all ranks, from every rank's sum and count."""
    pairs = torch.tensor([[float(total), float(count)] for total, count in sums.values()], dtype=torch.float64)
    total, count = all_reduce_sum(pairs).unbind(1)
    return dict(zip(sums, (total / count).tolist(), strict=True))


def explained_variance(value_T: Tensor, return_T: Tensor) -> float:
    """1 - variance(return - value) / variance(return) over the tokens of all ranks; 0 if all returns are equal."""
    error_T = (return_T - value_T).double()
    return_T = return_T.double()
    powers = torch.stack([torch.ones_like(error_T), return_T, return_T**2, error_T, error_T**2]).sum(1)
    count, returns, return_squares, errors, error_squares = all_reduce_sum(powers).tolist()
    return_variance = return_squares / count - (returns / count) ** 2
    error_variance = error_squares / count - (errors / count) ** 2
    return 1 - error_variance / return_variance if return_variance > 0 else 0.0
