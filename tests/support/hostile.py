"""A folder and an environment as users have them by accident, and in which nothing may go wrong."""

from __future__ import annotations

from pathlib import Path

MODULES = ("yaml", "json", "typing", "torch", "prefect", "accelerate", "flows", "tasks", "rlhf", "deployments")
FOREIGN_ENVIRONMENT = {
    **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9"),
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29511",
    "PMI_SIZE": "4",
    "PMI_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "PET_NNODES": "3",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_OFFLOAD_PARAMS": "true",
    "SLURM_PROCID": "3",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
    "PREFECT_SERVER_API_BASE_PATH": "/prefect/api",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://user:secret@127.0.0.1:9/prefect",
    "PREFECT_PROFILE": "production",
}
"""Proxies without a way around them for this machine, variables of other launchers, and of another Prefect server."""


def hostile_folder(folder: Path) -> Path:
    """Fill `folder` with modules and packages of which none may be imported because it is the current folder."""
    for number, name in enumerate(MODULES):
        path = folder / f"{name}.py" if number % 2 == 0 else folder / name / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('a file of the current folder was run: {path.name}')\n")
    return folder
