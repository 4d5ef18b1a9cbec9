"""Read labels in Ground Truth's output layout, from the page or from a labeling job, and name everything wrong in them.

Both spellings of the metadata are read (`worker-response-ref`, `worker_response_ref`), and an answer as the page
writes it (`"a"`), as radio buttons give it (`{"a": true, "tie": false, "b": false}`) or a classifier
(`{"label": "a"}`).  Nothing of a worker is kept but a pseudonym.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from rlhf.data.text import valid_unicode
from rlhf.errors import UserError
from rlhf.labeling.blinding import pseudonym
from rlhf.labeling.ground_truth_output import OUTPUT_MANIFEST
from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Judgement
from rlhf.labeling.manifest import Item
from rlhf.results.human_evaluation import QUESTIONS

S3 = "s3://"
CHOICES = ("a", "tie", "b")


class Labels(NamedTuple):
    """What an output holds."""

    judgements: list[Judgement]
    problems: list[str]
    """Everything that is not as it should be, a line each."""
    missing: list[str]
    """Items without any answer, in the manifest's order."""


class Place(Protocol):
    """Where an output lies."""

    name: str

    def manifest(self) -> bytes:
        """The output manifest."""
        ...

    def read(self, reference: str) -> bytes:
        """The file behind a reference of the manifest; raises UserError where it is not there or outside."""
        ...


class Folder:
    """An output on this machine, its references relative or still those of the bucket that it was copied from."""

    def __init__(self, path: Path) -> None:
        found = [path] if path.is_file() else [path / OUTPUT_MANIFEST, *path.glob(f"*/{OUTPUT_MANIFEST}")]
        manifests = [candidate for candidate in found if candidate.is_file()]
        if len(manifests) != 1:
            what = "no" if not manifests else f"{len(manifests)} times"
            raise UserError(f"{path}: {what} {OUTPUT_MANIFEST}; name the output manifest or the folder of one job")
        self.name = str(manifests[0])
        self._manifest = manifests[0]
        in_layout = self._manifest.match(str(OUTPUT_MANIFEST))
        self._root = (self._manifest.parents[2] if in_layout else self._manifest.parent).resolve()

    def manifest(self) -> bytes:
        """The output manifest."""
        return self._manifest.read_bytes()

    def read(self, reference: str) -> bytes:
        """The file behind a reference, which must lie beside the manifest."""
        relative = reference
        if reference.startswith(S3):
            relative = "annotations/" + reference.partition("/annotations/")[2]
        path = (self._root / relative).resolve()
        if not path.is_relative_to(self._root):
            raise UserError(f"{reference} lies outside of {self._root}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{reference}: {error.strerror}") from None


class Bucket:
    """An output in S3."""

    def __init__(self, uri: str) -> None:
        self._bucket, _, key = uri.removeprefix(S3).partition("/")
        layout = OUTPUT_MANIFEST.as_posix()
        self._key = key if key.endswith(".manifest") else f"{key.rstrip('/')}/{layout}".lstrip("/")
        self._root = self._key.removesuffix(layout)
        self.name = f"{S3}{self._bucket}/{self._key}"
        self._client = boto3.client("s3")

    def manifest(self) -> bytes:
        """The output manifest."""
        return self._get(self._key)

    def read(self, reference: str) -> bytes:
        """The object behind a reference, which must be in the same bucket."""
        own = f"{S3}{self._bucket}/"
        if reference.startswith(S3) and not reference.startswith(own):
            raise UserError(f"{reference} lies outside of {own}")
        return self._get(reference.removeprefix(own) if reference.startswith(S3) else self._root + reference)

    def _get(self, key: str) -> bytes:
        try:
            content: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except (BotoCoreError, ClientError) as error:
            raise UserError(f"{S3}{self._bucket}/{key}: {error}") from None
        return content


def read_output(source: str, items: list[Item], comparison: str) -> Labels:
    """The labels at `source` (output manifest, its folder, or s3://…) for these items; changes nothing."""
    place: Place = Bucket(source) if source.startswith(S3) else Folder(Path(source))
    expected = {item.item: item for item in items}
    problems: list[str] = []
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, raw in enumerate(place.manifest().splitlines(), start=1):
        try:
            line = json.loads(raw.decode("utf-8"))
            known = isinstance(line, dict) and line.get("item") in expected
        except (UnicodeDecodeError, ValueError, TypeError) as error:
            problems.append(f"line {number}: no JSON in UTF-8 ({error})")
            continue
        if known:
            lines.append((number, line))
        else:
            problems.append(f"line {number}: unknown item {_short(line)}")

    times = Counter(line["item"] for _, line in lines)
    judgements: list[Judgement] = []
    for number, line in lines:
        name = line["item"]
        if times[name] > 1:
            problems.append(f"line {number}: item {name} is there {times[name]} times")
        elif changed := [key for key, text in expected[name].model_dump().items() if line.get(key) != text]:
            problems.append(f"line {number}: item {name} was tampered with: {', '.join(changed)} differ from the run's")
        else:
            found, wrong = _read_answers(place, line, comparison)
            judgements += found
            problems += [f"line {number}: item {name}: {problem}" for problem in wrong]
    answered = {judgement.item for judgement in judgements}
    return Labels(judgements, problems, [item.item for item in items if item.item not in answered])


def _read_answers(place: Place, line: dict[str, Any], comparison: str) -> tuple[list[Judgement], list[str]]:
    """The answers behind one line; none where the line is not labelled."""
    references = [
        str(content)
        for key, metadata in line.items()
        if key.endswith("-metadata") and isinstance(metadata, dict)
        for spelling, content in metadata.items()
        if spelling.replace("_", "-") == "worker-response-ref"
    ]
    found: list[Judgement] = []
    problems: list[str] = []
    for reference in references:
        try:
            answers = json.loads(place.read(reference).decode("utf-8"))["answers"]
        except UserError as error:
            problems.append(str(error))
            continue
        except (UnicodeDecodeError, ValueError, KeyError, TypeError):
            problems.append(f"{reference}: no worker response")
            continue
        for answer in answers if isinstance(answers, list) else [answers]:
            try:
                found.append(_judgement(line["item"], answer, comparison))
            except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
                problems.append(f"{reference}: {_reason(error)}")
    for worker, times in Counter(judgement.annotator for judgement in found).items():
        if times > 1:
            problems.append(f"{times} answers of one worker ({worker})")
    return ([] if problems else found), problems


def _judgement(item: str, answer: dict[str, Any], comparison: str) -> Judgement:
    content = answer["answerContent"]
    comment = content.get("comment") or ""
    return Judgement(
        item=item,
        annotator=pseudonym(comparison.encode(), str(answer["workerId"])),
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
        taken = [name for name, on in value.items() if on is True]
        value = taken[0] if len(taken) == 1 else value
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
