"""Ground Truth: the request passes botocore's validation, and the template shows any text as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import boto3
import liquid
import pytest
from botocore.stub import Stubber
from moto import mock_aws
from pydantic import ValidationError

from rlhf.errors import UserError
from rlhf.labeling.ground_truth_job import (
    FOLDER,
    TEMPLATE,
    LabelingJob,
    create_request,
    start_job,
    uploaded_objects,
)
from rlhf.labeling.ground_truth_reader import read_label_output
from rlhf.results.human_evaluation import QUESTIONS
from tests.support.labeling_job import ARN, JOB
from tests.support.page_client import AWKWARD, labeling_task, plain_pairs, without_key


class Form(HTMLParser):
    """The template as a worker's browser parses it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.radios: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self._in_text = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        if attributes.get("type") == "radio":
            self.radios.setdefault(str(attributes["name"]), []).append(str(attributes["value"]))
        self._in_text = attributes.get("class") == "text"
        if self._in_text:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_text = self._in_text and tag != "div"

    def handle_data(self, data: str) -> None:
        if self._in_text:
            self.texts[-1] += data


def rendered(source: str, answer_a: str, answer_b: str) -> str:
    template = liquid.Environment().from_string((FOLDER / TEMPLATE).read_text("utf-8"))
    return str(template.render(task={"input": {"source": source, "answer_a": answer_a, "answer_b": answer_b}}))


@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "broken"])
def test_the_template_shows_awkward_text_as_text(name: str) -> None:
    plain, awkward = Form(rendered("q", "a", "b")), Form(rendered(AWKWARD[name], AWKWARD[name], "b"))
    assert awkward.tags == plain.tags
    assert awkward.texts == [AWKWARD[name], AWKWARD[name], "b"]
    assert plain.tags.count("script") == 1


def test_the_template_asks_every_question() -> None:
    form = Form(rendered("q", "a", "b"))
    assert list(form.radios) == list(QUESTIONS)
    assert all(sorted(values) == ["a", "b", "tie"] for values in form.radios.values())
    assert {"crowd-form", "crowd-instructions", "detailed-instructions"} <= set(form.tags)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS as simulated by moto, which has S3 but no labeling jobs."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        yield


@pytest.mark.usefixtures("aws")
def test_a_job_is_created_from_the_uploaded_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = without_key(labeling_task(tmp_path / "pairs", plain_pairs(3)))
    storage, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    storage.create_bucket(Bucket="labels")
    stub = Stubber(sagemaker)
    stub.add_response("create_labeling_job", {"LabelingJobArn": ARN}, create_request(JOB))
    monkeypatch.setattr(boto3, "client", {"s3": storage, "sagemaker": sagemaker}.__getitem__)
    with stub:
        assert start_job(pairs, JOB) == ARN
    stub.assert_no_pending_responses()
    request = create_request(JOB)
    manifest = request["InputConfig"]["DataSource"]["S3DataSource"]["ManifestS3Uri"]
    template = request["HumanTaskConfig"]["UiConfig"]["UiTemplateS3Uri"]
    keys = {f"s3://labels/{listed['Key']}" for listed in storage.list_objects_v2(Bucket="labels")["Contents"]}
    assert keys == {manifest, template}
    body = storage.get_object(Bucket="labels", Key=manifest.removeprefix("s3://labels/"))["Body"].read()
    assert body == (pairs / "manifest.jsonl").read_bytes()
    assert all("source" in json.loads(line) for line in body.splitlines())


@pytest.mark.usefixtures("aws")
def test_a_missing_bucket_is_a_user_error(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(1))
    with pytest.raises(UserError, match=r"labeling job hh-comparison-1: .*there is no bucket labels; create it"):
        start_job(pairs, JOB)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("key", [None, "alias/labels"])
def test_the_uploaded_package_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    """As objects of a workspace are: with S3's own key, or with the KMS key of the environment."""
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(1))
    if key is not None:
        monkeypatch.setenv("RLHF_KMS_KEY", key)
    storage, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    storage.create_bucket(Bucket="labels")
    with Stubber(sagemaker) as stub, monkeypatch.context() as patched:
        stub.add_response("create_labeling_job", {"LabelingJobArn": ARN}, create_request(JOB))
        patched.setattr(boto3, "client", {"sagemaker": sagemaker}.__getitem__)
        start_job(pairs, JOB)
    for uri in uploaded_objects(JOB):
        stored = storage.head_object(Bucket="labels", Key=uri.removeprefix("s3://labels/"))
        assert stored["ServerSideEncryption"] == ("AES256" if key is None else "aws:kms")
        assert key is None or stored["SSEKMSKeyId"].endswith(key)


@pytest.mark.usefixtures("aws")
def test_denied_access_to_s3_names_the_permissions(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(1))
    storage = boto3.client("s3")
    storage.create_bucket(Bucket="labels")
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::labels/*"}
    storage.put_bucket_policy(Bucket="labels", Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    with pytest.raises(UserError, match=r"access denied \(PutObject\); the role needs .*s3:PutObject"):
        start_job(pairs, JOB)
    with pytest.raises(UserError, match=r"access denied \(GetObject\); the role needs .*s3:GetObject"):
        read_label_output("s3://labels/team/job", [], "task")


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("code", "remedy"),
    [("AccessDeniedException", "allow sagemaker:CreateLabelingJob"), ("ResourceInUse", "choose another --name")],
)
def test_a_rejected_job_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, remedy: str
) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(1))
    boto3.client("s3").create_bucket(Bucket="labels")
    sagemaker = boto3.client("sagemaker")
    monkeypatch.setattr(boto3, "client", {"sagemaker": sagemaker}.__getitem__)
    with Stubber(sagemaker) as stub:
        stub.add_client_error("create_labeling_job", code)
        with pytest.raises(UserError, match=f"labeling job hh-comparison-1: .*{code}.*; {remedy}"):
            start_job(pairs, JOB)


@pytest.mark.usefixtures("aws")
def test_a_missing_region_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UserError, match="no AWS region; set AWS_DEFAULT_REGION"):
        start_job(labeling_task(tmp_path / "pairs", plain_pairs(1)), JOB)


def test_limits_of_ground_truth_are_kept() -> None:
    request: dict[str, Any] = create_request(JOB)
    task = request["HumanTaskConfig"]
    assert len(task["TaskTitle"]) <= 128
    assert len(task["TaskDescription"]) <= 255
    assert not request["LabelAttributeName"].endswith("-metadata")
    assert task["TaskTimeLimitInSeconds"] >= 30
    for wrong in ({"name": "x" * 64}, {"name": "a_b"}, {"workers": 10}, {"workers": 0}, {"prefix": "labels/team"}):
        with pytest.raises(ValidationError):
            LabelingJob.model_validate({**JOB.model_dump(), **wrong})
