"""Read answers in Ground Truth's output layout, from the labeling page or from a labeling job, and report every error.

Both spellings of the metadata are accepted (`worker-response-ref`, `worker_response_ref`).  A choice may be written as
the page writes it (`"a"`), as radio buttons do (`{"a": true, "tie": false, "b": false}`) or as a classifier does
(`{"label": "a"}`).  Workers are stored as pseudonyms only.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from rlhf.data.text import valid_unicode
from rlhf.errors import UserError
from rlhf.labeling.blinding import pseudonym
from rlhf.labeling.ground_truth_output import OUTPUT_MANIFEST
from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Judgement
from rlhf.labeling.manifest import BlindedPair
from rlhf.results.human_evaluation import QUESTIONS
from rlhf.storage.s3 import S3, Bucket, parse_uri

CHOICES = ("a", "tie", "b")


class ImportedAnswers(NamedTuple):
    """Content of a label output."""

    judgements: list[Judgement]
    problems: list[str]
    """One line per error."""
    missing: list[str]
    """Ids of pairs without a valid answer, in the manifest's order."""


class LabelOutput(Protocol):
    """A label output on this machine or in S3."""

    def manifest(self) -> bytes:
        """The output manifest."""
        ...

    def read(self, reference: str) -> bytes:
        """The file that the manifest refers to; raises UserError if it does not exist or is outside of the output."""
        ...


class LocalOutput:
    """A label output on this machine; references are relative, or those of the bucket that it was copied from."""

    def __init__(self, path: Path) -> None:
        candidates = [path] if path.is_file() else [path / OUTPUT_MANIFEST, *path.glob(f"*/{OUTPUT_MANIFEST}")]
        manifests = [candidate for candidate in candidates if candidate.is_file()]
        if len(manifests) != 1:
            count = f"{len(manifests)} of" if manifests else "no"
            raise UserError(f"{path}: {count} {OUTPUT_MANIFEST}; name the output manifest or the folder of one job")
        self._manifest = manifests[0]
        in_layout = self._manifest.match(str(OUTPUT_MANIFEST))
        self._root = (self._manifest.parents[2] if in_layout else self._manifest.parent).resolve()

    def manifest(self) -> bytes:
        """The output manifest."""
        return self._manifest.read_bytes()

    def read(self, reference: str) -> bytes:
        """The file that the manifest refers to, which must be inside of the output's folder."""
        relative = reference
        if reference.startswith(S3):
            relative = "annotations/" + reference.partition("/annotations/")[2]
        path = (self._root / relative).resolve()
        if not path.is_relative_to(self._root):
            raise UserError(f"{reference} is outside of {self._root}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{reference}: {error.strerror}") from error


class S3Output:
    """A label output in S3."""

    def __init__(self, uri: str) -> None:
        name, key = parse_uri(uri)
        layout = OUTPUT_MANIFEST.as_posix()
        self._bucket = Bucket(f"{S3}{name}")
        self._key = key if key.endswith(".manifest") else f"{key}/{layout}".lstrip("/")
        self._root = self._key.removesuffix(layout)

    def manifest(self) -> bytes:
        """The output manifest."""
        return self._get(self._key)

    def read(self, reference: str) -> bytes:
        """The object that the manifest refers to, which must be in the same bucket."""
        own = f"{self._bucket.uri}/"
        if reference.startswith(S3) and not reference.startswith(own):
            raise UserError(f"{reference} is outside of {own}")
        return self._get(reference.removeprefix(own) if reference.startswith(S3) else self._root + reference)

    def _get(self, key: str) -> bytes:
        try:
            content = self._bucket.read(key)
        except (BotoCoreError, ClientError) as error:
            raise UserError(f"{self._bucket.uri}/{key}: {error}") from error
        if content is None:
            raise UserError(f"{self._bucket.uri}/{key}: no such object; name the output manifest or the job's folder")
        return content


def read_label_output(source: str, pairs: list[BlindedPair], labeling_task: str) -> ImportedAnswers:
    """The answers to these pairs at `source` (output manifest, its folder, or s3://...); changes nothing.

    `labeling_task`, the fingerprint of the pairs, makes the workers' pseudonyms differ between tasks.
    """
    output: LabelOutput = S3Output(source) if source.startswith(S3) else LocalOutput(Path(source))
    expected = {pair.id: pair for pair in pairs}
    problems: list[str] = []
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, raw in enumerate(output.manifest().splitlines(), start=1):
        try:
            line = json.loads(raw.decode("utf-8"))
            known = isinstance(line, dict) and line.get("id") in expected
        except (UnicodeDecodeError, ValueError, TypeError) as error:
            problems.append(f"line {number}: not JSON in UTF-8 ({error})")
            continue
        if known:
            lines.append((number, line))
        else:
            problems.append(f"line {number}: unknown pair {_short(line)}")

    occurrences = Counter(line["id"] for _, line in lines)
    judgements: list[Judgement] = []
    for number, line in lines:
        pair_id = line["id"]
        if occurrences[pair_id] > 1:
            problems.append(f"line {number}: pair {pair_id} occurs {occurrences[pair_id]} times")
        elif changed := [key for key, text in expected[pair_id].model_dump().items() if line.get(key) != text]:
            problems.append(f"line {number}: pair {pair_id} was changed: {', '.join(changed)} differ from the run's")
        else:
            answers, errors = _read_answers(output, line, labeling_task)
            judgements += answers
            problems += [f"line {number}: pair {pair_id}: {error}" for error in errors]
    answered = {judgement.pair_id for judgement in judgements}
    return ImportedAnswers(judgements, problems, [pair.id for pair in pairs if pair.id not in answered])


def _read_answers(output: LabelOutput, line: dict[str, Any], labeling_task: str) -> tuple[list[Judgement], list[str]]:
    """The answers that a line refers to, and their errors; no answers if there is an error or no reference."""
    references = [
        str(content)
        for key, metadata in line.items()
        if key.endswith("-metadata") and isinstance(metadata, dict)
        for spelling, content in metadata.items()
        if spelling.replace("_", "-") == "worker-response-ref"
    ]
    judgements: list[Judgement] = []
    problems: list[str] = []
    for reference in references:
        try:
            answers = json.loads(output.read(reference).decode("utf-8"))["answers"]
        except UserError as error:
            problems.append(str(error))
            continue
        except (UnicodeDecodeError, ValueError, KeyError, TypeError):
            problems.append(f"{reference}: not a worker response")
            continue
        for answer in answers if isinstance(answers, list) else [answers]:
            try:
                judgements.append(_judgement(line["id"], answer, labeling_task))
            except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
                problems.append(f"{reference}: {_reason(error)}")
    for worker, count in Counter(judgement.annotator for judgement in judgements).items():
        if count > 1:
            problems.append(f"{count} answers of one worker ({worker})")
    return ([] if problems else judgements), problems


def _judgement(pair_id: str, answer: dict[str, Any], labeling_task: str) -> Judgement:
    content = answer["answerContent"]
    comment = content.get("comment") or ""
    return Judgement(
        pair_id=pair_id,
        annotator=pseudonym(labeling_task.encode(), str(answer["workerId"])),
        choices={question: _choice(content.get(question), question) for question in QUESTIONS},
        left=content.get("left", "a"),  # a labeling job shows A first
        seconds=min(float(answer.get("timeSpentInSeconds", 0.0)), MAX_SECONDS),
        comment=valid_unicode(str(comment))[:MAX_COMMENT],
        submitted_at=str(answer.get("submissionTime", "")),
    )


def _choice(value: object, question: str) -> str:
    if isinstance(value, dict) and "label" in value:
        value = value["label"]
    elif isinstance(value, dict):
        selected = [name for name, is_selected in value.items() if is_selected is True]
        value = selected[0] if len(selected) == 1 else value
    if value not in CHOICES:
        raise UserError(f"{question} is {_short(value)}, not one of {', '.join(CHOICES)}")
    return str(value)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
    return f"missing {error}" if isinstance(error, KeyError) else str(error)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
