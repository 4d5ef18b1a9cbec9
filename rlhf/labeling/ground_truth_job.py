"""SageMaker Ground Truth: write the labeling package, and create a labeling job for a private work team.

Customers of Ground Truth Plus hand over the same package.  It does not contain the key; the job's workers see A and B
as they are in the manifest.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError
from pydantic import BaseModel, ConfigDict, Field

from rlhf.errors import UserError
from rlhf.labeling.ground_truth_output import ATTRIBUTE
from rlhf.labeling.manifest import MANIFEST_FILE
from rlhf.storage.s3 import Bucket, error_code

TEMPLATE = "template.liquid.html"
INSTRUCTIONS = "INSTRUCTIONS.md"
FOLDER = Path(__file__).parent / "static" / "ground_truth"
TASK_TITLE = "Compare two answers"
TASK_DESCRIPTION = "Read a conversation and two answers; say which is more helpful, less harmful and better overall."
SAGEMAKER_HINTS = {
    "AccessDeniedException": "allow sagemaker:CreateLabelingJob, and iam:PassRole for --role",
    "ResourceInUse": "choose another --name",
    "ValidationException": "check --role and --workteam",
}
"""Remedies by SageMaker's error codes."""


class LabelingJob(BaseModel):
    """Settings of a labeling job that only its owner knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    """Name of the job."""
    prefix: str = Field(pattern=r"^s3://[a-z0-9.\-]{3,63}(/[^/]+)*$")
    """Location of package and labels: s3://bucket/prefix."""
    role: str
    """ARN of the role that the job assumes."""
    workteam: str
    """ARN of the private work team."""
    workers: int = Field(default=3, ge=1, le=9)
    """Annotators per pair."""
    minutes: int = Field(default=30, ge=1)
    """Time limit of one annotator for one pair."""

    @property
    def input_folder(self) -> str:
        """URI of the folder that the package is uploaded to."""
        return f"{self.prefix}/{self.name}/input"


def write_package(labeling_task: Path, folder: Path) -> list[Path]:
    """Copy the blinded manifest, the template and the instructions into `folder`; returns the copies."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = (labeling_task / MANIFEST_FILE, FOLDER / TEMPLATE, FOLDER / INSTRUCTIONS)
    return [Path(shutil.copyfile(source, folder / source.name)) for source in sources]


def start_job(labeling_task: Path, job: LabelingJob) -> str:
    """Upload the package, encrypted, and create the labeling job; returns its ARN.

    Raises UserError if AWS refuses one of the requests.
    """
    bucket = Bucket(job.input_folder)
    try:
        sagemaker = boto3.client("sagemaker")
        for source in (labeling_task / MANIFEST_FILE, FOLDER / TEMPLATE):
            bucket.write(source.name, source.read_bytes())
        arn: str = sagemaker.create_labeling_job(**create_request(job))["LabelingJobArn"]
    except UserError as error:
        raise UserError(f"labeling job {job.name}: {error}") from error
    except NoRegionError as error:
        raise UserError(f"labeling job {job.name}: no AWS region; set AWS_DEFAULT_REGION") from error
    except (BotoCoreError, ClientError) as error:
        hint = SAGEMAKER_HINTS.get(error_code(error)) if isinstance(error, ClientError) else None
        raise UserError(f"labeling job {job.name}: {error}" + (f"; {hint}" if hint else "")) from error
    return arn


def uploaded_objects(job: LabelingJob) -> list[str]:
    """URIs of the objects that `start_job` uploads."""
    return [f"{job.input_folder}/{name}" for name in (MANIFEST_FILE, TEMPLATE)]


def create_request(job: LabelingJob) -> dict[str, Any]:
    """The arguments of create_labeling_job.  Without Lambdas, the template receives the manifest's lines unchanged."""
    return {
        "LabelingJobName": job.name,
        "LabelAttributeName": ATTRIBUTE,
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": f"{job.input_folder}/{MANIFEST_FILE}"}}},
        "OutputConfig": {"S3OutputPath": f"{job.prefix}/"},
        "RoleArn": job.role,
        "HumanTaskConfig": {
            "WorkteamArn": job.workteam,
            "UiConfig": {"UiTemplateS3Uri": f"{job.input_folder}/{TEMPLATE}"},
            "TaskTitle": TASK_TITLE,
            "TaskDescription": TASK_DESCRIPTION,
            "NumberOfHumanWorkersPerDataObject": job.workers,
            "TaskTimeLimitInSeconds": 60 * job.minutes,
        },
    }
