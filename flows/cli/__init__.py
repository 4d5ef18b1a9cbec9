"""The command line.  Heavy imports stand inside the commands, so that help answers at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import typer

from flows.cli import clean, deploy, label, plan, report
from flows.cli.options import Overrides, Profile, Storage
from flows.server.settings import imports_for_good, prepare_prefect
from rlhf.errors import UserError, user_message

EXIT_INTERRUPTED = 128 + signal.SIGINT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RLHF as a workflow: fine-tune, reward, align, and prove whether the model got better.",
)


@app.command()
def run(profile: Profile, workspace: Storage = "runs", overrides: Overrides = None) -> None:
    """Run the whole pipeline; steps whose inputs did not change come from the cache."""
    from rlhf.profiles import load_profile

    config = load_profile(profile, overrides or ())
    require_usable(workspace)
    prepare_prefect()
    with imports_for_good():
        from rich.console import Console

        from flows.cli.display import Terminal, results_table
        from flows.pipeline import pipeline
        from flows.server.processes import server_of_a_run
        from rlhf.results.schema import Results

    terminal = Terminal(Console(highlight=False))
    with server_of_a_run() as page:
        if page is not None:
            terminal.console.print(f"watch it in Prefect's UI: {page}", soft_wrap=True)
        with terminal.attached():
            summary = pipeline(config, workspace)
    results = Results.model_validate_json(summary.results.read_bytes())
    terminal.console.print(results_table(results))
    terminal.console.print(f"report: {summary.report}\nfigures: {summary.results}", soft_wrap=True)
    if summary.shared:
        terminal.console.print(f"both are in {summary.shared}", soft_wrap=True)


@app.command()
def profiles() -> None:
    """List the shipped profiles."""
    from rlhf.profiles import describe, profile_names

    for name in profile_names():
        typer.echo(f"{name:<12} {describe(name)}")


@app.command()
def show(profile: Profile, overrides: Overrides = None) -> None:
    """Print every setting of a profile."""
    import yaml

    from rlhf.profiles import load_profile

    typer.echo(
        yaml.safe_dump(load_profile(profile, overrides or ()).model_dump(mode="json"), sort_keys=False), nl=False
    )


@app.command()
def verify(workspace: Storage = "runs") -> None:
    """Hash every file of every finished artifact and name those that changed."""
    from rlhf.storage.s3 import S3
    from rlhf.storage.s3_store import store_at

    artifacts = store_at(workspace).survey() if workspace.startswith(S3) else _survey(Path(workspace))
    if not artifacts:
        raise UserError(f"{workspace}: holds no artifacts; name the folder of a run with --workspace")
    finished = {name: found for name, found in artifacts.items() if found is not None}
    problems = [problem for found in finished.values() for problem in found]
    for problem in problems:
        typer.echo(problem)
    for name in artifacts.keys() - finished.keys():
        typer.echo(f"{name}: unfinished; the next run resumes it")
    typer.echo(f"{len(finished)} artifacts checked, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


app.command()(plan.plan)
app.command()(clean.clean)
app.command()(deploy.deploy)
app.command()(deploy.ui)
app.command()(report.report)
app.command()(label.label)
app.add_typer(label.labels, name="labels")


def _survey(workspace: Path) -> dict[str, list[str] | None]:
    from rlhf.storage.artifacts import MANIFEST, Store, damage

    return {
        str(folder): damage(folder, thorough=True) if (folder / MANIFEST).exists() else None
        for folder in Store(workspace / "artifacts").artifacts()
    }


def require_usable(workspace: str) -> None:
    """Raise the error that a run would meet where its workspace, or the cache of one in S3, cannot be written."""
    from rlhf.storage.s3 import S3

    if not workspace.startswith(S3):
        require_writable(Path(workspace))
        return
    from rlhf.storage.s3_store import store_at

    store = store_at(workspace)
    store.require_writable()
    require_writable(store.workspace)


def require_writable(workspace: Path) -> None:
    """Raise the operating system's error where nothing can be written to `workspace`."""
    workspace.mkdir(parents=True, exist_ok=True)
    probe = workspace / f".probe.{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * 4096)
    finally:
        probe.unlink(missing_ok=True)


def main() -> None:
    """Entry point: one line and exit code 2 for what the user can mend."""
    try:
        app()
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:
            typer.echo("stopped; the same command goes on where it was", err=True)
        raise
    except Exception as error:
        message = user_message(error) or _unanswered(error)
        if message is None:
            _fail(error)
        typer.echo(f"error: {message}", err=True)
        sys.exit(2)


def _unanswered(error: Exception) -> str | None:
    """The one line for the user where `error` says that Prefect's server does not answer, else None."""
    import httpx

    if not (isinstance(error, httpx.ConnectError) or str(error).startswith("Failed to reach API")):
        return None
    from prefect.settings import PREFECT_API_URL

    return (
        f"no Prefect server answers at {PREFECT_API_URL.value()}, as PREFECT_API_URL says; start it, correct the "
        "address, or unset it: a run then starts a server of its own"
    )


def _fail(error: Exception) -> None:
    if type(error).__name__ != "StageFailedError":
        raise error
    typer.echo(f"error: {error}", err=True)
    sys.exit(1)
