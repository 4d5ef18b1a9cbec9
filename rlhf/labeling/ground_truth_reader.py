"""Read answers in Ground Truth's output layout, from the labeling page or from a labeling job, and report every error.

Both spellings of the metadata are accepted (`worker-response-ref`, `worker_response_ref`).  A choice may be written as
the page writes it (`"a"`), as radio buttons do (`{"a": true, "tie": false, "b": false}`) or as a classifier does
(`{"label": "a"}`).  Workers are stored as pseudonyms only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rlhf.data.invisible import one_line
from rlhf.data.text import valid_unicode
from rlhf.errors import UserError
from rlhf.labeling.blinding import pseudonym
from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Judgement
from rlhf.labeling.label_output import LabelOutput, LocalOutput, S3Output
from rlhf.labeling.manifest import BlindedPair
from rlhf.results.human_evaluation import QUESTIONS
from rlhf.storage.s3 import S3
from rlhf.storage.untrusted import MalformedJsonError, parse_json

CHOICES = ("a", "tie", "b")
MAX_TIME = 64
"""Characters of a time of submission."""


class ImportedAnswers(NamedTuple):
    """Content of a label output."""

    judgements: list[Judgement]
    problems: list[str]
    """One line per error."""
    missing: list[str]
    """Ids of pairs without a valid answer, in the manifest's order."""


def read_label_output(source: str, pairs: list[BlindedPair], labeling_task: str) -> ImportedAnswers:
    """The answers to these pairs at `source` (output manifest, its folder, or s3://...); changes nothing.

    `labeling_task`, the fingerprint of the pairs, makes the workers' pseudonyms differ between tasks.
    """
    output: LabelOutput = S3Output(source) if source.startswith(S3) else LocalOutput(Path(source))
    expected = {pair.id: pair for pair in pairs}
    problems: list[str] = []
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, raw in enumerate(output.manifest().splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            line = parse_json(raw)
        except MalformedJsonError as error:
            problems.append(f"line {number}: {one_line(str(error))}")
            continue
        pair_id = line.get("id") if isinstance(line, dict) else None
        if isinstance(pair_id, str) and pair_id in expected:
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
    judgements: list[Judgement] = []
    problems: list[str] = []
    for reference in _references(line):
        shown = one_line(reference)
        try:
            content = parse_json(output.read(reference))
        except UserError as error:
            problems.append(f"{shown}: {error}")
            continue
        except MalformedJsonError as error:
            problems.append(f"{shown}: not a worker response, {one_line(str(error))}")
            continue
        answers = content.get("answers") if isinstance(content, dict) else None
        if answers is None:
            problems.append(f"{shown}: not a worker response, it has no answers")
            continue
        for answer in answers if isinstance(answers, list) else [answers]:
            try:
                judgements.append(_judgement(line["id"], answer, labeling_task))
            except (ValidationError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                problems.append(f"{shown}: {_reason(error)}")
    for worker, count in Counter(judgement.annotator for judgement in judgements).items():
        if count > 1:
            problems.append(f"{count} answers of one worker ({worker})")
    return ([] if problems else judgements), problems


def _references(line: dict[str, Any]) -> Iterator[str]:
    """The names of the files with the answers to a pair; none if nobody has answered it."""
    for key, metadata in line.items():
        if key.endswith("-metadata") and isinstance(metadata, dict):
            for spelling, reference in metadata.items():
                if spelling.replace("_", "-") == "worker-response-ref" and reference is not None:
                    yield str(reference)


def _judgement(pair_id: str, answer: dict[str, Any], labeling_task: str) -> Judgement:
    content = answer["answerContent"]
    comment = content.get("comment") or ""
    return Judgement(
        pair_id=pair_id,
        annotator=pseudonym(labeling_task.encode(), str(answer["workerId"])),
        choices={question: _choice(content.get(question), question) for question in QUESTIONS},
        left=content.get("left", "a"),  # a labeling job shows A first
        seconds=min(float(answer.get("timeSpentInSeconds") or 0.0), MAX_SECONDS),
        comment=valid_unicode(str(comment))[:MAX_COMMENT],
        submitted_at=valid_unicode(str(answer.get("submissionTime", "")))[:MAX_TIME],
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
        return one_line("; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()))
    return f"missing {error}" if isinstance(error, KeyError) else one_line(str(error))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
