"""`rlhf run`, `rlhf profiles` and `rlhf verify`.  Heavy imports are inside the commands, so that help is fast."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Overrides, Profile, Storage, examples
from rlhf.errors import UserError

profiles = typer.Typer(
    invoke_without_command=True,
    help="List the shipped profiles, or show the settings of one.",
    epilog=examples("rlhf profiles", "rlhf profiles show hh-small --set ppo.steps=20"),
)

Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name of the run. Default: the name of the profile."),
]


def run(profile: Profile, name: Name = None, workspace: Storage = "runs", overrides: Overrides = None) -> None:
    """Run the pipeline. Stages whose inputs have not changed are cached."""
    from flows.server.settings import gc_paused_import, prepare_prefect
    from rlhf.profiles import load_profile
    from rlhf.storage.s3_store import open_store

    config = load_profile(profile, overrides or (), run_name=name)
    open_store(workspace).require_writable()
    prepare_prefect()
    with gc_paused_import():
        from rich.console import Console

        from flows.cli.display import Terminal, results_table
        from flows.pipeline import pipeline
        from flows.server.processes import temporary_server
        from rlhf.results.schema import Results

    terminal = Terminal(Console(highlight=False))
    with temporary_server() as url:
        if url is not None:
            terminal.console.print(f"Prefect UI of this run: {url}", soft_wrap=True)
        with terminal.attached():
            summary = pipeline(config, workspace)
    results = Results.model_validate_json(summary.results.read_bytes())
    terminal.console.print(results_table(results))
    terminal.console.print(f"report:  {summary.report}\nmetrics: {summary.results}", soft_wrap=True)
    if summary.remote_uri:
        terminal.console.print(f"both are also in {summary.remote_uri}", soft_wrap=True)


@profiles.callback()
def list_profiles(context: typer.Context) -> None:
    """Print the name and the first line of each shipped profile, unless a subcommand follows."""
    from rlhf.profiles import describe, profile_names

    if context.invoked_subcommand is None:
        for name in profile_names():
            typer.echo(f"{name:<12} {describe(name)}")


@profiles.command(epilog=examples("rlhf profiles show hh-small --set ppo.steps=20"))
def show(profile: Profile, overrides: Overrides = None) -> None:
    """Print every setting of a profile, defaults included, as YAML."""
    import yaml

    from rlhf.profiles import load_profile

    settings = load_profile(profile, overrides or ()).model_dump(mode="json")
    typer.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)


def verify(workspace: Storage = "runs") -> None:
    """Check every artifact's files against their recorded SHA-256. Exits with code 1 if one differs."""
    from rlhf.storage.s3_store import open_store

    artifacts = open_store(workspace).verify_all()
    if not artifacts:
        raise UserError(f"{workspace}: contains no artifacts; name the folder of your runs with --workspace")
    finished = {name: problems for name, problems in artifacts.items() if problems is not None}
    problems = [problem for problems in finished.values() for problem in problems]
    for problem in problems:
        typer.echo(problem)
    for name in artifacts.keys() - finished.keys():
        typer.echo(f"{name}: unfinished; the next run resumes it")
    typer.echo(f"{len(finished)} artifacts checked, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
