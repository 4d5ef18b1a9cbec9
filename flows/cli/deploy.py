"""`rlhf deploy` and `rlhf serve`: the pipeline on a Prefect server."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import Overrides, Profile, Storage, Workspace
from flows.server.settings import set_prefect_defaults
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
    from rlhf.profiles import load_profile

    config = load_profile(profile, overrides or ())
    set_prefect_defaults()
    from flows.server.deploy import deploy as deploy_to_server

    for change in deploy_to_server(config, workspace, gpu_pool):
        typer.echo(f"{change.outcome:<10} {change.kind:<11} {change.name}")


def serve(profile: Profile = "quickstart", workspace: Workspace = Path("runs"), port: Port = 4200) -> None:
    """Start a local Prefect server with one worker per pool. Ctrl-C stops everything."""
    from rlhf.profiles import load_profile

    config = load_profile(profile, ())
    _require_free(port)
    address = f"http://127.0.0.1:{port}"
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    set_prefect_defaults()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    from flows.server.processes import Services

    with Services(workspace / "services", f"{address}/api") as services:
        services.server(port)
        from flows.server.deploy import deploy as deploy_to_server

        deploy_to_server(config, workspace)
        for pool in ("cpu", "p4d"):
            services.worker(pool)
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
