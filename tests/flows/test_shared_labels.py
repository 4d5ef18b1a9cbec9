"""Labels and reports of runs in S3, from machines that did not create them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber
from typer.testing import CliRunner

from flows.cli import app
from flows.human_labels import collect_labels
from rlhf.errors import UserError
from rlhf.labeling.ground_truth_job import create_request, uploaded_objects
from rlhf.labeling.manifest import read_blinded_pairs
from rlhf.results.schema import CONFIG, REPORT, RESULTS
from rlhf.runs.published import FinishedRun
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_store import S3Store, open_s3_store
from tests.support.finished_run import finished_run, judgement, write_output
from tests.support.labeling_job import ARN, JOB
from tests.support.s3_server import shared_workspace
from tests.support.two_runs import publish


@pytest.fixture
def uri() -> Iterator[str]:
    with shared_workspace() as workspace:
        yield workspace


@pytest.fixture
def machine(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], S3Store]:
    """Switches to the named machine, which has a cache of its own."""

    def become(name: str) -> S3Store:
        monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "caches" / name))
        open_s3_store.cache_clear()
        return open_s3_store(uri)

    return become


def upload(workspace: Path, store: S3Store) -> None:
    """Upload the finished runs of a folder to S3, as `rlhf run` does."""
    for folder in (workspace / "artifacts").glob("*/*"):
        cached = store.folder(folder.parent.name, folder.name)
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.symlink_to(folder)
        store.publish(folder.parent.name, folder.name)
    for results in workspace.glob(f"*/{RESULTS}"):
        names = [name for name in (REPORT, RESULTS, CONFIG) if results.with_name(name).exists()]
        store.push(results.parent, names)


@pytest.fixture
def run(machine: Callable[[str], S3Store], tmp_path: Path) -> FinishedRun:
    """A run in S3 that nobody has labeled."""
    run = finished_run(tmp_path, prompts=4)
    upload(run.folder.parent, machine("maker"))
    return run


@pytest.fixture
def labels(run: FinishedRun, tmp_path: Path) -> Path:
    """Labels of all pairs, as Ground Truth writes them."""
    return write_output(run, tmp_path / "output", [judgement(pair.id) for pair in read_blinded_pairs(run.pairs)])


def invoke(*arguments: str) -> str:
    """Output of a command.  Raises its error."""
    outcome = CliRunner().invoke(app, arguments)
    if outcome.exception is not None:
        raise outcome.exception
    return outcome.output


def status(uri: str) -> str:
    content = Bucket(uri).read(f"fake/{RESULTS}")
    assert content is not None
    return str(json.loads(content)["human_evaluation"]["status"])


def test_labels_imported_on_one_machine_are_in_the_report_on_every_other(
    uri: str, machine: Callable[[str], S3Store], labels: Path
) -> None:
    machine("importer")
    assert "4 of 4 pairs labeled" in invoke("label", "import", str(labels), "--workspace", uri)
    assert status(uri) == "complete"
    reader = machine("reader")
    assert f"report: {reader.run_folder('fake') / REPORT}" in invoke("report", "--workspace", uri)
    assert (reader.run_folder("fake") / REPORT).read_bytes() == Bucket(uri).read(f"fake/{REPORT}")
    assert json.loads((reader.run_folder("fake") / RESULTS).read_bytes())["human_evaluation"]["labeled"] == 4


def test_an_import_that_was_not_uploaded_can_be_repeated(
    uri: str, machine: Callable[[str], S3Store], labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("importer")
    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "write", fail_to_write)
        with pytest.raises(UserError, match="out of order"):
            invoke("label", "import", str(labels), "--workspace", uri)
    assert status(uri) == "pending"
    invoke("label", "import", str(labels), "--workspace", uri)
    assert status(uri) == "complete"


def fail_to_write(_bucket: Bucket, _key: str, _content: bytes) -> None:
    raise UserError("S3 is out of order")


@pytest.mark.usefixtures("run")
def test_pairs_that_only_s3_has_can_be_packaged(uri: str, machine: Callable[[str], S3Store], tmp_path: Path) -> None:
    machine("packer")
    invoke("label", "package", str(tmp_path / "package"), "--workspace", uri, "--run", "fake")
    assert len((tmp_path / "package" / "manifest.jsonl").read_text().splitlines()) == 4
    with pytest.raises(UserError, match=r"s3://.*/rlhf: no finished run fale; there are fake$"):
        invoke("label", "package", str(tmp_path / "package"), "--workspace", uri, "--run", "fale")


@pytest.mark.usefixtures("run")
def test_any_machine_can_remove_what_was_sent_to_ground_truth_with_its_run(
    uri: str, machine: Callable[[str], S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("sender")
    storage, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    storage.create_bucket(Bucket="labels")
    job = ("--name", JOB.name, "--role", JOB.role, "--workteam", JOB.workteam)
    with Stubber(sagemaker) as stub, monkeypatch.context() as aws:  # moto has no labeling jobs
        stub.add_response("create_labeling_job", {"LabelingJobArn": ARN}, create_request(JOB))
        aws.setattr(boto3, "client", {"s3": storage, "sagemaker": sagemaker}.__getitem__)
        assert ARN in invoke("label", "send", JOB.prefix, *job, "--workspace", uri)
    machine("cleaner")
    listed = invoke("clean", "--workspace", uri, "--run", "fake")
    assert all(f"remove   {name}\n" in listed for name in uploaded_objects(JOB))


@pytest.mark.usefixtures("run")
def test_a_local_folder_with_the_name_of_a_run_in_s3_is_ignored(
    uri: str, machine: Callable[[str], S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake").mkdir()
    monkeypatch.chdir(tmp_path)
    reader = machine("reader")
    assert f"report: {reader.run_folder('fake') / REPORT}" in invoke("report", "fake", "--workspace", uri)


def test_two_runs_in_s3_are_compared(uri: str, machine: Callable[[str], S3Store], tmp_path: Path) -> None:
    publish(tmp_path / "local", "small", effect=0.2, steps=20)
    publish(tmp_path / "local", "large", effect=1.0, steps=40)
    upload(tmp_path / "local", machine("maker"))
    expected = invoke("report", "--compare", "small", "large", "--workspace", str(tmp_path / "local"))
    reader = machine("reader")
    output = invoke("report", "--compare", "small", "large", "--workspace", uri)
    assert output.partition("comparison:")[0] == expected.partition("comparison:")[0]
    assert (reader.workspace / "compare-small-large.html").read_text() == (
        tmp_path / "local" / "compare-small-large.html"
    ).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_flow_waits_for_labels_of_a_run_in_s3(uri: str, machine: Callable[[str], S3Store], labels: Path) -> None:
    machine("worker")
    assert collect_labels(uri) == "pending"
    assert collect_labels(uri, "fake", source=str(labels)) == "complete"
    assert status(uri) == "complete"
