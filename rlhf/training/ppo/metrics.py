"""What a run tells of itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rlhf.models.sampling import Completion
from rlhf.runtime.distributed import sum_over_processes

NGRAM = 3
"""Tokens in a row whose return within an answer counts as repetition."""


GPU_OPERATIONS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12}
"""Dense bfloat16 operations per second by a part of the GPU's name; source: NVIDIA's data sheets, SXM where there are
several."""


def model_flops_utilization(operations: float, seconds: float, gpu: str) -> float | None:
    """Share of what the GPU could at most have done in that time; None for a GPU that is not in the list."""
    peak = next((peak for name, peak in GPU_OPERATIONS.items() if name in gpu), None)
    return None if peak is None else operations / seconds / peak


class Clock:
    """Seconds of each phase of a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`."""
        started = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()


def answer_sums(
    answers: Sequence[Completion], score_N: Tensor, kl_N: Tensor
) -> dict[str, tuple[Tensor | float, float]]:
    """Sum and count of each figure of this process's answers."""
    sums: dict[str, Tensor | float] = {
        "score": score_N.sum(),
        "kl": kl_N.sum(),
        "response_tokens": sum(len(answer.token_ids) for answer in answers),
        "truncated_share": sum(not answer.stopped for answer in answers),
        "repetition": sum(repetition(answer.token_ids) for answer in answers),
    }
    return {name: (total, len(answers)) for name, total in sums.items()}


def means(sums: Mapping[str, tuple[Tensor | float, float]]) -> dict[str, float]:
    """Each figure's sum over its count, over all processes."""
    pairs = torch.tensor([[float(total), float(count)] for total, count in sums.values()], dtype=torch.float64)
    total, count = sum_over_processes(pairs).unbind(1)
    return dict(zip(sums, (total / count).tolist(), strict=True))


def explained_variance(value_T: Tensor, return_T: Tensor) -> float:
    """1 - variance(return - value) / variance(return), over the tokens of all processes; 0 where returns are equal."""
    error_T = (return_T - value_T).double()
    return_T = return_T.double()
    powers = torch.stack([torch.ones_like(error_T), return_T, return_T**2, error_T, error_T**2]).sum(1)
    count, returns, return_squares, errors, error_squares = sum_over_processes(powers).tolist()
    return_variance = return_squares / count - (returns / count) ** 2
    error_variance = error_squares / count - (errors / count) ** 2
    return 1 - error_variance / return_variance if return_variance > 0 else 0.0


def repetition(token_ids: list[int]) -> float:
    """Share of the answer's n-grams of 3 tokens that stood in it before."""
    ngrams = list(zip(*(token_ids[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
