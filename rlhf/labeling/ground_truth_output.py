"""Write the page's answers in Ground Truth's output layout, so that both are imported by the same code.

output/manifests/output/output.manifest                               the pairs, with a reference if answered
output/annotations/worker-response/iteration-1/PAIR/response.json     all answers to a pair
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from rlhf.labeling.judgements import Judgement
from rlhf.labeling.manifest import BlindedPair
from rlhf.storage.files import write_atomically

ATTRIBUTE = "preference"
"""Label attribute name: the key under which an output manifest holds the labels."""
OUTPUT_MANIFEST = Path("manifests/output/output.manifest")
RESPONSES = Path("annotations/worker-response/iteration-1")


class OutputWriter:
    """Keeps the output folder up to date with the answers, pair by pair."""

    def __init__(self, folder: Path, pairs: list[BlindedPair]) -> None:
        self._folder = folder
        self._pairs = pairs
        self._answered_at: dict[str, str] = {}

    def write(self, judgements: Iterable[Judgement]) -> None:
        """Write the complete folder from all answers; response files of pairs without an answer are removed."""
        by_pair: dict[str, list[Judgement]] = {pair.id: [] for pair in self._pairs}
        for judgement in judgements:
            by_pair[judgement.pair_id].append(judgement)
        for pair_id, answers in by_pair.items():
            self._write_responses(pair_id, answers)
        self._write_manifest()

    def update(self, pair_id: str, answers: list[Judgement]) -> None:
        """Write the files that change when `answers` are all answers to one pair."""
        was_answered = pair_id in self._answered_at
        self._write_responses(pair_id, answers)
        if was_answered != (pair_id in self._answered_at):
            self._write_manifest()

    def _write_responses(self, pair_id: str, answers: list[Judgement]) -> None:
        path = self._folder / RESPONSES / pair_id / "response.json"
        if not answers:
            path.unlink(missing_ok=True)
            self._answered_at.pop(pair_id, None)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(answers, key=lambda answer: answer.annotator)
        content = json.dumps({"answers": [_worker_answer(answer) for answer in ordered]}).encode()
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
        self._answered_at[pair_id] = max(answer.submitted_at for answer in answers)

    def _write_manifest(self) -> None:
        path = self._folder / OUTPUT_MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(json.dumps(self._line(pair)) + "\n" for pair in self._pairs))

    def _line(self, pair: BlindedPair) -> dict[str, object]:
        if pair.id not in self._answered_at:
            return pair.model_dump()
        return {
            **pair.model_dump(),
            ATTRIBUTE: {},
            f"{ATTRIBUTE}-metadata": {
                "type": "groundtruth/custom",
                "job-name": "labeling-page",
                "human-annotated": "yes",
                "creation-date": self._answered_at[pair.id],
                "worker-response-ref": (RESPONSES / pair.id / "response.json").as_posix(),
            },
        }


def _worker_answer(judgement: Judgement) -> dict[str, object]:
    submitted = datetime.fromisoformat(judgement.submitted_at)
    return {
        "acceptanceTime": (submitted - timedelta(seconds=judgement.seconds)).isoformat(timespec="milliseconds"),
        "submissionTime": judgement.submitted_at,
        "timeSpentInSeconds": judgement.seconds,
        "answerContent": {**judgement.choices.model_dump(), "left": judgement.left, "comment": judgement.comment},
        "workerId": judgement.annotator,
        "workerMetadata": {},
    }
