"""Plan against actual: what each step of a finished run was planned to take beside what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.planning.machines import DEFAULT_CPU, find_machine, machine_of
from rlhf.planning.plan import plan_run


class Ran(Protocol):
    """A step of a finished run: a row of results.json."""

    @property
    def name(self) -> str:
        """Step, and which model it ran on."""

    @property
    def seconds(self) -> float:
        """Wall time that it took when it ran."""

    @property
    def device(self) -> str:
        """Number of processes, where there are several, and name of the device."""


class Compared(NamedTuple):
    """One step."""

    name: str
    planned_seconds: float
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times longer it took than planned."""
        return self.seconds / self.planned_seconds


def plan_against_actual(
    config: RunConfig, stages: Iterable[Ran], benchmark: Mapping[str, float] | None = None
) -> list[Compared]:
    """The steps that a plan knows, planned for the machine that the GPU steps ran on, in the order of `stages`.

    Empty where no plan can be made: a machine or a model of which nothing is known.
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
    planned = {step.name: step.need.seconds for step in plan.steps}
    return [Compared(row.name, planned[row.name], row.seconds) for row in rows if row.name in planned]
