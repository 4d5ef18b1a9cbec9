"""What a part of the benchmark takes and gives: a module with `run(options: Options) -> Result`, named in __main__."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    quick: bool
    """A quarter of the work, for a look."""
    linear: bool
    """Also the cost of 64 to 512 rollouts."""
    repeats: int
    """How often each side does the work, in turn."""
    threads: int
    """CPU threads of each side."""


@dataclass
class Result:
    """Figures by name, for bench.json under the part's name, and tables to print."""

    figures: dict[str, float]
    tables: list[Table]
