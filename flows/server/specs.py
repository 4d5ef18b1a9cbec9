"""The objects that the files of `deployments/` specify: work pools, deployments and automations."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import yaml
from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.events.schemas.automations import AutomationCore
from pydantic import BaseModel, ConfigDict, TypeAdapter

from deployments import path_of


class Spec(BaseModel):
    """Base of the objects in the files.  Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkPoolSpec(Spec):
    """A work pool: one file in deployments/work_pools."""

    name: str
    type: str
    description: str
    concurrency_limit: int | None = None
    base_job_template: dict[str, Any] = {}


class WorkPoolRef(Spec):
    """The work pool of a deployment."""

    name: str
    job_variables: dict[str, Any] = {}


class ScheduleSpec(Spec):
    """A schedule of a deployment."""

    slug: str
    cron: str
    timezone: str = "UTC"
    active: bool = False


class DeploymentSpec(Spec):
    """A deployment of deployments/prefect.yaml, with Prefect's names of its fields."""

    name: str
    entrypoint: str
    tags: list[str] = []
    work_pool: WorkPoolRef
    schedules: list[ScheduleSpec] = []
    concurrency_limit: ConcurrencyLimitConfig | None = None

    @property
    def flow(self) -> Flow[..., Any]:
        """The flow at the entrypoint."""
        module, _, name = self.entrypoint.rpartition(".")
        flow: Flow[..., Any] = getattr(import_module(module), name)
        return flow

    @property
    def full_name(self) -> str:
        """FLOW/DEPLOYMENT, as Prefect names it."""
        return f"{self.flow.name}/{self.name}"


def read_work_pools(*names: str) -> list[WorkPoolSpec]:
    """The work pools in the named files of deployments/work_pools."""
    return [WorkPoolSpec.model_validate(_read_yaml(f"work_pools/{name}.yaml")) for name in names]


def read_deployments() -> list[DeploymentSpec]:
    """The deployments of the pipeline, of the import of labels and of the GPU pool."""
    return TypeAdapter(list[DeploymentSpec]).validate_python(_read_yaml("prefect.yaml")["deployments"])


def read_automations() -> list[AutomationCore]:
    """The automation that marks lost runs as Crashed."""
    return TypeAdapter(list[AutomationCore]).validate_python(_read_yaml("automations.yaml"))


def _read_yaml(name: str) -> Any:
    return yaml.safe_load(path_of(name).read_text(encoding="utf-8"))
