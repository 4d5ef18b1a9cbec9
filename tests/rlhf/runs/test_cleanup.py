"""Cleanup removes what runs created and nothing else, in a folder and in a bucket."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from rlhf.errors import UserError
from rlhf.runs.cleanup import LocalLocation, Location, location_at, plan_cleanup, record_objects, remove, runs_of
from rlhf.runtime.stage import StageRequest
from rlhf.storage.artifacts import MANIFEST
from rlhf.storage.s3_store import S3Store
from tests.support.artifacts import finish

ONE, TWO, THREE, GIVEN = ("1" * 16, "2" * 16, "3" * 16, "4" * 16)


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
    finish(root / f"artifacts/prepare_data/{ONE}", "prepare_data", ONE, inputs={"source": GIVEN})
    write(root, f"inputs/{GIVEN}/pairs.jsonl/files/pairs.jsonl")
    finish(root / f"inputs/{GIVEN}/pairs.jsonl", "inputs", GIVEN)
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


FOREIGN = [
    "notes.txt",
    f"artifacts/prepare_data/{ONE}/notes.txt",  # beside our own files
    f"artifacts/train_sft/{ONE}/my_metrics.csv",
    f"artifacts/train_sft/{TWO}/log.txt",  # a folder that no request or manifest of removable declares
    f"artifacts/other_step/{ONE}/log.txt",
    "artifacts/train_sft/README.md",
    "records/mine",
    "records/train_sft-notes",
    f"records/{'a' * 32}",
    "first/model/adapter.safetensors",  # put there by somebody
    "first/thoughts.md",
    "third/results.json",  # not of that name
    "third/report.html",
    f"inputs/{GIVEN}/pairs.jsonl/extra.jsonl",
]
LABEL_FILES = ["first/human_evaluation.json", f"first/labels/{ONE}/output/manifests/output/output.manifest"]


def add_foreign(root: Path) -> None:
    write(root, *FOREIGN, *LABEL_FILES)
    write(root, "third/results.json", text=json.dumps({"run_name": "fourth", "stages": []}))


def test_files_of_runs_are_removed_and_all_others_kept(workspace: Path) -> None:
    add_foreign(workspace)
    location = LocalLocation(workspace)
    found = plan_cleanup(location)
    assert sorted(found.unknown) == sorted(FOREIGN)
    assert sorted(found.labels) == sorted(LABEL_FILES)
    assert (found.shared, found.remote) == ([], [])
    remove(location, found)
    assert location.names() == sorted([*FOREIGN, *LABEL_FILES])
    assert not (workspace / "second").exists()  # folders that became empty are gone
    assert plan_cleanup(location).removable == []


def test_a_workspace_with_only_files_of_runs_becomes_empty(workspace: Path) -> None:
    remove(LocalLocation(workspace), plan_cleanup(LocalLocation(workspace)))
    assert workspace.is_dir()
    assert list(workspace.iterdir()) == []


def test_one_run_is_removed_with_the_artifacts_that_only_it_uses(workspace: Path) -> None:
    location = LocalLocation(workspace)
    found = plan_cleanup(location, "first")
    assert {name.split("/")[0] for name in found.removable} == {"artifacts", "records", "first"}
    assert {"/".join(name.split("/")[1:3]) for name in found.removable if name.startswith("artifacts/")} == {
        f"export_model/{TWO}"
    }
    remove(location, found)
    assert (workspace / f"artifacts/prepare_data/{ONE}" / MANIFEST).is_file()  # the second run's too
    assert (workspace / "second/model/model.safetensors").is_file()
    assert not (workspace / "first").exists()
    assert any(name.startswith("inputs/") for name in plan_cleanup(location, "second").removable)  # now nobody else's
    with pytest.raises(UserError, match=r"no run first; there are second"):
        plan_cleanup(location, "first")


def test_an_interrupted_removal_is_finished_by_the_next(workspace: Path) -> None:
    """Files that identify others are removed after them, so that no file is orphaned."""
    location, removable = LocalLocation(workspace), plan_cleanup(LocalLocation(workspace)).removable
    for stop in range(len(removable)):
        location.remove(removable[stop : stop + 1])
        left = plan_cleanup(location)
        assert left.unknown == [], f"after {removable[stop]}"


def test_links_are_not_followed(workspace: Path, tmp_path: Path) -> None:
    write(tmp_path / "remote", f"{ONE}/log.txt")
    (workspace / "artifacts" / "score_toxicity").symlink_to(tmp_path / "remote")
    found = plan_cleanup(LocalLocation(workspace))
    assert found.unknown == ["artifacts/score_toxicity"]
    remove(LocalLocation(workspace), found)
    assert (tmp_path / "remote" / ONE / "log.txt").is_file()


def test_a_manifest_cannot_name_files_outside_its_folder(workspace: Path) -> None:
    write(workspace, "notes.txt")
    path = workspace / f"artifacts/prepare_data/{ONE}" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../../../notes.txt"] = {"sha256": "0" * 64, "size": 1}
    path.write_text(json.dumps(manifest))
    remove(LocalLocation(workspace), plan_cleanup(LocalLocation(workspace)))
    assert [found.name for found in workspace.rglob("*")] == ["notes.txt"]


def test_a_running_stage_is_left_alone(workspace: Path) -> None:
    with (workspace / f"artifacts/train_sft/{ONE}/.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
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
    add_foreign(workspace)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="lab")
        for name in LocalLocation(workspace).names():
            client.put_object(Bucket="lab", Key=f"team/runs/{name}", Body=(workspace / name).read_bytes())
        for name in ("team/runs2/report.html", "team/runs", f"artifacts/train_sft/{ONE}/manifest.json"):
            client.put_object(Bucket="lab", Key=name, Body=b"x")
        yield location_at("s3://lab/team/runs/")


def keys() -> set[str]:
    return {found["Key"] for found in boto3.client("s3").list_objects_v2(Bucket="lab")["Contents"]}


def test_unknown_objects_under_the_same_prefix_are_kept(bucket: Location) -> None:
    found = plan_cleanup(bucket)
    assert sorted(found.unknown) == sorted(FOREIGN)
    before = keys()
    remove(bucket, found)
    beside = {name for name in before if not name.startswith("team/runs/")}
    assert len(beside) == 3
    assert keys() == beside | {f"team/runs/{name}" for name in [*FOREIGN, *LABEL_FILES]}


def test_everything_that_the_s3_store_writes_is_removable_there_and_in_the_cache(
    bucket: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_of(bucket) == {"first", "second"}
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    store = S3Store("s3://lab/fresh/runs")
    write(tmp_path, "pairs.jsonl")
    store.upload_input(tmp_path / "pairs.jsonl", GIVEN)
    finished, begun = store.folder("train_sft", ONE), store.folder("train_ppo", TWO)
    write(finished, "model/config.json", "log.txt")
    finish(finished, "train_sft", ONE)
    store.publish("train_sft", ONE)
    request = StageRequest(stage="train_ppo", fingerprint=TWO, config={}, inputs={})
    write(begun, "request.json", text=request.model_dump_json())
    write(begun, "checkpoints/stage-1/model.safetensors", "metrics.jsonl")
    store.save_unfinished("train_ppo", TWO)
    with store.local_copies([finished]):
        pass
    for location in (location_at("s3://lab/fresh/runs"), LocalLocation(store.workspace)):
        found = plan_cleanup(location)
        assert found.unknown == []
        assert len(found.removable) >= 6
        remove(location, found)
        assert location.names() == []


def test_the_files_of_a_labeling_job_are_removed_with_its_run(workspace: Path, bucket: Location) -> None:
    client = boto3.client("s3")
    sent = ["jobs/job-1/input/manifest.jsonl", "jobs/job-1/input/template.liquid.html"]
    others = ["jobs/job-1/manifests/output/output.manifest", "jobs/job-1/input/notes.txt"]
    for name in (*sent, *others):
        client.put_object(Bucket="lab", Key=name, Body=b"x")
    record_objects(workspace / "first", [f"s3://lab/{sent[0]}"])
    record_objects(workspace / "first", [f"s3://lab/{name}" for name in sent])
    found = plan_cleanup(LocalLocation(workspace), "first")
    assert found.remote == [f"s3://lab/{name}" for name in sent]
    remove(LocalLocation(workspace), found)
    assert {name for name in keys() if name.startswith("jobs/")} == set(others)
    assert bucket.names()  # another location
