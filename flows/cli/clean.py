"""`rlhf clean`.  Heavy imports are inside the command, so that help is fast."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Storage
from rlhf.errors import quoted

if TYPE_CHECKING:
    from rlhf.runs.cleanup import CleanupPlan, Location

OneRun = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="Only files of this run that no other run of the workspace uses."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Delete the listed files.")]
Pools = Annotated[
    bool,
    typer.Option("--pools", help="Also the work pools, deployments and automation that `rlhf deploy` created."),
]


def clean(workspace: Storage = "runs", run: OneRun = None, *, yes: Yes = False, pools: Pools = False) -> None:
    """List files that runs created; with --yes, delete them. Labels and files of other origin are kept."""
    from rlhf.runs.cleanup import plan_cleanup, remove, runs_of

    location, *copies = _locations(workspace)
    plans = [(location, plan_cleanup(location, run))]
    plans += [(copy, plan_cleanup(copy, run)) for copy in copies if run is None or run in runs_of(copy)]
    for location, plan in plans:
        _print_plan(location, plan)
        if yes:
            remove(location, plan)
    if pools:
        from flows.server.settings import prepare_prefect

        prepare_prefect()
        from flows.server.undeploy import undeploy

        for item in undeploy(remove=yes):
            typer.echo(f"{'remove' if item.removable else 'keep':<8} {item.kind:<11} {item.name}{item.reason_kept}")
    typer.echo("removed" if yes else "nothing was removed; repeat with --yes to remove")


def _locations(workspace: str) -> list[Location]:
    """The workspace and, if it is in S3, its local copy."""
    from rlhf.runs.cleanup import LocalLocation, location_at
    from rlhf.storage.s3 import S3

    if not workspace.startswith(S3):
        return [location_at(workspace)]
    from rlhf.storage.s3_store import open_s3_store

    copy = open_s3_store(workspace).workspace
    return [location_at(workspace), *([LocalLocation(copy)] if copy.is_dir() else [])]


def _print_plan(location: Location, plan: CleanupPlan) -> None:
    typer.echo(f"{location.uri}:")
    folders = Counter("/".join(name.split("/")[:-1][:3]) or name for name in plan.removable)
    for folder, files in sorted(folders.items()):
        typer.echo(f"  remove   {quoted(folder)} ({files} files)")
    for uri in plan.remote:
        typer.echo(f"  remove   {uri}")
    for names, reason_kept in (
        (plan.shared, "not only of this run"),
        (plan.labels, "labels"),
        (plan.unknown, "not created by a run"),
    ):
        for name in names:
            typer.echo(f"  keep     {quoted(name)} ({reason_kept})")
