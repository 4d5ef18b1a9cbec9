"""A label import names every problem and then changes nothing; valid labels complete the report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from rlhf.errors import UserError
from rlhf.evaluation.verdict import complete
from rlhf.labeling.ground_truth_reader import read_label_output
from rlhf.labeling.label_output import MAX_RESPONSE_BYTES
from rlhf.labeling.manifest import read_blinded_pairs, read_key
from rlhf.labeling.session import LabelingSession
from rlhf.results.schema import Results
from rlhf.runs.label_import import IncompleteError, import_labels
from rlhf.runs.published import FinishedRun, find_run, open_run, rebuild_report
from rlhf.storage.artifacts import STAT_CACHE
from tests.support.finished_run import finished_run, judgement, write_output

PAIRS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finished_run(tmp_path_factory.mktemp("finished"), prompts=PAIRS)


@pytest.fixture
def run(finished: FinishedRun) -> Iterator[FinishedRun]:
    """A finished run before any import."""
    before = {path: path.read_bytes() for path in finished.folder.iterdir() if path.is_file()}
    yield finished
    for path in finished.folder.iterdir():
        if path not in before and path.is_file():
            path.unlink()
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture
def manifest(run: FinishedRun, tmp_path: Path) -> Path:
    """Two annotators for each pair: the first prefers RLHF, the second prefers SFT in the first pair only."""
    key = read_key(run.pairs)
    answers = []
    for number, pair in enumerate(read_blinded_pairs(run.pairs)):
        rlhf, sft = ("a", "b") if key[pair.id].a == "rlhf" else ("b", "a")
        answers += [judgement(pair.id, "w-1", rlhf), judgement(pair.id, "w-2", sft if number == 0 else rlhf)]
    return write_output(run, tmp_path / "output", answers)


def lines_of(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def write_lines(manifest: Path, lines: list[dict[str, Any]]) -> None:
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))


def state(run: FinishedRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != STAT_CACHE}


def published(run: FinishedRun) -> Results:
    return Results.model_validate_json((run.folder / "results.json").read_bytes())


def test_a_complete_import_completes_the_report(run: FinishedRun, manifest: Path) -> None:
    before = published(run)
    artifacts = times(run.store.root)
    imported = import_labels(run, str(manifest), partial=False)
    after = published(run)
    evaluation = after.human_evaluation
    assert evaluation == imported.evaluation
    assert (evaluation.status, evaluation.labeled) == ("complete", PAIRS)
    counts = evaluation.questions[-1].answers
    assert (counts.wins, counts.ties, counts.losses) == (7, 0, 1)
    assert evaluation.questions[-1].pairs.model_dump() == {"wins": 3, "ties": 1, "losses": 0}
    assert after.judges[0] == evaluation.preference
    assert after.verdict != before.verdict
    assert complete(after, before.human_evaluation) == before  # nothing else changed
    assert "Run <code>rlhf label serve</code>" not in (run.folder / "report.html").read_text()
    assert times(run.store.root) == artifacts


def test_labels_are_kept_when_the_report_is_rebuilt(run: FinishedRun, manifest: Path) -> None:
    import_labels(run, str(manifest), partial=False)
    (run.folder / "results.json").write_text("{}")
    rebuild_report(run)
    assert published(run).human_evaluation.status == "complete"
    labels = json.loads((run.folder / "human_evaluation.json").read_text())
    (run.folder / "human_evaluation.json").write_text(json.dumps({**labels, "labeling_task": "other pairs"}))
    rebuild_report(run)
    assert published(run).human_evaluation.status == "pending"


def test_importing_again_changes_no_byte(run: FinishedRun, manifest: Path) -> None:
    import_labels(run, str(manifest.parents[2]), partial=False)
    before = state(run)
    import_labels(find_run(str(run.folder.parent), "fake"), str(manifest), partial=False)
    after = state(run)
    assert after["results.json"] == before["results.json"]
    assert after["report.html"] == before["report.html"]


def damaged(manifest: Path, how: str) -> tuple[str, int]:
    """Damage the manifest or a response; returns the expected message and the number of valid pairs."""
    first, second, *rest = lines_of(manifest)
    name, content = second["id"], manifest.read_bytes()
    plain = {key: value for key, value in second.items() if "preference" not in key}
    lines = {
        "missing": ([first, *rest], f"pair {name}: no answer", 3),
        "not labeled": ([first, plain, *rest], f"pair {name}: no answer", 3),
        "doubled": ([first, second, *rest, second], f"line 5: pair {name} occurs 2 times", 3),
        "unknown": ([first, second, *rest, {**second, "id": "feedface"}], 'line 5: unknown pair {"id": "feed', 4),
        "tampered": (
            [first, {**second, "answer_a": second["answer_b"]}, *rest],
            f"line 2: pair {name} was changed: answer_a differ",
            3,
        ),
    }
    if how in lines:
        write_lines(manifest, lines[how][0])
        return lines[how][1:]
    invalid_lines = {
        "no json": (b"{half\n", "broken JSON"),
        "no utf-8": (b'{"id": "\xff"}\n', "not UTF-8 (byte 9)"),
        "deep": (b"[" * 100_000 + b"\n", "broken JSON (nested too deeply)"),
        "long integer": (b'{"id": ' + b"9" * 400 + b"}\n", "an integer of 400 digits"),
        "half a surrogate pair": (b'{"id": "\\ud83d"}\n', r'unknown pair {"id": "\ud83d"}'),
        "terminal codes": (b'{"id": "\x1b[31m"}\n', "broken JSON"),
    }
    if how in invalid_lines:
        line, message = invalid_lines[how]
        manifest.write_bytes(content + line)
        return f"line 5: {message}", 4
    return damaged_response(manifest, second, how), 3


def damaged_response(manifest: Path, line: dict[str, Any], how: str) -> str:
    """Damage the response that a line refers to; returns the expected message."""
    reference = manifest.parents[2] / line["preference-metadata"]["worker-response-ref"]
    answers = json.loads(reference.read_text())
    if how == "no response":
        reference.unlink()
        return f"{line['preference-metadata']['worker-response-ref']}: {reference}: cannot be read (No such file"
    if how in ("pipe", "endless link"):
        reference.unlink()
        os.mkfifo(reference) if how == "pipe" else reference.symlink_to(reference)
        return "not an ordinary file" if how == "pipe" else "cannot be followed"
    contents = {
        "deep response": (b'{"answers": ' + b"[" * 100_000, "not a worker response, broken JSON (nested too deeply)"),
        "list": (b"[]", "not a worker response, it has no answers"),
        "large": (b" " * (MAX_RESPONSE_BYTES + 1), f"at most {MAX_RESPONSE_BYTES} are read"),
    }
    if how in contents:
        reference.write_bytes(contents[how][0])
        return contents[how][1]
    if how == "unknown choice":
        answers["answers"][0]["answerContent"]["overall"] = "c"
        message = 'overall is "c", not one of a, tie, b'
    elif how == "half an answer":
        del answers["answers"][0]["answerContent"]["harmlessness"]
        message = "harmlessness is null, not one of a, tie, b"
    elif how == "long time":
        answers["answers"][0]["timeSpentInSeconds"] = 10**400
        message = "an integer of 401 digits"
    elif how == "endless time":
        answers["answers"][0]["timeSpentInSeconds"] = float("nan")
        message = "seconds: Input should be less than or equal to 86400"
    elif how == "no object":
        answers["answers"][0] = 7
        message = "'int' object is not subscriptable"
    elif how == "no worker":
        del answers["answers"][0]["workerId"]
        message = "missing 'workerId'"
    else:
        answers["answers"].append(answers["answers"][0])
        message = "2 answers of one worker"
    reference.write_text(json.dumps(answers))
    return message


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "not labeled",
        "doubled",
        "unknown",
        "tampered",
        "no json",
        "no utf-8",
        "deep",
        "long integer",
        "half a surrogate pair",
        "terminal codes",
        "no response",
        "pipe",
        "endless link",
        "deep response",
        "list",
        "large",
        "long time",
        "endless time",
        "no object",
        "unknown choice",
        "half an answer",
        "no worker",
        "same worker",
    ],
)
def test_damage_is_named_and_changes_nothing(run: FinishedRun, manifest: Path, how: str) -> None:
    message, good = damaged(manifest, how)
    before = state(run)
    with pytest.raises(UserError, match="nothing was imported; --partial imports the valid answers") as caught:
        import_labels(run, str(manifest), partial=False)
    assert message in str(caught.value)
    assert state(run) == before
    imported = import_labels(run, str(manifest), partial=True)
    assert imported.evaluation.labeled == good
    assert len(imported.missing) == PAIRS - good
    assert imported.evaluation.status == ("complete" if good == PAIRS else "partial")


def test_all_damage_is_named_together(run: FinishedRun, manifest: Path) -> None:
    message, _ = damaged(manifest, "unknown choice")
    first, *rest = lines_of(manifest)
    write_lines(manifest, [*rest, {**first, "id": "feedface"}])
    with pytest.raises(UserError) as caught:
        import_labels(run, str(manifest), partial=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert message in str(caught.value)
    assert "line 4: unknown pair" in str(caught.value)
    assert f"  pair {first['id']}: no answer" in lines
    assert f"  pair {rest[0]['id']}: no answer" in lines


def test_only_the_first_problems_are_listed(run: FinishedRun, manifest: Path) -> None:
    manifest.write_text("".join(f"{{bad {number}\n" for number in range(50_000)))
    with pytest.raises(UserError) as caught:
        import_labels(run, str(manifest), partial=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1 + PAIRS
    assert lines[20].startswith("  line 20: broken JSON")
    assert lines[21] == "  ... and 49,980 more"
    manifest.write_bytes(b"[" * 100_000 + b'"' + "\u202e".encode() * 100_000 + b"\n")
    with pytest.raises(UserError) as caught:
        import_labels(run, str(manifest), partial=False)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "pipe", "endless link"])
def test_a_source_that_is_no_output_is_one_error(run: FinishedRun, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "endless link":
        path.symlink_to(path)
    with pytest.raises(UserError) as caught:
        import_labels(run, str(path), partial=False)
    assert str(caught.value).isprintable()


def test_what_ground_truth_and_copies_of_it_add_is_read(run: FinishedRun, manifest: Path) -> None:
    """A byte order mark, Windows' line ends, empty lines, a job whose prefix has a folder named annotations."""
    lines = lines_of(manifest)
    for line in lines:
        metadata = line["preference-metadata"]
        metadata["worker-response-ref"] = f"s3://bucket/annotations/job/{metadata['worker-response-ref']}"
        path = manifest.parents[2] / metadata["worker-response-ref"].removeprefix("s3://bucket/annotations/job/")
        answers = json.loads(path.read_text())["answers"]
        path.write_text("\ufeff" + json.dumps({"answers": [{**a, "timeSpentInSeconds": None} for a in answers]}))
    del lines[1]["preference-metadata"]["worker-response-ref"]
    lines[2]["preference-metadata"]["worker-response-ref"] = None
    manifest.write_text("\ufeff" + "\r\n\r\n".join(json.dumps(line) for line in lines), newline="")
    answers = read_label_output(str(manifest), read_blinded_pairs(run.pairs), run.labeling_task)
    assert answers.problems == []
    assert answers.missing == [lines[1]["id"], lines[2]["id"]]
    assert [judgement.seconds for judgement in answers.judgements] == [0.0] * 4


def test_without_valid_answers_partial_is_an_error_too(run: FinishedRun, manifest: Path) -> None:
    write_lines(manifest, [pair.model_dump() for pair in read_blinded_pairs(run.pairs)])
    with pytest.raises(IncompleteError, match="nothing can be imported"):
        import_labels(run, str(manifest), partial=True)


@pytest.mark.parametrize(
    "reference",
    [
        "../../../../etc/passwd",
        "/etc/passwd",
        "s3://b/annotations/../../../x",
        "s3://b/annotations//etc/passwd",
        "s3://b/x",
        "a\x1b[31m",
        "a\0b",
        "",
        ".",
    ],
)
def test_references_stay_inside(run: FinishedRun, manifest: Path, reference: str) -> None:
    lines = lines_of(manifest)
    lines[0]["preference-metadata"]["worker-response-ref"] = reference
    write_lines(manifest, lines)
    with pytest.raises(UserError, match="is not a plain path inside this folder"):
        import_labels(run, str(manifest), partial=False)


def test_the_key_must_be_intact(run: FinishedRun) -> None:
    key = run.pairs / "key.jsonl"
    content = key.read_text()
    key.write_text(content.replace('"a": "sft", "b": "rlhf"', '"a": "rlhf", "b": "sft"'))
    try:
        with (
            pytest.raises(UserError, match="sha256 differs from the manifest"),
            open_run(str(run.folder.parent), None),
        ):
            pass
    finally:
        key.write_text(content)


def as_ground_truth(run: FinishedRun, root: str, folder: Path, spelling: str) -> Path:
    """Output of a labeling job: radio buttons, a timestamped file, references into the bucket."""
    folder = folder / "manifests" / "output"
    folder.mkdir(parents=True)
    responses = folder.parents[1] / "annotations" / "worker-response" / "iteration-1"
    lines = []
    for number, pair in enumerate(read_blinded_pairs(run.pairs)):
        content = {
            "helpfulness": {"a": True, "b": False, "tie": False},
            "harmlessness": {"label": "tie"},
            "overall": {"a": number == 0, "b": False, "tie": number > 0},
            "comment": "",
        }
        answer = {
            "acceptanceTime": "2026-01-02T03:04:05.678Z",
            "submissionTime": "2026-01-02T03:04:25.678Z",
            "timeSpentInSeconds": 20,
            "answerContent": content,
            "workerId": "private.eu-west-1.abc",
            "workerMetadata": {"identityData": {"sub": "jane@example.org"}},
        }
        (responses / str(number)).mkdir(parents=True)
        (responses / str(number) / "2026-01-02_03-04-25.json").write_text(json.dumps({"answers": [answer]}))
        metadata = {
            "type": "groundtruth/custom",
            "job-name": "labeling-job/x",
            "worker-response-ref": f"{root}/annotations/worker-response/iteration-1/{number}/2026-01-02_03-04-25.json",
        }
        spelled = {name.replace("-", spelling): value for name, value in metadata.items()}
        lines.append({**pair.model_dump(), "preference": {}, "preference-metadata": spelled})
    write_lines(folder / "output.manifest", lines)
    return folder / "output.manifest"


@pytest.mark.parametrize("spelling", ["-", "_"])
def test_a_labeling_job_is_read_in_both_spellings(run: FinishedRun, tmp_path: Path, spelling: str) -> None:
    copied = as_ground_truth(run, "s3://bucket/prefix/job", tmp_path / "copied", spelling)
    answers = read_label_output(str(copied.parents[2]), read_blinded_pairs(run.pairs), run.labeling_task)
    assert (answers.problems, answers.missing) == ([], [])
    first = answers.judgements[0]
    assert first.choices.model_dump() == {"helpfulness": "a", "harmlessness": "tie", "overall": "a"}
    assert (first.left, first.seconds) == ("a", 20.0)
    assert answers.judgements[1].choices.overall == "tie"
    import_labels(run, str(copied), partial=False)
    for name in ("human_evaluation.json", "results.json", "report.html"):
        content = (run.folder / name).read_text()
        assert "jane@example.org" not in content
        assert "private.eu-west-1" not in content


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS, simulated by moto."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        yield


@pytest.mark.usefixtures("aws")
def test_labels_come_from_s3(run: FinishedRun, tmp_path: Path) -> None:
    storage = boto3.client("s3")
    storage.create_bucket(Bucket="labels")
    manifest = as_ground_truth(run, "s3://labels/team/job", tmp_path / "job", "-")
    root = manifest.parents[2]
    for path in root.rglob("*"):
        if path.is_file():
            storage.put_object(Bucket="labels", Key=f"team/job/{path.relative_to(root)}", Body=path.read_bytes())
    imported = import_labels(run, "s3://labels/team/job", partial=False)
    assert imported.evaluation.labeled == PAIRS
    with pytest.raises(UserError, match=r"s3://labels/elsewhere/manifests/output/output.manifest: no such object"):
        import_labels(run, "s3://labels/elsewhere", partial=False)
    lines = lines_of(manifest)
    lines[0]["preference-metadata"]["worker-response-ref"] = "s3://other/annotations/x.json"
    body = "".join(json.dumps(line) + "\n" for line in lines)
    storage.put_object(Bucket="labels", Key="team/job/manifests/output/output.manifest", Body=body)
    with pytest.raises(UserError, match=r"s3://other/annotations/x\.json is outside of s3://labels/"):
        import_labels(run, "s3://labels/team/job/manifests/output/output.manifest", partial=False)


def test_without_a_source_the_answers_of_the_page_are_imported(run: FinishedRun) -> None:
    with pytest.raises(
        UserError, match="nobody has labeled yet; `rlhf label serve --run fake` starts the labeling page"
    ):
        import_labels(run, None, partial=False)
    labels = LabelingSession(run.pairs, run.labels)
    journal = labels.journal("Ada")
    for pair in labels.pairs:
        labels.answer("Ada", pair, 1, judgement(pair).choices, seconds=2.0, comment="")
    labels.close()
    assert len(journal.latest()) == PAIRS
    lines = (run.labels / "output/manifests/output/output.manifest").read_text().splitlines(keepends=True)
    (run.labels / "output/manifests/output/output.manifest").write_text(lines[0])  # as after a kill
    assert import_labels(run, None, partial=False).evaluation.labeled == PAIRS


def test_runs_are_found_and_missed_by_name(run: FinishedRun, tmp_path: Path) -> None:
    workspace = str(run.folder.parent)
    assert find_run(workspace, "fake").labeling_task == run.labeling_task
    with pytest.raises(UserError, match="no finished run other; there are fake"):
        find_run(workspace, "other")
    with pytest.raises(UserError, match="holds no finished run"):
        find_run(str(tmp_path), None)
    with pytest.raises(UserError, match="no finished run"):
        find_run(workspace, "../artifacts")
