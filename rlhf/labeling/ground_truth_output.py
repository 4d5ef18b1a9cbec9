"""Ground Truth's output layout, written from the page's answers, so that one importer serves both.

output/manifests/output/output.manifest                               the items, with a reference where answered
output/annotations/worker-response/iteration-1/ITEM/response.json     everyone's answers to an item
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from rlhf.labeling.judgements import Judgement
from rlhf.labeling.manifest import Item
from rlhf.storage.files import write_atomically

ATTRIBUTE = "preference"
"""Label attribute name: the key under which an output manifest holds the labels."""
OUTPUT_MANIFEST = Path("manifests/output/output.manifest")
RESPONSES = Path("annotations/worker-response/iteration-1")


class OutputWriter:
    """Keeps the output folder equal to the answers, item by item."""

    def __init__(self, folder: Path, items: list[Item]) -> None:
        self._folder = folder
        self._items = items
        self._answered: dict[str, str] = {}

    def write(self, judgements: Iterable[Judgement]) -> None:
        """Write the whole folder from everyone's answers; responses of an item that lost its last answer go."""
        found: dict[str, list[Judgement]] = {item.item: [] for item in self._items}
        for judgement in judgements:
            found[judgement.item].append(judgement)
        for name, answers in found.items():
            self._write_responses(name, answers)
        self._write_manifest()

    def update(self, item: str, answers: list[Judgement]) -> None:
        """Write what changed with everyone's `answers` to one item."""
        before = item in self._answered
        self._write_responses(item, answers)
        if before != (item in self._answered):
            self._write_manifest()

    def _write_responses(self, item: str, answers: list[Judgement]) -> None:
        path = self._folder / RESPONSES / item / "response.json"
        if not answers:
            path.unlink(missing_ok=True)
            self._answered.pop(item, None)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(answers, key=lambda answer: answer.annotator)
        content = json.dumps({"answers": [_worker_answer(answer) for answer in ordered]})
        if not path.exists() or path.read_text("utf-8") != content:
            write_atomically(path, content)
        self._answered[item] = max(answer.submitted_at for answer in answers)

    def _write_manifest(self) -> None:
        path = self._folder / OUTPUT_MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(json.dumps(self._line(item)) + "\n" for item in self._items))

    def _line(self, item: Item) -> dict[str, object]:
        if item.item not in self._answered:
            return item.model_dump()
        return {
            **item.model_dump(),
            ATTRIBUTE: {},
            f"{ATTRIBUTE}-metadata": {
                "type": "groundtruth/custom",
                "job-name": "labeling-page",
                "human-annotated": "yes",
                "creation-date": self._answered[item.item],
                "worker-response-ref": (RESPONSES / item.item / "response.json").as_posix(),
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
