"""Ranks and the communication between them, through accelerate.  With one rank, values pass through unchanged.

Also runs with the old accelerate of trlx's environment.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

from rlhf.runtime.stage import is_cpu_requested

Item = TypeVar("Item")


def uses_cpu() -> bool:
    """Whether this rank computes on the CPU: there is no GPU, or the launcher asks for the CPU."""
    return is_cpu_requested() or not torch.cuda.is_available()


def init_distributed() -> PartialState:
    """Join the other ranks, if there are any.  Returns this rank, the world size and the device.

    Can be called again.  accelerate does not notice by itself that its ranks share CPUs, and would report one rank.
    """
    return PartialState(cpu=uses_cpu())


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of `values` over all ranks, on every rank."""
    if not _has_other_ranks():
        return values
    summed: Tensor = reduce(values.to(PartialState().device), reduction="sum")
    return summed.to(values.device)


def reduce_to(rank: int, values: Tensor) -> None:
    """Replace `values` on `rank` by their sum over all ranks; on the other ranks they become undefined."""
    if _has_other_ranks():
        torch.distributed.reduce(values, dst=rank)


def broadcast(rank: int, values: Tensor) -> None:
    """Replace `values` on every rank by those of `rank`."""
    if _has_other_ranks():
        torch.distributed.broadcast(values, src=rank)


def all_gather_rows(rows: list[Item]) -> list[Item]:
    """The rows of all ranks, in the order of the ranks, on every rank."""
    return list(gather_object(rows)) if _has_other_ranks() else rows


def barrier() -> None:
    """Wait until every rank has reached this call."""
    if _has_other_ranks():
        PartialState().wait_for_everyone()


def _has_other_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and PartialState().num_processes > 1
