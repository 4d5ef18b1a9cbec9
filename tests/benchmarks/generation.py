"""Generation: our `generate` compared with the one-prompt-at-a-time loop of the published notebook.

Prompts are as long as real dialogues; responses end when the EOS is sampled, which is equally likely on both sides.
The loop takes equally long for each prompt, so it runs on one prompt in four and its seconds count four times.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from rlhf.config import ResponsesConfig
from rlhf.storage.files import read_jsonl
from tests.benchmarks.lengths import PROMPTS, draw_lengths
from tests.benchmarks.measure import Measured, best, run_child
from tests.benchmarks.part import Options, Result
from tests.benchmarks.work import Work, make_inputs

SIDE = "tests.benchmarks.generation_side"
QUICK_PROMPTS, ALL_PROMPTS = 40, 200
LONGEST_PROMPT = 384
SHARE = 4
"""The loop runs on one prompt in SHARE."""
MEGABYTE = 1e6


def run(options: Options) -> Result:
    """Run both sides in turn; the best of each counts."""
    count = QUICK_PROMPTS if options.quick else ALL_PROMPTS
    with TemporaryDirectory() as name:
        folder = Path(name)
        _make_inputs(folder, count)
        sides: dict[str, list[Measured]] = {"one_at_a_time": [], "ours": []}
        for _ in range(options.repeats):
            sides["one_at_a_time"].append(_generate(folder, "one_at_a_time", "few", options.threads))
            sides["ours"].append(_generate(folder, "ours", "all", options.threads))
        one_batch = _generate(folder, "ours", "longest", options.threads)
        words = {
            side: _mean_words(folder / f"{side}.{prompts}.responses")
            for side, prompts in (("one_at_a_time", "few"), ("ours", "all"))
        }
    loop, ours = best(sides["one_at_a_time"]), best(sides["ours"])
    metrics = {
        "prompts": float(count),
        "ours.seconds": ours.total,
        "ours.prompts_per_second": count / ours.total,
        "ours.response_tokens": words["ours"],
        "one_at_a_time.seconds": SHARE * loop.total,
        "one_at_a_time.prompts_per_second": count / SHARE / loop.total,
        "one_at_a_time.response_tokens": words["one_at_a_time"],
        "ratio": SHARE * loop.total / ours.total,
        "cpu_ratio": SHARE * loop.cpu_seconds / ours.cpu_seconds,
        "peak_bytes": float(ours.peak_bytes),
        "one_batch_peak_bytes": float(one_batch.peak_bytes),
    }
    return Result(metrics=metrics, tables=[_table(metrics)])


def _make_inputs(folder: Path, count: int) -> None:
    """The 31M GPT-J of the PPO benchmark, and prompts of real lengths in words, which are its tokens."""
    make_inputs(folder, Work(prompt_tokens=LONGEST_PROMPT, response_tokens=128, rollouts=count))
    rows = read_jsonl(folder / "data" / "ppo_prompts.jsonl")
    lengths = draw_lengths(count, PROMPTS, seed=0)
    prompts = [" ".join(str(row["prompt"]).split()[:length]) for row, length in zip(rows, lengths, strict=True)]
    (folder / "all.json").write_text(json.dumps(prompts))
    (folder / "few.json").write_text(json.dumps(prompts[::SHARE]))
    longest = sorted(prompts, key=len)[-ResponsesConfig().batch_size :]
    (folder / "longest.json").write_text(json.dumps(longest))


def _generate(folder: Path, side: str, prompts: str, threads: int) -> Measured:
    files = [str(folder / name) for name in ("sft/model", f"{prompts}.json", f"{side}.{prompts}.responses")]
    return run_child(SIDE, [side, *files], threads=threads)


def _mean_words(path: Path) -> float:
    responses = json.loads(path.read_text())
    return sum(len(response.split()) for response in responses) / len(responses)


def _table(metrics: dict[str, float]) -> Table:
    table = Table(title=f"Generation, {metrics['prompts']:.0f} prompts, GPT-J of 31M parameters")
    for column in ("", "seconds", "prompts / s", "tokens / response"):
        table.add_column(column, justify="left" if not column else "right")
    for side, name in (("one_at_a_time", "one at a time"), ("ours", "ours")):
        values = (metrics[f"{side}.{key}"] for key in ("seconds", "prompts_per_second", "response_tokens"))
        table.add_row(name, *(f"{value:.1f}" for value in values))
    table.caption = (
        f"ratio {metrics['ratio']:.2f}, CPU time {metrics['cpu_ratio']:.2f}; one at a time measured on one prompt in "
        f"{SHARE}; peak {metrics['peak_bytes'] / MEGABYTE:.0f} MB, "
        f"{metrics['one_batch_peak_bytes'] / MEGABYTE:.0f} MB for the batch of the longest prompts alone"
    )
    return table
