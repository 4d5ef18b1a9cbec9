"""`rlhf deploy`: the objects that it creates on a server, and that repeating it changes nothing."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
import yaml
from moto import mock_aws
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun

from deployments import FOLDER
from flows.server.deploy import Change, deploy
from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.profiles import load_profile

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undeployed")]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_profile("quickstart", ())


def outcomes(changes: list[Change]) -> dict[str, str]:
    return {change.name: change.outcome for change in changes}


def test_repeating_changes_nothing_and_manual_changes_are_reverted(config: RunConfig, tmp_path: Path) -> None:
    names = {"rlhf-lost-runs", "cpu", "p4d", "rlhf-pipeline/pipeline", "collect-labels/labels", "rlhf-stage/p4d"}
    assert outcomes(deploy(config, tmp_path)).keys() == names
    assert outcomes(deploy(config, tmp_path)) == dict.fromkeys(names, "unchanged")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("rlhf-pipeline/pipeline")
        [weekly] = deployment.schedules
        assert (weekly.slug, weekly.active) == ("weekly", False)
        client.update_deployment_schedule(deployment.id, weekly.id, active=True)
    assert outcomes(deploy(config, tmp_path)) == dict.fromkeys(names, "unchanged")

    other = config.model_copy(update={"seed": 7})
    assert {name for name, outcome in outcomes(deploy(other, tmp_path)).items() if outcome == "changed"} == {
        "rlhf-pipeline/pipeline"
    }
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("rlhf-pipeline/pipeline")
        client.update_work_pool("p4d", WorkPoolUpdate(concurrency_limit=8))
        assert client.read_deployment_by_name("rlhf-stage/p4d").job_variables["env"] == {
            "PYTHONSAFEPATH": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        }
    assert deployment.parameters["config"]["seed"] == 7
    assert deployment.parameters["config"]["compute"]["gpu_pool"] == "p4d"
    assert deployment.parameters["workspace"] == str(tmp_path)
    assert deployment.schedules[0].active  # switched on by a person
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1
    assert outcomes(deploy(other, tmp_path))["p4d"] == "changed"


def test_a_pool_of_another_type_is_not_replaced(config: RunConfig, tmp_path: Path) -> None:
    deploy(config, tmp_path)
    with pytest.raises(UserError, match=r"pool p4d is of type process, but must be ecs; delete it first"):
        deploy(config, tmp_path, "ecs")


def test_the_form_shows_every_setting_with_its_description(config: RunConfig, tmp_path: Path) -> None:
    deploy(config, tmp_path)
    with get_client(sync_client=True) as client:
        schema = client.read_deployment_by_name("rlhf-pipeline/pipeline").parameter_openapi_schema
    assert schema is not None
    for name, model in schema["definitions"].items():
        for field, field_schema in model["properties"].items():
            is_nested = "$ref" in json.dumps(field_schema)
            assert is_nested or field_schema.get("description"), f"{name}.{field} has no description"
    assert "kl_coefficient" in schema["definitions"]["PpoConfig"]["properties"]


def test_the_ecs_task_has_eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ecs = pytest.importorskip("prefect_aws.workers.ecs_worker", reason="no prefect-aws; pip install prefect-aws")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    variables = {
        "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/rlhf@sha256:" + "0" * 64,
        "cluster": "rlhf",
        "capacity_provider": "p4d",
        "execution_role_arn": "arn:aws:iam::123456789012:role/execution",
        "task_role_arn": "arn:aws:iam::123456789012:role/stage",
        "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
    }
    template = yaml.safe_load((FOLDER / "work_pools" / "p4d.ecs.yaml").read_text())["base_job_template"]
    definition, request = _rendered(ecs, template, variables)
    [container] = definition["containerDefinitions"]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "8"}]
    assert container["linuxParameters"]["sharedMemorySize"] == 65536
    assert len(container["linuxParameters"]["devices"]) == 4
    assert container["stopTimeout"] == 120
    assert container["image"] == variables["image"]
    assert (definition["requiresCompatibilities"], definition["networkMode"]) == (["EC2"], "host")
    assert definition["volumes"][0]["host"]["sourcePath"] == "/workspace"
    assert "launchType" not in request
    assert request["capacityProviderStrategy"] == [{"capacityProvider": "p4d", "weight": 1}]
    [override] = request["overrides"]["containerOverrides"]
    assert {"name": "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "value": "30"} in override["environment"]


def _rendered(ecs: Any, template: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task definition that the real worker registers with (simulated) AWS, and its request to run it."""
    with mock_aws():
        client = boto3.client("ecs")
        worker = ecs.ECSWorker(work_pool_name="p4d")
        run = FlowRun(flow_id=uuid4(), name="train_ppo")
        settings = asyncio.run(ecs.ECSJobConfiguration.from_template_and_values(template, variables))
        settings.prepare_for_flow_run(run)
        definition = worker._prepare_task_definition(settings, "us-east-1", run)
        arn = worker._register_task_definition(logging.getLogger(__name__), client, definition)
        registered = client.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        return registered, worker._prepare_task_run_request(settings, registered, arn)
