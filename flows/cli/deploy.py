"""`rlhf deploy` and `rlhf serve`: the pipeline on a Prefect server."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import Overrides, Profile, Storage, Workspace
from rlhf.errors import UserError

GpuPoolType = Annotated[
    Literal["process", "ecs"],
    typer.Option(metavar="TYPE", help="process: a worker on the GPU machine; ecs: one ECS task per stage."),
]
Port = Annotated[int, typer.Option(metavar="PORT", help="Port of the server on 127.0.0.1.")]


def deploy(
    profile: Profile = "gptj-6b",
    workspace: Storage = "runs",
    overrides: Overrides = None,
    gpu_pool: GpuPoolType = "process",
) -> None:
    """Create or update work pools, deployments and the lost-run automation on the Prefect server. Safe to repeat."""
    from flows.server.settings import prepare_for_server, prepare_prefect
    from rlhf.profiles import load_profile

    config = load_profile(profile, overrides or ())
    prepare_prefect()
    from prefect.settings import PREFECT_API_URL

    from flows.server.deploy import deploy as deploy_to_server

    prepare_for_server(str(PREFECT_API_URL.value() or ""))
    for change in deploy_to_server(config, workspace, gpu_pool):
        typer.echo(f"{change.outcome:<10} {change.kind:<11} {change.name}")


def serve(profile: Profile = "quickstart", workspace: Workspace = Path("runs"), port: Port = 4200) -> None:
    """Start a local Prefect server with one worker per pool. Ctrl-C stops everything."""
    from flows.server.settings import PASSWORD, SERVER_PASSWORD, prepare_for_server, prepare_prefect, use_own_server
    from rlhf.profiles import load_profile

    config = load_profile(profile, ())
    _require_free(port)
    address = f"http://127.0.0.1:{port}"
    logs = workspace / "services"
    # Unlike the server of a run, this one may be protected by a password.
    password = os.environ.get(SERVER_PASSWORD)
    access = {SERVER_PASSWORD: password, PASSWORD: password} if password else {}
    use_own_server(os.environ, f"{address}/api", logs)
    os.environ.update(access)
    prepare_prefect()  # reads the variables
    prepare_for_server(f"{address}/api")
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    from flows.server.processes import Services

    with Services(logs, f"{address}/api") as services:
        services.server(port, **access)
        from flows.server.deploy import deploy as deploy_to_server

        deploy_to_server(config, workspace)
        for pool in ("cpu", "p4d"):
            services.worker(pool, **access)
        typer.echo(f"Prefect is at {address}; logs are in {services.logs}; Ctrl-C stops everything")
        typer.echo(f"run the pipeline: Deployments > pipeline > Run, or `PREFECT_API_URL={address}/api rlhf run ...`")
        services.wait()


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} is in use, perhaps by a Prefect server; choose another one with --port"
            ) from error
