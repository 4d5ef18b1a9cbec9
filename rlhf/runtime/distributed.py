"""The processes of one run, through accelerate: sums and gatherings, plain values where there is one process."""

from __future__ import annotations

from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

Item = TypeVar("Item")


def start_processes() -> PartialState:
    """This process's place among all: index, number, device.  A GPU where there is one."""
    return PartialState(cpu=not torch.cuda.is_available())


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`, on each of them."""
    if not _several():
        return values
    summed: Tensor = reduce(values.to(PartialState().device), reduction="sum")
    return summed.to(values.device)


def sum_onto(process: int, values: Tensor) -> None:
    """Put the sum of every process's `values` into those of one; those of the others are spoilt."""
    if _several():
        torch.distributed.reduce(values, dst=process)


def broadcast_from(process: int, values: Tensor) -> None:
    """Put one process's `values` into those of all."""
    if _several():
        torch.distributed.broadcast(values, src=process)


def gather_rows(rows: list[Item]) -> list[Item]:
    """The rows of all processes, in the order of the processes, on each of them."""
    return list(gather_object(rows)) if _several() else rows


def wait_for_all() -> None:
    """Go on when every process is here."""
    if _several():
        PartialState().wait_for_everyone()


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and PartialState().num_processes > 1
