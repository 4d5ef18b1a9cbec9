"""The terminal's view of a run: a line a step, a bar for each that is running, a table of results at the end."""

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
from rlhf.results.schema import Results
from tasks.callbacks import displays
from tasks.launch import Progress

PLAIN_SECONDS = 15.0
"""Least time between two progress lines of a step where the output is no terminal."""


class Terminal:
    """Shows steps on a console; bars where it is a terminal, sparse lines where it is a file or a pipe."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
            console=console,
            transient=True,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._told: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hear of every step of this process while the body runs."""
        displays.append(self)
        try:
            if self.console.is_terminal:
                with self._bars:
                    yield
            else:
                yield
        finally:
            displays.remove(self)

    def progress(self, label: str, progress: Progress) -> None:
        """Move the step's bar."""
        figures = "  ".join(f"{name} {value:.3g}" for name, value in progress.figures.items())
        if not self.console.is_terminal:
            now = time.monotonic()
            if now - self._told.get(label, self._started) >= PLAIN_SECONDS:
                self._told[label] = now
                self.console.print(escape(f"  {label}: {progress.phase} {progress.done}/{progress.total}  {figures}"))
            return
        key = (label, progress.phase)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(
                escape(f"{label}: {progress.phase}"), total=progress.total, figures=""
            )
        self._bars.update(self._tasks[key], completed=progress.done, figures=escape(figures))

    def note(self, label: str, message: str) -> None:
        """Print what a stage has to say."""
        self.console.print(escape(f"  {label}: {message}"), style="dim")

    def finished(self, label: str, state: str) -> None:
        """Print how a step ended and take its bars away."""
        for key in [key for key in self._tasks if key[0] == label]:
            self._bars.remove_task(self._tasks.pop(key))
        style = {"Completed": "green", "Cached": "cyan", "NotReady": "dim"}.get(state, "red")
        elapsed = time.monotonic() - self._started
        self.console.print(f"{elapsed:6.0f} s  [{style}]{state:<9}[/]  {escape(label)}")


def results_table(results: Results) -> Table:
    """The figures that a person wants first."""
    table = Table(title="Did the model get better?")
    for heading in ("figure", "SFT", "RLHF", "difference (95 % interval)"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    reward, toxicity = results.reward, results.toxicity
    table.add_row(
        "reward of test answers", f"{reward.sft.mean:.3f}", f"{reward.rlhf.mean:.3f}", _difference(reward.difference)
    )
    table.add_row(
        "mean toxicity", f"{toxicity.sft.mean:.3f}", f"{toxicity.rlhf.mean:.3f}", _difference(toxicity.difference)
    )
    table.add_row(
        "validation reward", f"{reward.first:.3f}", f"{reward.best:.3f}", f"{reward.best - reward.first:+.3f}"
    )
    table.add_row("reward model accuracy", "", f"{results.reward_model.accuracy:.3f}", "")
    table.add_row("human evaluation", "", results.human_evaluation.status, "")
    return table


def _difference(difference: Difference) -> str:
    low, high = difference.ci95
    return f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f})"
