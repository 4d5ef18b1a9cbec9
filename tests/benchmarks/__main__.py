"""Prints benchmark tables and keeps their figures in `runs/bench.json`: `python -m tests.benchmarks [--only ppo]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from rich.console import Console

from rlhf.storage.files import write_atomically
from tests.benchmarks import generation, gpu, orchestration, ppo, s3, toxicity
from tests.benchmarks.part import Options, Result
from tests.support.paths import ROOT

PARTS: dict[str, Callable[[Options], Result]] = {
    "ppo": ppo.run,
    "generation": generation.run,
    "toxicity": toxicity.run,
    "orchestration": orchestration.run,
    "s3": s3.run,
}
OUTPUT = ROOT / "runs" / "bench.json"


def main() -> None:
    """Run the parts that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(PARTS), help="this part alone")
    parser.add_argument("--quick", action="store_true", help="a quarter of the work, once")
    parser.add_argument("--linear", action="store_true", help="also the cost of 64 to 512 rollouts")
    parser.add_argument("--repeats", type=int, help="how often each side does the work (3; quick 1)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--gpu-6b", action="store_true", help="only PPO on GPT-J-6B's architecture, on one GPU")
    given = parser.parse_args()
    repeats = given.repeats or (1 if given.quick else 3)
    options = Options(quick=given.quick, linear=given.linear, repeats=repeats, threads=given.threads)
    console = Console()
    parts = {"gpu_6b": gpu.run} if given.gpu_6b else PARTS
    OUTPUT.parent.mkdir(exist_ok=True)
    for name in [given.only] if given.only else parts:
        result = parts[name](options)
        kept = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {}
        others = {key: value for key, value in kept.items() if not key.startswith(f"{name}.")}
        figures = others | {f"{name}.{key}": value for key, value in result.figures.items()}
        write_atomically(OUTPUT, json.dumps(figures, indent=2) + "\n")
        for table in result.tables:
            console.print(table)
    console.print(f"wrote {OUTPUT}")


if __name__ == "__main__":
    main()
