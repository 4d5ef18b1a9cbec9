"""`rlhf plan`.  Heavy imports stand inside the command, so that help answers at once."""

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
    str | None, typer.Option("--machine", help="p4d.24xlarge, p5.48xlarge, h100 or cpu; cpu where the profile says so.")
]
Price = Annotated[float | None, typer.Option(min=0.0, help="Price of all machines that the run holds.")]


def plan(
    profile: Profile,
    machine: MachineName = None,
    dollars_per_hour: Price = None,
    workspace: Workspace = Path("runs"),
    overrides: Overrides = None,
) -> None:
    """Say what each step will need and cost, and what does not fit, before anything runs."""
    from rich.console import Console

    from rlhf.planning.machines import DEFAULT_CPU, DEFAULT_MACHINE, find_machine
    from rlhf.planning.plan import plan_run
    from rlhf.planning.throughput import BENCHMARK, read_benchmark
    from rlhf.profiles import load_profile

    given = list(overrides or ())
    if dollars_per_hour is not None:
        given.append(f"compute.dollars_per_hour={dollars_per_hour!r}")
    config = load_profile(profile, given)
    name = machine or (DEFAULT_CPU if config.compute.accelerate == "cpu" else DEFAULT_MACHINE)
    made = plan_run(config, find_machine(name), read_benchmark(workspace / BENCHMARK))
    sources = Sources()
    console = Console(highlight=False)
    console.print(plan_table(made, config, sources))
    for number, source in sources.numbered():
        console.print(f"[{number}] {source}", markup=False, style="dim")
    problems = [*made.problems, *(problem for step in made.steps for problem in step.problems)]
    if problems:
        raise UserError("this does not fit:\n  " + "\n  ".join(problems))


class Sources:
    """Where numbers come from, each told once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def cite(self, *sources: str) -> str:
        """The numbers of `sources`, in brackets."""
        numbers = dict.fromkeys(self._numbers.setdefault(source, len(self._numbers) + 1) for source in sources)
        return "".join(f"[{number}]" for number in numbers)

    def numbered(self) -> list[tuple[int, str]]:
        """All sources in the order in which they were first cited."""
        return [(number, source) for source, number in self._numbers.items()]


def plan_table(made: Plan, config: RunConfig, sources: Sources) -> Table:
    """The plan as a table, its sources by number."""
    from rich.markup import escape
    from rich.table import Table

    from rlhf.planning.plan import START_SECONDS, gigabytes

    machine, compute = made.setting.machine, config.compute
    reached = made.setting.rates.source
    several = f"{compute.machines} x " if compute.machines > 1 else ""
    unit = "GPU" if machine.gpus else "process"
    table = Table(title=f"{config.run_name} on {several}{machine.name}, {compute.processes} processes")
    for heading in ("stage", f"memory / {unit}", "PFLOP", "hours", "dollars", "from"):
        table.add_column(heading, justify="left" if heading in ("stage", "from") else "right")
    for step in made.steps:
        need = step.need
        table.add_row(
            escape(step.name),
            gigabytes(step.memory) if need.memory else "-",
            f"{need.flop / 1e15:.4g}" if need.flop else "-",
            f"{need.seconds / 3600:.3f}",
            "-" if step.dollars is None else f"{step.dollars:.2f}",
            escape(sources.cite(need.source, *([reached] if need.flop else []))),
            style="red" if step.problems else None,
        )
    start = len(made.steps) * START_SECONDS
    table.add_row(
        "imports", "-", "-", f"{start / 3600:.3f}", "", escape(sources.cite(f"{START_SECONDS:g} s a step: LOG.md"))
    )
    table.add_section()
    fits = f"of {gigabytes(machine.device_bytes)}"
    total = "-" if made.dollars is None else f"{made.dollars:.2f}"
    flop = sum(step.need.flop for step in made.steps) / 1e15
    cited = sources.cite(machine.source, made.price_source, f"model sizes: {made.setting.policy.source}")
    table.add_row("all, one after another", fits, f"{flop:.4g}", f"{made.seconds / 3600:.3f}", total, escape(cited))
    return table
