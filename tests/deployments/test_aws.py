"""The CloudFormation template: valid, private, encrypted, with least privilege, and complete for the pool."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cfnlint.decode import cfn_yaml
from moto import mock_aws

from deployments import FOLDER

TEMPLATE = FOLDER / "aws" / "rlhf.yaml"
WITHOUT_RESOURCES = {
    "ecr:GetAuthorizationToken",
    "ecs:DiscoverPollEndpoint",
    "ecs:RegisterTaskDefinition",
    "ecs:DeregisterTaskDefinition",
    "ecs:DescribeTaskDefinition",
}
"""Actions that cannot be restricted to a resource, according to the Service Authorization Reference."""


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    parsed: dict[str, Any] = cfn_yaml.load(str(TEMPLATE))
    return parsed


def of_type(template: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    return (resource["Properties"] for resource in template["Resources"].values() if resource["Type"] == kind)


def statements(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every statement that grants permissions to a role."""
    for policy in of_type(template, "AWS::IAM::ManagedPolicy"):
        yield from policy["PolicyDocument"]["Statement"]
    for role in of_type(template, "AWS::IAM::Role"):
        for policy in role.get("Policies", []):
            yield from policy["PolicyDocument"]["Statement"]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.slow
def test_cfn_lint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("cfn-lint")
    linted = subprocess.run([program, TEMPLATE], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, ""), linted.stdout + linted.stderr


def test_no_role_has_all_actions_or_all_resources(template: dict[str, Any]) -> None:
    granted = list(statements(template))
    assert len(granted) >= 10
    for statement in granted:
        actions = as_list(statement["Action"])
        assert not any("*" in action for action in actions), statement
        if "*" in as_list(statement["Resource"]):
            assert "Condition" in statement or set(actions) <= WITHOUT_RESOURCES, statement


def test_no_role_has_a_managed_policy_of_amazon(template: dict[str, Any]) -> None:
    for role in of_type(template, "AWS::IAM::Role"):
        assert all(policy == {"Ref": "StorageAccess"} for policy in role.get("ManagedPolicyArns", []))


def test_objects_are_accessible_only_below_the_prefix(template: dict[str, Any]) -> None:
    on_objects = [
        statement
        for statement in statements(template)
        if any(action.startswith("s3:") and "List" not in action for action in as_list(statement["Action"]))
    ]
    assert [statement["Resource"] for statement in on_objects] == [{"Fn::Sub": "${Bucket.Arn}/${Prefix}/*"}]


def test_the_bucket_is_private_encrypted_and_accessible_only_over_tls(template: dict[str, Any]) -> None:
    [bucket] = of_type(template, "AWS::S3::Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    [aborting] = bucket["LifecycleConfiguration"]["Rules"]  # no rule removes objects
    assert set(aborting) == {"Id", "Status", "AbortIncompleteMultipartUpload"}
    [policy] = of_type(template, "AWS::S3::BucketPolicy")
    [deny] = policy["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Principal"], deny["Action"]) == ("Deny", "*", "s3:*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(deny["Resource"]) == 2


def test_machines_are_p4d_with_efa_and_encrypted_disks(template: dict[str, Any]) -> None:
    [machine] = (resource["LaunchTemplateData"] for resource in of_type(template, "AWS::EC2::LaunchTemplate"))
    assert machine["InstanceType"] == "p4d.24xlarge"
    assert [interface["NetworkCardIndex"] for interface in machine["NetworkInterfaces"]] == [0, 1, 2, 3]
    assert {interface["InterfaceType"] for interface in machine["NetworkInterfaces"]} == {"efa"}
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
    [capacity] = of_type(template, "AWS::ECS::CapacityProvider")
    assert capacity["AutoScalingGroupProvider"]["ManagedScaling"]["Status"] == "ENABLED"


def test_outputs_fill_the_variables_of_the_pool(template: dict[str, Any]) -> None:
    pool = yaml.safe_load((FOLDER / "work_pools" / "p4d.ecs.yaml").read_text())
    variables = pool["base_job_template"]["variables"]
    outputs = {re.sub("(?<!^)([A-Z])", r"_\1", name).lower() for name in template["Outputs"]}
    assert set(variables["required"]) <= outputs
    assert variables["properties"]["cloudwatch_logs_options"]["default"] == {"awslogs-group": "/rlhf/stage"}
    [machine] = (resource["LaunchTemplateData"] for resource in of_type(template, "AWS::EC2::LaunchTemplate"))
    script = machine["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert f"mount -o noatime /dev/md0 {variables['properties']['workspace']['default']}\n" in script


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # moto has no bucket policies, placement groups or capacity providers
def test_the_stack_can_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        subnet = boto3.client("ec2").describe_subnets()["Subnets"][0]
        parameters = {"VpcId": subnet["VpcId"], "SubnetId": subnet["SubnetId"], "Prefix": "work", "PrefectPort": "4200"}
        cloud = boto3.client("cloudformation")
        cloud.create_stack(
            StackName="rlhf",
            TemplateBody=TEMPLATE.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        [stack] = cloud.describe_stacks(StackName="rlhf")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        bucket, _, prefix = outputs["Workspace"].removeprefix("s3://").partition("/")
        assert prefix == "work"
        boto3.client("s3").head_bucket(Bucket=bucket)
        [group] = boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        assert (group["MinSize"], group["MaxSize"], group["Instances"]) == (0, 1, [])
        [logs] = boto3.client("logs").describe_log_groups(logGroupNamePrefix="/rlhf/stage")["logGroups"]
        assert logs["retentionInDays"] == 30
