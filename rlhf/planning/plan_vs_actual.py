"""Planned and actual time of each stage of a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.planning.machines import DEFAULT_CPU, find_machine, machine_of
from rlhf.planning.plan import plan_run


class CompletedStage(Protocol):
    """A stage of a finished run, as a row of results.json."""

    @property
    def name(self) -> str:
        """Stage and model."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def device(self) -> str:
        """Name of the device, after the number of ranks if there are several."""


class PlannedStage(NamedTuple):
    """Planned and actual time of one stage."""

    name: str
    planned_seconds: float
    seconds: float

    @property
    def ratio(self) -> float:
        """Actual time divided by planned time."""
        return self.seconds / self.planned_seconds


def plan_vs_actual(
    config: RunConfig, stages: Iterable[CompletedStage], benchmark: Mapping[str, float] | None = None
) -> list[PlannedStage]:
    """Compare the stages with a plan for the machine that train_ppo ran on, in the order of `stages`.

    Empty if no plan can be made because machine or model are unknown.
    """
    rows = list(stages)
    device = next((row.device for row in rows if row.name == "train_ppo"), DEFAULT_CPU)
    gpus = config.compute.processes // config.compute.machines
    machine = find_machine(DEFAULT_CPU) if device.endswith(DEFAULT_CPU) else machine_of(device, gpus)
    if machine is None:
        return []
    try:
        plan = plan_run(config, machine, benchmark or {})
    except UserError:
        return []
    planned = {stage.name: stage.estimate.seconds for stage in plan.stages}
    return [PlannedStage(row.name, planned[row.name], row.seconds) for row in rows if row.name in planned]
