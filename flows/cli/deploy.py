"""`rlhf deploy` and `rlhf ui`: the workflow on a Prefect server."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import Overrides, Profile, Storage, Workspace
from flows.server.settings import prepare_prefect
from rlhf.errors import UserError

GpuPoolType = Annotated[Literal["process", "ecs"], typer.Option(help="Type of the GPU pool.")]
Port = Annotated[int, typer.Option(help="Port of the server on 127.0.0.1.")]


def deploy(
    profile: Profile = "gptj-6b",
    workspace: Storage = "runs",
    overrides: Overrides = None,
    gpu_pool: GpuPoolType = "process",
) -> None:
    """Put work pools, deployments and the automation of lost runs on the Prefect server; again changes nothing."""
    from rlhf.profiles import load_profile

    config = load_profile(profile, overrides or ())
    prepare_prefect()
    from flows.server.deploy import deploy as bring_to

    for change in bring_to(config, workspace, gpu_pool):
        typer.echo(f"{change.outcome:<10} {change.kind:<11} {change.name}")


def ui(profile: Profile = "quickstart", workspace: Workspace = Path("runs"), port: Port = 4200) -> None:
    """Start a server, a worker of each pool and the deployments on this machine; Ctrl-C stops all of it."""
    from rlhf.profiles import load_profile

    config = load_profile(profile, ())
    _require_free(port)
    address = f"http://127.0.0.1:{port}"
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    prepare_prefect()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    from flows.server.processes import Services

    with Services(workspace / "services", f"{address}/api") as services:
        services.server(port)
        from flows.server.deploy import deploy as bring_to

        bring_to(config, workspace)
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
        except OSError:
            raise UserError(f"port {port} is taken, perhaps by a Prefect server; choose another with --port") from None
