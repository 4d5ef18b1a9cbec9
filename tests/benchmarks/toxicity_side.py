"""Child process: scores the texts in a file with our DetoxifyModel or with Detoxify itself, on the same weights."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detoxify import Detoxify

from rlhf.evaluation.toxicity.detoxify_model import read_detoxify
from rlhf.storage.files import file_sha256
from tests.benchmarks.measure import Gauge, Measured, print_measured

BATCH = 32
Score = Callable[[list[str]], list[float]]


def ours(checkpoint: Path) -> Score:
    """Our loading and scoring."""
    model = read_detoxify(checkpoint, file_sha256(checkpoint), checkpoint.parent, torch.device("cpu"))
    return lambda texts: model.score(texts)["toxicity"]


def detoxify(checkpoint: Path) -> Score:
    """Detoxify's loading and scoring, in batches of 32 in file order."""
    model = Detoxify(checkpoint=str(checkpoint), huggingface_config_path=str(checkpoint.parent))

    def score(texts: list[str]) -> list[float]:
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return [value for batch in batches for value in model.predict(batch)["toxicity"]]

    return score


SIDES = {"ours": ours, "detoxify": detoxify}


def main() -> None:
    """Score texts, save the scores and report the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("scores", type=Path)
    options = parser.parse_args()
    gauge = Gauge()
    score = SIDES[options.side](options.checkpoint)
    texts = json.loads(options.texts.read_text())
    score(texts[:BATCH])  # warm-up: memory of threads and kernels
    gauge.begin()
    started, cpu_started = time.perf_counter(), time.process_time()
    scores = score(texts)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    options.scores.write_text(json.dumps(scores))
    print_measured(Measured(seconds={"score": seconds}, cpu_seconds=cpu_seconds, peak_bytes=gauge.peak_bytes()))


if __name__ == "__main__":
    main()
