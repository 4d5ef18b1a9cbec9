"""Take from a Prefect server what `rlhf deploy` has put there, and nothing that only bears the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.exceptions import ObjectNotFound

from deployments import FOLDER
from flows.human_labels import collect_labels
from flows.pipeline import pipeline
from flows.server.deploy import Deployment, Pool
from flows.stage import stage

FLOWS = {"pipeline": pipeline.name, "labels": collect_labels.name, "p4d": stage.name}
"""Deployments of deployments/prefect.yaml and their flows."""


@dataclass(frozen=True)
class ServerObject:
    """Something on the server."""

    kind: str
    name: str
    reason_kept: str = ""
    """Why it stays."""

    @property
    def removable(self) -> bool:
        """Whether it goes."""
        return not self.reason_kept


def undeploy(*, remove: bool) -> list[ServerObject]:
    """What `rlhf deploy` has put on the server that Prefect's settings name; with `remove`, it is taken away."""
    with get_client(sync_client=True) as client:
        return [*_deployments(client, remove), *_pools(client, remove), *_automations(client, remove)]


def _deployments(client: SyncPrefectClient, remove: bool) -> list[ServerObject]:
    things = []
    for declared in (Deployment.model_validate(found) for found in _yaml("prefect.yaml")["deployments"]):
        name = f"{FLOWS[declared.name]}/{declared.name}"
        try:
            found = client.read_deployment_by_name(name)
        except ObjectNotFound:
            continue
        removable = found.entrypoint == declared.entrypoint
        things.append(
            ServerObject(
                "deployment", name, "" if removable else f" (runs {found.entrypoint}, not made by rlhf deploy)"
            )
        )
        if removable and remove:
            client.delete_deployment(found.id)
    return things


def _pools(client: SyncPrefectClient, remove: bool) -> list[ServerObject]:
    things = []
    declared = [Pool.model_validate(_yaml(f"work_pools/{name}.yaml")) for name in ("cpu", "p4d.process", "p4d.ecs")]
    for name in dict.fromkeys(pool.name for pool in declared):
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            continue
        if found.description not in [pool.description for pool in declared if pool.name == name]:
            things.append(ServerObject("pool", name, " (not made by rlhf deploy)"))
            continue
        filtered = WorkPoolFilter(name=WorkPoolFilterName(any_=[name]))
        others = [
            used.name
            for used in client.read_deployments(work_pool_filter=filtered)
            if used.name not in FLOWS or not used.entrypoint
        ]
        things.append(ServerObject("pool", name, f" (used by {', '.join(others)})" if others else ""))
        if not others and remove:
            client.delete_work_pool(name)
    return things


def _automations(client: SyncPrefectClient, remove: bool) -> list[ServerObject]:
    things = []
    for declared in _yaml("automations.yaml"):
        for found in client.read_automations_by_name(declared["name"]):
            removable = found.description == declared["description"]
            things.append(ServerObject("automation", found.name, "" if removable else " (not made by rlhf deploy)"))
            if removable and remove:
                client.delete_automation(found.id)
    return things


def _yaml(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
