"""What a terminal shows of a run: progress bars, one line per finished stage, and a table of results at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from rlhf.results.base import Difference
from rlhf.results.headline import headline_metrics
from rlhf.results.schema import Results
from tasks.callbacks import attached_displays
from tasks.messages import Progress

PLAIN_SECONDS = 15.0
"""Minimum time between two progress lines of a stage if the output is not a terminal."""
MOST_DECIMALS = 3
"""Decimals in the table of results."""


class Terminal:
    """Shows stages on a console: progress bars on a terminal, a line from time to time in a file or pipe."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[metrics]}", style="dim"),
            console=console,
            transient=True,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Show the stages of this process inside the `with` block."""
        attached_displays.append(self)
        try:
            if self.console.is_terminal:
                with self._bars:
                    yield
            else:
                yield
        finally:
            attached_displays.remove(self)

    def progress(self, label: str, progress: Progress) -> None:
        """Update the progress bar of a stage."""
        metrics = "  ".join(f"{name} {value:.3g}" for name, value in progress.metrics.items())
        if not self.console.is_terminal:
            now = time.monotonic()
            if now - self._last_line.get(label, self._started) >= PLAIN_SECONDS:
                self._last_line[label] = now
                self.console.print(escape(f"  {label}: {progress.phase} {progress.done}/{progress.total}  {metrics}"))
            return
        key = (label, progress.phase)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(
                escape(f"{label}: {progress.phase}"), total=progress.total, metrics=""
            )
        self._bars.update(self._tasks[key], completed=progress.done, metrics=escape(metrics))

    def note(self, label: str, message: str) -> None:
        """Print a message of a stage."""
        self.console.print(escape(f"  {label}: {message}"), style="dim")

    def finished(self, label: str, state: str) -> None:
        """Print the final state of a stage and remove its progress bars."""
        for key in [key for key in self._tasks if key[0] == label]:
            self._bars.remove_task(self._tasks.pop(key))
        style = {"Completed": "green", "Cached": "cyan", "NotReady": "dim"}.get(state, "red")
        elapsed = time.monotonic() - self._started
        self.console.print(f"{elapsed:6.0f} s  [{style}]{state:<9}[/]  {escape(label)}")


def results_table(results: Results) -> Table:
    """The most important metrics of a run."""
    table = Table(title="Did the model get better?")
    for heading in ("metric", "SFT", "RLHF", "difference (95 % interval)"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric in headline_metrics(results):
        digits = min(metric.digits, MOST_DECIMALS)
        table.add_row(
            metric.name,
            f"{metric.sft:.{digits}f}",
            f"{metric.rlhf:.{digits}f}",
            _difference(metric.difference, digits),
        )
    for judge in results.judges:
        rate = judge.length_controlled_win_rate
        low, high = rate.ci95
        table.add_row(
            escape(f"win rate by {judge.name}, at equal length"), "", f"{rate.mean:.3f}", f"({low:.3f} to {high:.3f})"
        )
    table.add_row("accuracy of the optimized reward model", "", f"{results.reward_model.accuracy:.3f}", "")
    table.add_row("human evaluation", "", results.human_evaluation.status, "")
    table.caption = escape(results.verdict.headline)
    return table


def _difference(difference: Difference, digits: int) -> str:
    low, high = difference.ci95
    return f"{difference.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
