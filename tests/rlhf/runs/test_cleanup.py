"""Cleanup removes what runs created and nothing else, in a folder and in a bucket."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from rlhf.errors import UserError
from rlhf.runs.cleanup import LocalLocation, Location, location_at, plan_cleanup, record_objects, remove, runs_of
from rlhf.runtime.stage import StageRequest
from rlhf.storage.artifacts import MANIFEST
from rlhf.storage.files import locked
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_lock import lock
from rlhf.storage.s3_store import S3Store
from tests.support.artifacts import finish

ONE, TWO, THREE, INPUT = ("1" * 16, "2" * 16, "3" * 16, "4" * 16)


def write(root: Path, *names: str, text: str = "x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def publish(root: Path, run: str, **stages: str) -> None:
    rows = [{"name": name, "fingerprint": fingerprint} for name, fingerprint in stages.items()]
    write(root, f"{run}/results.json", text=json.dumps({"run_name": run, "stages": rows}))
    write(root, f"{run}/report.html", f"{run}/config.json")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two runs that share their data; an interrupted SFT stage."""
    root = tmp_path / "runs"
    write(root, f"artifacts/prepare_data/{ONE}/demonstrations.jsonl", f"artifacts/prepare_data/{ONE}/log.txt")
    finish(root / f"artifacts/prepare_data/{ONE}", "prepare_data", ONE, inputs={"source": INPUT})
    write(root, f"inputs/{INPUT}/pairs.jsonl/files/pairs.jsonl")
    finish(root / f"inputs/{INPUT}/pairs.jsonl", "inputs", INPUT)
    for fingerprint in (TWO, THREE):
        folder = root / f"artifacts/export_model/{fingerprint}"
        write(folder, "model/model.safetensors", "model/README.md")
        finish(folder, "export_model", fingerprint)
        write(root, f"records/export_model-{fingerprint}")
    publish(root, "first", prepare_data=ONE, export_model=TWO)
    publish(root, "second", prepare_data=ONE, export_model=THREE)
    for run in ("first", "second"):
        write(root, f"{run}/model/model.safetensors", f"{run}/model/README.md")
    write(root, "first/tracker/train_sft/events.out.tfevents.1.host", "compare-first-second.html")
    unfinished = root / f"artifacts/train_sft/{ONE}"
    write(unfinished, "log.txt", "metrics.jsonl", "checkpoints/checkpoint-5/model.safetensors", ".lock")
    request = StageRequest(stage="train_sft", fingerprint=ONE, config={}, inputs={})
    write(unfinished, "request.json", text=request.model_dump_json())
    return root


UNKNOWN = [
    "notes.txt",
    f"artifacts/prepare_data/{ONE}/notes.txt",  # next to files of a stage
    f"artifacts/train_sft/{ONE}/my_metrics.csv",
    f"artifacts/train_sft/{TWO}/log.txt",  # a folder without a request or manifest
    f"artifacts/other_stage/{ONE}/log.txt",
    "artifacts/train_sft/README.md",
    "records/mine",
    "records/train_sft-notes",
    f"records/{'a' * 32}",
    "first/model/adapter.safetensors",  # added by a person
    "first/thoughts.md",
    "third/results.json",  # the results of a run with another name
    "third/report.html",
    f"inputs/{INPUT}/pairs.jsonl/extra.jsonl",
]
LABEL_FILES = ["first/human_evaluation.json", f"first/labels/{ONE}/output/manifests/output/output.manifest"]


def add_unknown(root: Path) -> None:
    write(root, *UNKNOWN, *LABEL_FILES)
    write(root, "third/results.json", text=json.dumps({"run_name": "fourth", "stages": []}))


def test_files_of_runs_are_removed_and_all_others_kept(workspace: Path) -> None:
    add_unknown(workspace)
    location = LocalLocation(workspace)
    plan = plan_cleanup(location)
    assert sorted(plan.unknown) == sorted(UNKNOWN)
    assert sorted(plan.labels) == sorted(LABEL_FILES)
    assert (plan.shared, plan.remote) == ([], [])
    remove(location, plan)
    assert location.names() == sorted([*UNKNOWN, *LABEL_FILES])
    assert not (workspace / "second").exists()  # folders that became empty are gone
    assert plan_cleanup(location).removable == []


def test_a_workspace_with_only_files_of_runs_becomes_empty(workspace: Path) -> None:
    remove(LocalLocation(workspace), plan_cleanup(LocalLocation(workspace)))
    assert workspace.is_dir()
    assert list(workspace.iterdir()) == []


def test_one_run_is_removed_with_the_artifacts_that_only_it_uses(workspace: Path) -> None:
    location = LocalLocation(workspace)
    plan = plan_cleanup(location, "first")
    assert {name.split("/")[0] for name in plan.removable} == {"artifacts", "records", "first"}
    assert {"/".join(name.split("/")[1:3]) for name in plan.removable if name.startswith("artifacts/")} == {
        f"export_model/{TWO}"
    }
    remove(location, plan)
    assert (workspace / f"artifacts/prepare_data/{ONE}" / MANIFEST).is_file()  # the second run uses it too
    assert (workspace / "second/model/model.safetensors").is_file()
    assert not (workspace / "first").exists()
    plan = plan_cleanup(location, "second")
    assert any(name.startswith("inputs/") for name in plan.removable)  # now only this run uses it
    with pytest.raises(UserError, match=r"no run first; there are second"):
        plan_cleanup(location, "first")


def test_an_interrupted_removal_is_finished_by_the_next(workspace: Path) -> None:
    """Files that identify others are removed after them, so that no file is orphaned."""
    location, removable = LocalLocation(workspace), plan_cleanup(LocalLocation(workspace)).removable
    for stop in range(len(removable)):
        location.remove(removable[stop : stop + 1])
        plan = plan_cleanup(location)
        assert plan.unknown == [], f"after {removable[stop]}"


def test_links_are_not_followed(workspace: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", f"{ONE}/log.txt")
    (workspace / "artifacts" / "score_toxicity").symlink_to(tmp_path / "elsewhere")
    plan = plan_cleanup(LocalLocation(workspace))
    assert plan.unknown == ["artifacts/score_toxicity"]
    remove(LocalLocation(workspace), plan)
    assert (tmp_path / "elsewhere" / ONE / "log.txt").is_file()


def test_a_manifest_cannot_name_files_outside_its_folder(workspace: Path) -> None:
    write(workspace, "notes.txt")
    path = workspace / f"artifacts/prepare_data/{ONE}" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../../../notes.txt"] = {"sha256": "0" * 64, "size": 1}
    path.write_text(json.dumps(manifest))
    remove(LocalLocation(workspace), plan_cleanup(LocalLocation(workspace)))
    kept = {path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file()}
    folder = f"artifacts/prepare_data/{ONE}"
    assert kept == {"notes.txt", *(f"{folder}/{name}" for name in (MANIFEST, "demonstrations.jsonl", "log.txt"))}


def test_a_link_that_appears_after_the_plan_is_not_followed(workspace: Path, tmp_path: Path) -> None:
    location, plan = LocalLocation(workspace), plan_cleanup(LocalLocation(workspace))
    (workspace / "first").rename(tmp_path / "elsewhere")
    (workspace / "first").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link that leads out of"):
        remove(location, plan)
    assert (tmp_path / "elsewhere" / "report.html").is_file()


def test_files_that_can_be_no_bookkeeping_neither_stop_nor_block_a_cleanup(workspace: Path) -> None:
    for number, name in enumerate(("manifest.json", "request.json", "results.json"), start=5):
        for kind, parent in {"pipe": "artifacts/train_sft", "loop": "artifacts/train_ppo"}.items():
            path = workspace / (f"{kind}{number}" if name == "results.json" else f"{parent}/{str(number) * 16}") / name
            path.parent.mkdir(parents=True)
            if kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to("loop")
    write(workspace, f"artifacts/train_sft/{'7' * 16}/manifest.json", text="[" * 100_000)
    write(workspace, f"records/{'a' * 32}", "first/labeling_jobs.json", text="[" * 100_000)
    plan = plan_cleanup(LocalLocation(workspace))
    assert len(plan.unknown) == 8
    assert plan.remote == []


def test_what_a_killed_run_left_besides_artifacts_is_removed(workspace: Path) -> None:
    leftovers = [
        f"artifacts/export_model/.{TWO}.run",
        f"artifacts/export_model/.removed-{'c' * 32}/model/model.safetensors",
        ".first.publish",
    ]
    write(workspace, *leftovers)
    assert leftovers[0] in plan_cleanup(LocalLocation(workspace), "first").removable
    with locked(workspace / leftovers[0]), pytest.raises(UserError, match="a run is using it"):
        plan_cleanup(LocalLocation(workspace))
    assert set(leftovers) <= set(plan_cleanup(LocalLocation(workspace)).removable)


def test_files_of_a_running_stage_are_not_removed(workspace: Path) -> None:
    with (workspace / f"artifacts/train_sft/{ONE}/.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="a run is using it"):
            plan_cleanup(LocalLocation(workspace))
    assert plan_cleanup(LocalLocation(workspace)).removable


def test_a_missing_workspace_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        location_at(str(tmp_path / "none"))


@pytest.fixture
def bucket(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """The workspace with unknown files, as objects below s3://lab/team/runs; other objects next to that prefix."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    add_unknown(workspace)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="lab")
        for name in LocalLocation(workspace).names():
            client.put_object(Bucket="lab", Key=f"team/runs/{name}", Body=(workspace / name).read_bytes())
        for name in ("team/runs2/report.html", "team/runs", f"artifacts/train_sft/{ONE}/manifest.json"):
            client.put_object(Bucket="lab", Key=name, Body=b"x")
        yield location_at("s3://lab/team/runs/")


def keys() -> set[str]:
    return {entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket="lab")["Contents"]}


def test_unknown_objects_under_the_same_prefix_are_kept(bucket: Location) -> None:
    plan = plan_cleanup(bucket)
    assert sorted(plan.unknown) == sorted(UNKNOWN)
    before = keys()
    remove(bucket, plan)
    outside = {name for name in before if not name.startswith("team/runs/")}
    assert len(outside) == 3
    assert keys() == outside | {f"team/runs/{name}" for name in [*UNKNOWN, *LABEL_FILES]}


def test_everything_that_the_s3_store_writes_is_removable_in_s3_and_in_the_cache(
    bucket: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_of(bucket) == {"first", "second"}
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    store = S3Store("s3://lab/fresh/runs")
    write(tmp_path, "pairs.jsonl")
    store.upload_input(tmp_path / "pairs.jsonl", INPUT)
    finished, unfinished = store.folder("train_sft", ONE), store.folder("train_ppo", TWO)
    write(finished, "model/config.json", "log.txt")
    finish(finished, "train_sft", ONE)
    store.publish("train_sft", ONE)
    request = StageRequest(stage="train_ppo", fingerprint=TWO, config={}, inputs={})
    write(unfinished, "request.json", text=request.model_dump_json())
    write(unfinished, "checkpoints/stage-1/model.safetensors", "metrics.jsonl")
    store.save_unfinished("train_ppo", TWO)
    with store.local_copies([finished]):
        pass
    for location in (location_at("s3://lab/fresh/runs"), LocalLocation(store.workspace)):
        plan = plan_cleanup(location)
        assert plan.unknown == []
        assert len(plan.removable) >= 6
        remove(location, plan)
        assert location.names() == []


def test_objects_that_another_machine_is_making_are_not_removed(bucket: Location) -> None:
    with (
        lock(Bucket(bucket.uri), "leases/artifacts-train_sft-f1.json", "other machine", lambda: None),
        pytest.raises(UserError, match=r"leases/artifacts-train_sft-f1\.json: a run is using it; wait"),
    ):
        plan_cleanup(bucket)
    assert plan_cleanup(bucket).removable


def test_the_files_of_a_labeling_job_are_removed_with_its_run(workspace: Path, bucket: Location) -> None:
    client = boto3.client("s3")
    uploaded = ["jobs/job-1/input/manifest.jsonl", "jobs/job-1/input/template.liquid.html"]
    others = [
        *("jobs/job-1/manifests/output/output.manifest", "jobs/job-1/input/notes.txt"),
        *("jobs/manifest.jsonl", "input/manifest.jsonl"),
    ]
    for name in (*uploaded, *others):
        client.put_object(Bucket="lab", Key=name, Body=b"x")
    record_objects(workspace / "first", [f"s3://lab/{uploaded[0]}"])
    record_objects(workspace / "first", [f"s3://lab/{name}" for name in uploaded])
    listed = json.loads((workspace / "first" / "labeling_jobs.json").read_bytes())
    listed += [
        f"s3://lab/{name}" for name in others
    ]  # whoever can write here must not choose what is removed elsewhere
    (workspace / "first" / "labeling_jobs.json").write_text(json.dumps(listed))
    plan = plan_cleanup(LocalLocation(workspace), "first")
    assert plan.remote == [f"s3://lab/{name}" for name in uploaded]
    remove(LocalLocation(workspace), plan)
    assert {name for name in keys() if name.startswith(("jobs/", "input/"))} == set(others)
    assert bucket.names()  # another location
