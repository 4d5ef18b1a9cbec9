"""A Ground Truth labeling job."""

from __future__ import annotations

from rlhf.labeling.ground_truth_job import LabelingJob

JOB = LabelingJob(
    name="hh-comparison-1",
    prefix="s3://labels/team",
    role="arn:aws:iam::123456789012:role/labeling",
    workteam="arn:aws:sagemaker:us-east-1:123456789012:workteam/private-crowd/us",
)
ARN = "arn:aws:sagemaker:us-east-1:123456789012:labeling-job/hh-comparison-1"
