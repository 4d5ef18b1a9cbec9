"""Put pools, the automation and the deployments of `deployments/` on a Prefect server, as often as one likes.

What is as it should be is left alone, what differs is set right, and a schedule that a person switched on or off stays
so.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, ConfigDict, TypeAdapter

from deployments import FOLDER
from rlhf.config import RunConfig
from rlhf.errors import UserError
from rlhf.storage.s3 import S3

GPU_POOL = "p4d"
GpuPool = Literal["process", "ecs"]


class Declared(BaseModel):
    """Base of what the files declare."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Pool(Declared):
    """A file of deployments/work_pools."""

    name: str
    type: str
    description: str
    concurrency_limit: int | None = None
    base_job_template: dict[str, Any] = {}


class PoolOfDeployment(Declared):
    """Where runs of a deployment go."""

    name: str
    job_variables: dict[str, Any] = {}


class ScheduleDeclared(Declared):
    """When runs are made."""

    slug: str
    cron: str
    timezone: str = "UTC"
    active: bool = False


class Deployment(Declared):
    """A deployment of deployments/prefect.yaml, in Prefect's own words."""

    name: str
    entrypoint: str
    tags: list[str] = []
    work_pool: PoolOfDeployment
    schedules: list[ScheduleDeclared] = []
    concurrency_limit: ConcurrencyLimitConfig | None = None


class Change(BaseModel):
    """What became of one thing on the server."""

    kind: str
    name: str
    outcome: Literal["created", "changed", "unchanged"]


def deploy(config: RunConfig, workspace: Path | str, gpu_pool: GpuPool = "process") -> list[Change]:
    """Bring the server that Prefect's settings name to what the files say, with the settings of one run.

    The automation comes first: it watches only runs that began after it was made.
    """
    on_pool = config.model_copy(update={"compute": config.compute.model_copy(update={"gpu_pool": GPU_POOL})})
    shared = str(workspace).startswith(S3)
    place = {"workspace": str(workspace) if shared else str(Path(workspace).absolute())}
    parameters: dict[str, dict[str, Any]] = {
        "pipeline": {"config": on_pool.model_dump(mode="json"), **place},
        "labels": {"run": config.run_name, **place},
    }
    pools = [Pool.model_validate(_yaml(f"work_pools/{name}.yaml")) for name in ("cpu", f"{GPU_POOL}.{gpu_pool}")]
    automations = TypeAdapter(list[AutomationCore]).validate_python(_yaml("automations.yaml"))
    deployments = TypeAdapter(list[Deployment]).validate_python(_yaml("prefect.yaml")["deployments"])
    with get_client(sync_client=True) as client:
        return [
            *(_automation(client, wanted) for wanted in automations),
            *(_pool(client, wanted) for wanted in pools),
            *(_deployment(client, wanted, parameters.get(wanted.name, {})) for wanted in deployments),
        ]


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> Change:
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Change(kind="automation", name=wanted.name, outcome="created")
    if AutomationCore.model_validate(found[0].model_dump(exclude={"id"})) == wanted:
        return Change(kind="automation", name=wanted.name, outcome="unchanged")
    client.update_automation(found[0].id, wanted)
    return Change(kind="automation", name=wanted.name, outcome="changed")


def _pool(client: SyncPrefectClient, wanted: Pool) -> Change:
    try:
        found = client.read_work_pool(wanted.name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate.model_validate(wanted.model_dump()))
        return Change(kind="pool", name=wanted.name, outcome="created")
    if found.type != wanted.type:
        raise UserError(
            f"work pool {wanted.name} is of type {found.type}, wanted {wanted.type}; "
            f"delete it first: prefect work-pool delete {wanted.name}"
        )
    mendable = {"description", "concurrency_limit"} | ({"base_job_template"} if wanted.base_job_template else set())
    if found.model_dump(include=mendable) == wanted.model_dump(include=mendable):
        return Change(kind="pool", name=wanted.name, outcome="unchanged")
    client.update_work_pool(wanted.name, WorkPoolUpdate.model_validate(wanted.model_dump(include=mendable)))
    return Change(kind="pool", name=wanted.name, outcome="changed")


def _deployment(client: SyncPrefectClient, declared: Deployment, parameters: dict[str, Any]) -> Change:
    flow = _flow(declared.entrypoint)
    full_name = f"{flow.name}/{declared.name}"
    try:
        found = client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        found = None
    switched = {schedule.slug: schedule.active for schedule in found.schedules} if found else {}
    wanted: dict[str, Any] = {
        "entrypoint": declared.entrypoint,
        "description": flow.description,
        "tags": declared.tags,
        "work_pool_name": declared.work_pool.name,
        "job_variables": declared.work_pool.job_variables,
        "parameters": parameters,
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "enforce_parameter_schema": True,
        "pull_steps": [],
        "schedules": [_schedule(schedule, switched) for schedule in declared.schedules],
    }
    limit = declared.concurrency_limit
    if found is not None and _is_so(found, wanted, limit):
        return Change(kind="deployment", name=full_name, outcome="unchanged")
    client.create_deployment(  # or takes the place of the one of that name
        flow_id=client.create_flow_from_name(flow.name),
        name=declared.name,
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=ConcurrencyOptions(collision_strategy=limit.collision_strategy) if limit else None,
        **wanted,
    )
    return Change(kind="deployment", name=full_name, outcome="changed" if found else "created")


def _is_so(found: DeploymentResponse, wanted: dict[str, Any], limit: ConcurrencyLimitConfig | None) -> bool:
    """Whether the server's deployment is as it is wanted."""
    schedules = [_comparable(schedule) for schedule in found.schedules]
    if schedules != [_comparable(schedule) for schedule in wanted["schedules"]]:
        return False
    if found.model_dump(include=wanted.keys() - {"schedules"}) != {
        name: value for name, value in wanted.items() if name != "schedules"
    }:
        return False
    has_limit = found.global_concurrency_limit.limit if found.global_concurrency_limit else None
    has_strategy = found.concurrency_options.collision_strategy if found.concurrency_options else None
    return has_limit == (limit.limit if limit else None) and has_strategy == (
        limit.collision_strategy if limit else None
    )


def _schedule(declared: ScheduleDeclared, switched: dict[str | None, bool]) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(
        slug=declared.slug,
        schedule=CronSchedule(cron=declared.cron, timezone=declared.timezone),
        active=switched.get(declared.slug, declared.active),
    )


def _comparable(schedule: DeploymentSchedule | DeploymentScheduleCreate) -> tuple[object, ...]:
    return schedule.slug, schedule.active, schedule.schedule


def _flow(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    flow: Flow[..., Any] = getattr(import_module(module), name)
    return flow


def _yaml(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
