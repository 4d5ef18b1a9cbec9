"""`rlhf report`.  Heavy imports are inside the command, so that help is fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Storage

if TYPE_CHECKING:
    from rlhf.report.run_comparison import RunComparison

RunFolder = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Name or folder of the run; needed if the workspace has several."),
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="RUN RUN", help="Compare two runs, each given by its name or folder."),
]


def report(run: RunFolder = None, workspace: Storage = "runs", compare: Compare = None) -> None:
    """Rebuild a run's report, or compare two runs. Nothing is retrained."""
    if compare is None:
        typer.echo(f"report: {_rebuild(workspace, run)}")
        return
    with ExitStack() as runs:
        _write_comparison(*(runs.enter_context(_run_folder(workspace, name_or_folder)) for name_or_folder in compare))


def _rebuild(workspace: str, name_or_folder: Path | None) -> Path:
    from rlhf.runs.published import open_run, rebuild_report

    name: str | None = None
    if name_or_folder is not None:
        workspace, name = _locate(workspace, name_or_folder)
    with open_run(workspace, name) as run:
        rebuild_report(run)
    return run.folder / "report.html"


@contextmanager
def _run_folder(workspace: str, name_or_folder: Path) -> Iterator[Path]:
    """Local folder with the results of a run.  From S3, the data of its plots is fetched too."""
    from rlhf.runs.published import open_run
    from rlhf.storage.s3 import S3

    workspace, name = _locate(workspace, name_or_folder)
    if not workspace.startswith(S3):
        yield Path(workspace) / name
        return
    with open_run(workspace, name) as run:
        yield run.folder


def _locate(workspace: str, name_or_folder: Path) -> tuple[str, str]:
    """Workspace and name of a run.  Runs in S3 are always given by name."""
    from rlhf.storage.s3 import S3

    if name_or_folder.is_dir() and not workspace.startswith(S3):
        return str(name_or_folder.absolute().parent), name_or_folder.absolute().name
    return workspace, str(name_or_folder)


def _write_comparison(first: Path, second: Path) -> None:
    from rich.console import Console

    from rlhf.report.plots import Curve, plot_reward_comparison
    from rlhf.report.run_comparison import compare_runs, read_run, render_run_comparison
    from rlhf.storage.files import write_atomically

    runs = [read_run(first), read_run(second)]
    comparison = compare_runs(*runs)
    curves = {
        name: Curve([point.step for point in data.validation], [point.reward for point in data.validation])
        for name, data in zip(comparison.names, (run.report_data for run in runs), strict=True)
        if data is not None
    }
    page = first.absolute().parent / f"compare-{first.absolute().name}-{second.absolute().name}.html"
    plots = [plot_reward_comparison(curves)] if len(curves) == len(runs) else []
    write_atomically(page, render_run_comparison(comparison, plots))
    console = Console(highlight=False)
    console.print(_table(comparison))
    for warning in comparison.warnings:
        console.print(warning, markup=False)
    typer.echo(f"comparison: {page}")


def _table(comparison: RunComparison) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Two runs")
    for heading in ("metric", *comparison.names, "change"):
        table.add_column(escape(heading), justify="left" if heading == "metric" else "right")
    for row in comparison.metrics:
        cells = [(row.first, row.first_interval), (row.second, row.second_interval)]
        shown = [f"{value} ({interval})" if interval else value for value, interval in cells]
        table.add_row(row.name, *shown, row.change)
    for setting in comparison.settings:
        table.add_row(escape(setting.name), escape(setting.first), escape(setting.second), style="dim")
    return table
