"""Ground Truth for those who have it: a package of files, and a labeling job for a private workforce.

The package is also what a Ground Truth Plus customer hands over.  The key is not in it, and the job's workers see A
and B as the manifest has them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from pydantic import BaseModel, ConfigDict, Field

from rlhf.errors import UserError
from rlhf.labeling.ground_truth_output import ATTRIBUTE
from rlhf.labeling.ground_truth_reader import S3
from rlhf.labeling.manifest import MANIFEST_FILE

TEMPLATE = "template.liquid.html"
INSTRUCTIONS = "INSTRUCTIONS.md"
FOLDER = Path(__file__).parent / "static" / "ground_truth"
TASK_TITLE = "Compare two answers"
TASK_DESCRIPTION = "Read a conversation and two answers; say which is more helpful, less harmful and better overall."


class LabelingJob(BaseModel):
    """What a labeling job needs that only its owner knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    """Name of the job."""
    prefix: str = Field(pattern=r"^s3://[a-z0-9.\-]{3,63}(/[^/]+)*$")
    """Where package and labels go: s3://bucket/prefix."""
    role: str
    """ARN of the role that the job runs as."""
    workteam: str
    """ARN of the private work team."""
    workers: int = Field(default=3, ge=1, le=9)
    """People per pair."""
    minutes: int = Field(default=30, ge=1)
    """Longest time of one person for one pair."""


def write_package(pairs: Path, folder: Path) -> list[Path]:
    """Copy the blinded manifest, the template and the instructions into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = (pairs / MANIFEST_FILE, FOLDER / TEMPLATE, FOLDER / INSTRUCTIONS)
    return [Path(shutil.copyfile(source, folder / source.name)) for source in sources]


def start_job(pairs: Path, job: LabelingJob) -> str:
    """Upload the package and create the labeling job; returns its ARN.  Raises UserError with what AWS refuses."""
    bucket, _, prefix = job.prefix.removeprefix(S3).partition("/")
    root = f"{prefix}/{job.name}".lstrip("/")
    storage, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    try:
        for source in (pairs / MANIFEST_FILE, FOLDER / TEMPLATE):
            storage.put_object(Bucket=bucket, Key=f"{root}/input/{source.name}", Body=source.read_bytes())
        arn: str = sagemaker.create_labeling_job(**request_of(job))["LabelingJobArn"]
    except (BotoCoreError, ClientError, ParamValidationError) as error:
        raise UserError(f"labeling job {job.name}: {error}") from None
    return arn


def uploaded(job: LabelingJob) -> list[str]:
    """The objects that `start_job` puts into S3."""
    return [f"{job.prefix}/{job.name}/input/{name}" for name in (MANIFEST_FILE, TEMPLATE)]


def request_of(job: LabelingJob) -> dict[str, Any]:
    """The arguments of create_labeling_job.  Without Lambdas: manifest lines go to the template as they are."""
    uploaded = f"{job.prefix}/{job.name}/input"
    return {
        "LabelingJobName": job.name,
        "LabelAttributeName": ATTRIBUTE,
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": f"{uploaded}/{MANIFEST_FILE}"}}},
        "OutputConfig": {"S3OutputPath": f"{job.prefix}/"},
        "RoleArn": job.role,
        "HumanTaskConfig": {
            "WorkteamArn": job.workteam,
            "UiConfig": {"UiTemplateS3Uri": f"{uploaded}/{TEMPLATE}"},
            "TaskTitle": TASK_TITLE,
            "TaskDescription": TASK_DESCRIPTION,
            "NumberOfHumanWorkersPerDataObject": job.workers,
            "TaskTimeLimitInSeconds": 60 * job.minutes,
        },
    }
