"""Prints benchmark tables and saves their metrics to `runs/bench.json`: `python -m tests.benchmarks [--only ppo]`."""

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
    """Run the parts that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(PARTS), help="run only this part")
    parser.add_argument("--quick", action="store_true", help="run a quarter of the work, once")
    parser.add_argument("--linear", action="store_true", help="also measure the cost of 64 to 512 rollouts")
    parser.add_argument("--repeats", type=int, help="repetitions of each side (3; quick 1)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--gpu-6b", action="store_true", help="run only PPO on GPT-J-6B's architecture, on one GPU")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    options = Options(quick=arguments.quick, linear=arguments.linear, repeats=repeats, threads=arguments.threads)
    console = Console()
    parts = {"gpu_6b": gpu.run} if arguments.gpu_6b else PARTS
    OUTPUT.parent.mkdir(exist_ok=True)
    for name in [arguments.only] if arguments.only else parts:
        result = parts[name](options)
        saved = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {}
        others = {key: value for key, value in saved.items() if not key.startswith(f"{name}.")}
        metrics = others | {f"{name}.{key}": value for key, value in result.metrics.items()}
        write_atomically(OUTPUT, json.dumps(metrics, indent=2) + "\n")
        for table in result.tables:
            console.print(table)
    console.print(f"wrote {OUTPUT}")


if __name__ == "__main__":
    main()
