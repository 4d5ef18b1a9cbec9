"""Toxicity: our DetoxifyModel compared with `Detoxify.predict` in batches of 32 in file order.

`mixed` are the texts that a run scores: continuations of toxicity prompts and responses to dialogues.  `continuations`
are only the former, whose lengths differ little, so that sorting by length gains less.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from rich.table import Table
from transformers import BertTokenizer

from tests.benchmarks.lengths import CONTINUATIONS, RESPONSES, draw_lengths, make_texts
from tests.benchmarks.measure import Measured, best, run_child
from tests.benchmarks.part import Options, Result
from tests.support.detoxify_checkpoints import ORIGINAL, Size, make_checkpoint

SIDE = "tests.benchmarks.toxicity_side"
TEXTS, QUICK_TEXTS = 2000, 500
LARGER = 4
"""Factor on the number of texts for the second measurement of memory."""
SIZE = Size(width=256, layers=4, heads=4, tokens=512)
MEGABYTE = 1e6


def run(options: Options) -> Result:
    """Measure both sides alternately on both kinds of texts; report the best run of each."""
    count = QUICK_TEXTS if options.quick else TEXTS
    with TemporaryDirectory() as name:
        folder = Path(name)
        kinds = make_inputs(folder, count)
        sides: dict[str, list[Measured]] = {f"{kind}.{side}": [] for kind in kinds for side in ("detoxify", "ours")}
        for _ in range(options.repeats):
            for key, runs in sides.items():
                kind, side = key.split(".")
                runs.append(_score(folder, side, kind, options.threads))
        larger = _score(folder, "ours", "larger", options.threads)
        gap = max(_largest_gap(folder, kind) for kind in kinds)
    measured = {key: best(runs) for key, runs in sides.items()}
    metrics = {
        "texts": float(count),
        "largest_score_gap": gap,
        "peak_bytes": float(measured["mixed.ours"].peak_bytes),
        "larger_texts": float(LARGER * count),
        "larger_peak_bytes": float(larger.peak_bytes),
        "ratio": _ratio(measured, "mixed"),
        "continuations_ratio": _ratio(measured, "continuations"),
        "cpu_ratio": _cpu_ratio(measured, "mixed"),
        "continuations_cpu_ratio": _cpu_ratio(measured, "continuations"),
    }
    for key, best_run in measured.items():
        metrics[f"{key}.seconds"] = best_run.total
        metrics[f"{key}.texts_per_second"] = count / best_run.total
    return Result(metrics=metrics, tables=[_table(count, measured, metrics)])


def make_inputs(folder: Path, count: int) -> tuple[str, ...]:
    """Write a checkpoint, and one file of texts per kind; returns the kinds that both sides score."""
    continuations = draw_lengths(count, CONTINUATIONS, seed=0)
    answers = draw_lengths(LARGER * count, RESPONSES, seed=1)
    mixed = continuations[: count // 2] + answers[: count - count // 2]
    Random(2).shuffle(mixed)
    for kind, lengths in (("mixed", mixed), ("continuations", continuations), ("larger", LARGER * mixed)):
        (folder / f"{kind}.json").write_text(json.dumps(make_texts(lengths, seed=3)))
    words = sorted(set(re.findall(r"\w+|[^\w\s]", (folder / "larger.json").read_text().lower())))
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(entries)}, model_max_length=SIZE.tokens)
    make_checkpoint(folder, "bert", ORIGINAL, len(ORIGINAL), size=SIZE, tokenizer=tokenizer)
    return ("mixed", "continuations")


def _score(folder: Path, side: str, kind: str, threads: int) -> Measured:
    files = [str(folder / name) for name in ("toxic.ckpt", f"{kind}.json", f"{kind}.{side}.scores")]
    return run_child(SIDE, [side, *files], threads=threads)


def _read_scores(path: Path) -> list[float]:
    return [float(score) for score in json.loads(path.read_text())]


def _largest_gap(folder: Path, kind: str) -> float:
    ours, theirs = (_read_scores(folder / f"{kind}.{side}.scores") for side in ("ours", "detoxify"))
    return max(abs(first - second) for first, second in zip(ours, theirs, strict=True))


def _ratio(measured: dict[str, Measured], kind: str) -> float:
    return measured[f"{kind}.detoxify"].total / measured[f"{kind}.ours"].total


def _cpu_ratio(measured: dict[str, Measured], kind: str) -> float:
    return measured[f"{kind}.detoxify"].cpu_seconds / measured[f"{kind}.ours"].cpu_seconds


def _table(count: int, measured: dict[str, Measured], metrics: dict[str, float]) -> Table:
    table = Table(title=f"Toxicity, {count} texts, BERT of {SIZE.layers} blocks, width {SIZE.width}")
    for column in ("", "seconds", "CPU seconds", "texts / s", "peak MB"):
        table.add_column(column, justify="left" if not column else "right")
    for key, side in measured.items():
        kind, name = key.split(".")
        table.add_row(
            f"{kind}, {name}",
            f"{side.total:.2f}",
            f"{side.cpu_seconds:.2f}",
            f"{count / side.total:.0f}",
            f"{side.peak_bytes / MEGABYTE:.0f}",
        )
    table.caption = (
        f"ratio {metrics['ratio']:.2f}, of continuations alone {metrics['continuations_ratio']:.2f}, "
        f"CPU time {metrics['cpu_ratio']:.2f} and {metrics['continuations_cpu_ratio']:.2f}; "
        f"scores differ by {metrics['largest_score_gap']:.0e} at most; "
        f"{metrics['larger_peak_bytes'] / MEGABYTE:.0f} MB for {LARGER} times the texts"
    )
    return table
