"""Create or update the work pools, deployments and the automation of `deployments/` on a Prefect server.

Idempotent: objects that match the files are left alone, others are updated.  Schedules keep the on/off state that a
person gave them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel

from flows.server.specs import (
    DeploymentSpec,
    ScheduleSpec,
    WorkPoolSpec,
    read_automations,
    read_deployments,
    read_work_pools,
)
from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.storage.s3 import S3

GPU_POOL = "p4d"
GpuPool = Literal["process", "ecs"]


class Change(BaseModel):
    """The outcome of a deployment for one object on the server."""

    kind: str
    name: str
    outcome: Literal["created", "changed", "unchanged"]


def deploy(config: RunConfig, workspace: Path | str, gpu_pool: GpuPool = "process") -> list[Change]:
    """Create or update all objects on the server of PREFECT_API_URL, with the settings of one run as defaults.

    Raises UserError if a work pool exists with another type.
    """
    pipeline_config = config.model_copy(update={"compute": config.compute.model_copy(update={"gpu_pool": GPU_POOL})})
    is_in_s3 = str(workspace).startswith(S3)
    location = str(workspace) if is_in_s3 else str(Path(workspace).absolute())
    parameters: dict[str, dict[str, Any]] = {
        "pipeline": {"config": pipeline_config.model_dump(mode="json"), "workspace": location},
        "labels": {"run": config.run_name, "workspace": location},
    }
    with get_client(sync_client=True) as client:
        # The automation is first: it watches only runs that start after it was created.
        return [
            *(_deploy_automation(client, automation) for automation in read_automations()),
            *(_deploy_work_pool(client, spec) for spec in read_work_pools("cpu", f"{GPU_POOL}.{gpu_pool}")),
            *(_deploy_deployment(client, spec, parameters.get(spec.name, {})) for spec in read_deployments()),
        ]


def _deploy_automation(client: SyncPrefectClient, spec: AutomationCore) -> Change:
    existing = client.read_automations_by_name(spec.name)
    if not existing:
        client.create_automation(spec)
        return Change(kind="automation", name=spec.name, outcome="created")
    automation = existing[0]
    if AutomationCore.model_validate(automation.model_dump(exclude={"id"})) == spec:
        return Change(kind="automation", name=spec.name, outcome="unchanged")
    client.update_automation(automation.id, spec)
    return Change(kind="automation", name=spec.name, outcome="changed")


def _deploy_work_pool(client: SyncPrefectClient, spec: WorkPoolSpec) -> Change:
    try:
        pool = client.read_work_pool(spec.name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate.model_validate(spec.model_dump()))
        return Change(kind="pool", name=spec.name, outcome="created")
    if pool.type != spec.type:
        raise UserError(
            f"work pool {spec.name} is of type {pool.type}, but must be {spec.type}; "
            f"delete it first: prefect work-pool delete {spec.name}"
        )
    updatable_fields = {"description", "concurrency_limit"}
    if spec.base_job_template:
        updatable_fields.add("base_job_template")
    if pool.model_dump(include=updatable_fields) == spec.model_dump(include=updatable_fields):
        return Change(kind="pool", name=spec.name, outcome="unchanged")
    client.update_work_pool(spec.name, WorkPoolUpdate.model_validate(spec.model_dump(include=updatable_fields)))
    return Change(kind="pool", name=spec.name, outcome="changed")


def _deploy_deployment(client: SyncPrefectClient, spec: DeploymentSpec, parameters: dict[str, Any]) -> Change:
    flow = spec.flow
    try:
        deployment = client.read_deployment_by_name(spec.full_name)
    except ObjectNotFound:
        deployment = None
    is_active = {schedule.slug: schedule.active for schedule in deployment.schedules} if deployment else {}
    fields: dict[str, Any] = {
        "entrypoint": spec.entrypoint,
        "description": flow.description,
        "tags": spec.tags,
        "work_pool_name": spec.work_pool.name,
        "job_variables": spec.work_pool.job_variables,
        "parameters": parameters,
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "pull_steps": [],
        "schedules": [_schedule(schedule, is_active) for schedule in spec.schedules],
    }
    limit = spec.concurrency_limit
    if deployment is not None and _matches(deployment, fields, limit):
        return Change(kind="deployment", name=spec.full_name, outcome="unchanged")
    client.create_deployment(  # replaces a deployment of the same name
        flow_id=client.create_flow_from_name(flow.name),
        name=spec.name,
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=ConcurrencyOptions(collision_strategy=limit.collision_strategy) if limit else None,
        **fields,
    )
    return Change(kind="deployment", name=spec.full_name, outcome="changed" if deployment else "created")


def _matches(deployment: DeploymentResponse, fields: dict[str, Any], limit: ConcurrencyLimitConfig | None) -> bool:
    """Whether the deployment on the server has these fields and this concurrency limit."""
    schedules = [_comparable(schedule) for schedule in deployment.schedules]
    if schedules != [_comparable(schedule) for schedule in fields["schedules"]]:
        return False
    if deployment.model_dump(include=fields.keys() - {"schedules"}) != {
        name: value for name, value in fields.items() if name != "schedules"
    }:
        return False
    server_limit = deployment.global_concurrency_limit.limit if deployment.global_concurrency_limit else None
    strategy = deployment.concurrency_options.collision_strategy if deployment.concurrency_options else None
    return server_limit == (limit.limit if limit else None) and strategy == (
        limit.collision_strategy if limit else None
    )


def _schedule(spec: ScheduleSpec, is_active: dict[str | None, bool]) -> DeploymentScheduleCreate:
    """The schedule, switched on or off as on the server if it exists there."""
    return DeploymentScheduleCreate(
        slug=spec.slug,
        schedule=CronSchedule(cron=spec.cron, timezone=spec.timezone),
        active=is_active.get(spec.slug, spec.active),
    )


def _comparable(schedule: DeploymentSchedule | DeploymentScheduleCreate) -> tuple[object, ...]:
    return schedule.slug, schedule.active, schedule.schedule
