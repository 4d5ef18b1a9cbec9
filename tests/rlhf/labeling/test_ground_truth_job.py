"""Ground Truth: what is sent passes botocore's own validation, and the template shows awkward text as text."""

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
from rlhf.labeling.ground_truth_job import FOLDER, TEMPLATE, LabelingJob, request_of, start_job
from rlhf.results.human_evaluation import QUESTIONS
from tests.rlhf.labeling.test_server import AWKWARD
from tests.support.page_client import comparison, plain_pairs, without_key

JOB = LabelingJob(
    name="hh-comparison-1",
    prefix="s3://labels/team",
    role="arn:aws:iam::123456789012:role/labeling",
    workteam="arn:aws:sagemaker:us-east-1:123456789012:workteam/private-crowd/us",
)
ARN = "arn:aws:sagemaker:us-east-1:123456789012:labeling-job/hh-comparison-1"


class Form(HTMLParser):
    """What a worker's browser makes of the template."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.radios: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self._in_text = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if found.get("type") == "radio":
            self.radios.setdefault(str(found["name"]), []).append(str(found["value"]))
        self._in_text = found.get("class") == "text"
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
    """AWS, as moto plays it: it has S3, but no labeling jobs."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        yield


@pytest.mark.usefixtures("aws")
def test_a_job_is_created_from_what_was_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = without_key(comparison(tmp_path / "pairs", plain_pairs(3)))
    storage, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    storage.create_bucket(Bucket="labels")
    stub = Stubber(sagemaker)
    stub.add_response("create_labeling_job", {"LabelingJobArn": ARN}, request_of(JOB))
    monkeypatch.setattr(boto3, "client", {"s3": storage, "sagemaker": sagemaker}.__getitem__)
    with stub:
        assert start_job(pairs, JOB) == ARN
    stub.assert_no_pending_responses()
    request = request_of(JOB)
    manifest = request["InputConfig"]["DataSource"]["S3DataSource"]["ManifestS3Uri"]
    template = request["HumanTaskConfig"]["UiConfig"]["UiTemplateS3Uri"]
    uploaded = {f"s3://labels/{found['Key']}" for found in storage.list_objects_v2(Bucket="labels")["Contents"]}
    assert uploaded == {manifest, template}
    body = storage.get_object(Bucket="labels", Key=manifest.removeprefix("s3://labels/"))["Body"].read()
    assert body == (pairs / "manifest.jsonl").read_bytes()
    assert all("source" in json.loads(line) for line in body.splitlines())


@pytest.mark.usefixtures("aws")
def test_what_aws_refuses_is_the_user_s_to_mend(tmp_path: Path) -> None:
    pairs = comparison(tmp_path / "pairs", plain_pairs(1))
    with pytest.raises(UserError, match=r"labeling job hh-comparison-1: .*NoSuchBucket"):
        start_job(pairs, JOB)


def test_limits_of_ground_truth_are_kept() -> None:
    request: dict[str, Any] = request_of(JOB)
    task = request["HumanTaskConfig"]
    assert len(task["TaskTitle"]) <= 128
    assert len(task["TaskDescription"]) <= 255
    assert not request["LabelAttributeName"].endswith("-metadata")
    assert task["TaskTimeLimitInSeconds"] >= 30
    for wrong in ({"name": "x" * 64}, {"name": "a_b"}, {"workers": 10}, {"workers": 0}, {"prefix": "labels/team"}):
        with pytest.raises(ValidationError):
            LabelingJob.model_validate({**JOB.model_dump(), **wrong})
