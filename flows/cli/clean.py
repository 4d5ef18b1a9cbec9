"""`rlhf clean`.  Heavy imports stand inside the command, so that help answers at once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Storage
from flows.server.settings import prepare_prefect

if TYPE_CHECKING:
    from rlhf.runs.cleanup import Found, Place

OneRun = Annotated[
    str | None, typer.Option("--run", help="Name of a run: only what it made and no other run of the workspace uses.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only listed.")]
Pools = Annotated[
    bool, typer.Option("--pools", help="Also the work pools, deployments and automation of `rlhf deploy`.")
]


def clean(workspace: Storage = "runs", run: OneRun = None, *, yes: Yes = False, pools: Pools = False) -> None:
    """List what runs left in a workspace, or remove it; what they did not make, and people's answers, stay."""
    from rlhf.runs.cleanup import remove, runs_of, survey

    place, *copies = _places(workspace)
    surveys = [(place, survey(place, run))]
    surveys += [(copy, survey(copy, run)) for copy in copies if run is None or run in runs_of(copy)]
    for place, found in surveys:
        _tell(place, found)
        if yes:
            remove(place, found)
    if pools:
        prepare_prefect()
        from flows.server.undeploy import undeploy

        for thing in undeploy(remove=yes):
            typer.echo(f"{'remove' if thing.ours else 'stays':<8} {thing.kind:<11} {thing.name}{thing.why}")
    typer.echo("removed" if yes else "nothing is removed without --yes")


def _places(workspace: str) -> list[Place]:
    """The workspace, and this machine's copy where it lies in S3."""
    from rlhf.runs.cleanup import Folder, place_at
    from rlhf.storage.s3 import S3

    if not workspace.startswith(S3):
        return [place_at(workspace)]
    from rlhf.storage.s3_store import store_at

    copy = store_at(workspace).workspace
    return [place_at(workspace), *([Folder(copy)] if copy.is_dir() else [])]


def _tell(place: Place, found: Found) -> None:
    typer.echo(f"{place.uri}:")
    folders = Counter("/".join(name.split("/")[:-1][:3]) or name for name in found.ours)
    for folder, files in sorted(folders.items()):
        typer.echo(f"  remove   {folder} ({files} files)")
    for uri in found.elsewhere:
        typer.echo(f"  remove   {uri}")
    for names, why in (
        (found.shared, "not of this run alone"),
        (found.peoples, "people's answers"),
        (found.foreign, "not made by a run"),
    ):
        for name in names:
            typer.echo(f"  stays    {name} ({why})")
