"""`rlhf report`.  Heavy imports stand inside the command, so that help answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Storage

if TYPE_CHECKING:
    from rlhf.report.run_comparison import TwoRuns

RunFolder = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="WORKSPACE/PROFILE, or PROFILE alone.")]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="RUN RUN", help="Set two runs side by side, each WORKSPACE/PROFILE or PROFILE alone."),
]


def report(run: RunFolder = None, workspace: Storage = "runs", compare: Compare = None) -> None:
    """Write a run's report again from what is on the disk, or a page that compares two runs; nothing else runs."""
    if compare is None:
        typer.echo(f"report: {_write_again(workspace, run)}")
        return
    with ExitStack() as held:
        _write_comparison(*(held.enter_context(_folder(workspace, given)) for given in compare))


def _write_again(workspace: str, run: Path | None) -> Path:
    from rlhf.runs.published import open_run, refresh

    place, name = (workspace, None) if run is None else _located(workspace, run)
    with open_run(place, name) as found:
        refresh(found)
    return found.folder / "report.html"


@contextmanager
def _folder(workspace: str, given: Path) -> Iterator[Path]:
    """Folder of a run, which need hold its results only; of one in S3 also the evidence is brought here."""
    from rlhf.runs.published import open_run
    from rlhf.storage.s3 import S3

    place, name = _located(workspace, given)
    if not place.startswith(S3):
        yield Path(place) / name
        return
    with open_run(place, name) as found:
        yield found.folder


def _located(workspace: str, given: Path) -> tuple[str, str]:
    """Workspace and name of a run: given by its folder, or by its name alone, as all in S3 are."""
    from rlhf.storage.s3 import S3

    if given.is_dir() and not workspace.startswith(S3):
        return str(given.absolute().parent), given.absolute().name
    return workspace, str(given)


def _write_comparison(first: Path, second: Path) -> None:
    from rich.console import Console

    from rlhf.report.plots import Curve, plot_two_rewards
    from rlhf.report.run_comparison import compare_runs, read_run, render_two_runs
    from rlhf.storage.files import write_atomically

    runs = [read_run(first), read_run(second)]
    two = compare_runs(*runs)
    curves = {
        name: Curve([row.step for row in run.evidence.validation], [row.reward for row in run.evidence.validation])
        for name, run in zip(two.names, runs, strict=True)
        if run.evidence is not None
    }
    page = first.absolute().parent / f"compare-{first.absolute().name}-{second.absolute().name}.html"
    write_atomically(page, render_two_runs(two, [plot_two_rewards(curves)] if len(curves) == len(runs) else []))
    console = Console(highlight=False)
    console.print(_table(two))
    for caution in two.cautions:
        console.print(caution, markup=False)
    typer.echo(f"comparison: {page}")


def _table(two: TwoRuns) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Two runs")
    for heading in ("figure", *two.names, "change"):
        table.add_column(escape(heading), justify="left" if heading == "figure" else "right")
    for row in two.figures:
        cells = [(row.first, row.first_range), (row.second, row.second_range)]
        shown = [f"{value} ({interval})" if interval else value for value, interval in cells]
        table.add_row(row.name, *shown, row.change)
    for setting in two.settings:
        table.add_row(escape(setting.name), escape(setting.first), escape(setting.second), style="dim")
    return table
