"""Options and result of a benchmark part: a module with `run(options: Options) -> Result`, listed in __main__."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    quick: bool
    """Run a quarter of the work."""
    linear: bool
    """Also measure the cost of 64 to 512 rollouts."""
    repeats: int
    """Number of repetitions of each side, in turn."""
    threads: int
    """CPU threads of each side."""


@dataclass
class Result:
    """Metrics by name, for bench.json under the part's name, and tables to print."""

    metrics: dict[str, float]
    tables: list[Table]
