"""Remove from a Prefect server what `rlhf deploy` created.  Other objects with the same names are kept."""

from __future__ import annotations

from dataclasses import dataclass

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.exceptions import ObjectNotFound

from flows.server.specs import read_automations, read_deployments, read_work_pools

NOT_OURS = " (not created by rlhf deploy)"


@dataclass(frozen=True)
class ServerObject:
    """An object on the server."""

    kind: str
    name: str
    reason_kept: str = ""
    """Why it must be kept; empty if it is removable."""

    @property
    def removable(self) -> bool:
        """Whether `rlhf deploy` created it and nothing else uses it."""
        return not self.reason_kept


def undeploy(*, remove: bool) -> list[ServerObject]:
    """List the objects of `deployments/` on the server of PREFECT_API_URL; with `remove`, delete the removable ones."""
    with get_client(sync_client=True) as client:
        return [*_deployments(client, remove), *_pools(client, remove), *_automations(client, remove)]


def _deployments(client: SyncPrefectClient, remove: bool) -> list[ServerObject]:
    objects = []
    for spec in read_deployments():
        try:
            deployment = client.read_deployment_by_name(spec.full_name)
        except ObjectNotFound:
            continue
        is_ours = deployment.entrypoint == spec.entrypoint
        reason_kept = "" if is_ours else f" (runs {deployment.entrypoint}, not created by rlhf deploy)"
        objects.append(ServerObject("deployment", spec.full_name, reason_kept))
        if is_ours and remove:
            client.delete_deployment(deployment.id)
    return objects


def _pools(client: SyncPrefectClient, remove: bool) -> list[ServerObject]:
    objects = []
    specs = read_work_pools("cpu", "p4d.process", "p4d.ecs")
    deployment_names = {spec.name for spec in read_deployments()}
    for name in dict.fromkeys(spec.name for spec in specs):
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            continue
        if pool.description not in [spec.description for spec in specs if spec.name == name]:
            objects.append(ServerObject("pool", name, NOT_OURS))
            continue
        users = client.read_deployments(work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name])))
        others = [user.name for user in users if user.name not in deployment_names or not user.entrypoint]
        objects.append(ServerObject("pool", name, f" (used by {', '.join(others)})" if others else ""))
        if not others and remove:
            client.delete_work_pool(name)
    return objects


def _automations(client: SyncPrefectClient, remove: bool) -> list[ServerObject]:
    objects = []
    for spec in read_automations():
        for automation in client.read_automations_by_name(spec.name):
            is_ours = automation.description == spec.description
            objects.append(ServerObject("automation", automation.name, "" if is_ours else NOT_OURS))
            if is_ours and remove:
                client.delete_automation(automation.id)
    return objects
