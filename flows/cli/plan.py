"""`rlhf plan`.  Heavy imports are inside the command, so that help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Overrides, Profile, Workspace
from rlhf.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from rlhf.config import RunConfig
    from rlhf.planning.plan import Plan

MachineName = Annotated[
    str | None,
    typer.Option(
        "--machine",
        metavar="NAME",
        help="p4d.24xlarge, p5.48xlarge, h100 or cpu. Default: cpu if the profile runs on CPUs, else p4d.24xlarge.",
    ),
]
Price = Annotated[
    float | None, typer.Option(metavar="DOLLARS", min=0.0, help="Price per hour of all machines of the run.")
]


def plan(
    profile: Profile,
    machine: MachineName = None,
    dollars_per_hour: Price = None,
    workspace: Workspace = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """Estimate memory, time and cost of each stage; exit with code 2 if something does not fit."""
    from rich.console import Console

    from rlhf.planning.machines import DEFAULT_CPU, DEFAULT_MACHINE, find_machine
    from rlhf.planning.plan import plan_run
    from rlhf.planning.throughput import BENCHMARK, read_benchmark
    from rlhf.profiles import load_profile

    settings = list(overrides or ())
    if dollars_per_hour is not None:
        settings.append(f"compute.dollars_per_hour={dollars_per_hour!r}")
    config = load_profile(profile, settings)
    name = machine or (DEFAULT_CPU if config.compute.accelerate == "cpu" else DEFAULT_MACHINE)
    run_plan = plan_run(config, find_machine(name), read_benchmark(workspace / BENCHMARK))
    sources = Sources()
    console = Console(highlight=False)
    console.print(plan_table(run_plan, config, sources))
    for number, source in sources.numbered():
        console.print(f"[{number}] {source}", markup=False, style="dim")
    problems = [*run_plan.problems, *(problem for stage in run_plan.stages for problem in stage.problems)]
    if problems:
        raise UserError("this does not fit:\n  " + "\n  ".join(problems))


class Sources:
    """Sources of the numbers in the plan, numbered by first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def cite(self, *sources: str) -> str:
        """The numbers of `sources`, in brackets: `[1][3]`."""
        numbers = dict.fromkeys(self._numbers.setdefault(source, len(self._numbers) + 1) for source in sources)
        return "".join(f"[{number}]" for number in numbers)

    def numbered(self) -> list[tuple[int, str]]:
        """All sources, in the order of their numbers."""
        return [(number, source) for source, number in self._numbers.items()]


def plan_table(run_plan: Plan, config: RunConfig, sources: Sources) -> Table:
    """The plan as a table that cites its sources by number."""
    from rich.markup import escape
    from rich.table import Table

    from rlhf.planning.plan import START_SECONDS, gigabytes

    machine, compute = run_plan.scenario.machine, config.compute
    throughput_source = run_plan.scenario.throughput.source
    machine_count = f"{compute.machines} x " if compute.machines > 1 else ""
    device = "GPU" if machine.gpus else "process"
    title = f"{config.run_name} on {machine_count}{machine.name}, {compute.processes} processes"
    table = Table(title=escape(title))
    for heading in ("stage", f"memory / {device}", "PFLOP", "hours", "dollars", "source"):
        table.add_column(heading, justify="left" if heading in ("stage", "source") else "right")
    for stage in run_plan.stages:
        estimate = stage.estimate
        table.add_row(
            escape(stage.name),
            gigabytes(stage.memory) if estimate.memory else "-",
            f"{estimate.flop / 1e15:.4g}" if estimate.flop else "-",
            f"{estimate.seconds / 3600:.3f}",
            "-" if stage.dollars is None else f"{stage.dollars:.2f}",
            escape(sources.cite(estimate.source, *([throughput_source] if estimate.flop else []))),
            style="red" if stage.problems else None,
        )
    start = len(run_plan.stages) * START_SECONDS
    table.add_row(
        "imports", "-", "-", f"{start / 3600:.3f}", "", escape(sources.cite(f"{START_SECONDS:g} s per stage: LOG.md"))
    )
    table.add_section()
    fits = f"of {gigabytes(machine.device_memory_bytes)}"
    total = "-" if run_plan.dollars is None else f"{run_plan.dollars:.2f}"
    flop = sum(stage.estimate.flop for stage in run_plan.stages) / 1e15
    citations = sources.cite(machine.source, run_plan.price_source, f"model sizes: {run_plan.scenario.policy.source}")
    table.add_row(
        "total, one stage at a time", fits, f"{flop:.4g}", f"{run_plan.seconds / 3600:.3f}", total, escape(citations)
    )
    return table
