"""The command line.  Heavy imports are inside the commands, so that help is fast."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from flows.cli import clean, deploy, label, plan, report, run
from flows.cli.options import examples
from rlhf.errors import user_message

EXIT_INTERRUPTED = 128 + signal.SIGINT
RUN, PEOPLE, SERVE, MAINTAIN = "Run", "Evaluate by people", "Serve", "Maintain"
COMMANDS = ("run", "plan", "report", "profiles", "label", "serve", "deploy", "verify", "clean")
"""Order of the commands in the help."""


class InOrder(TyperGroup):
    """Lists the commands in the order of COMMANDS.  By default, groups would follow after all single commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    name="rlhf",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a language model with RLHF and measure whether it got better.",
    epilog=examples(
        "rlhf run quickstart   # synthetic data, minutes on two CPU cores",
        "rlhf plan gptj-6b     # memory, hours and dollars, before anything runs",
        "rlhf run hh-small --name trial --set ppo.steps=20",
        "rlhf label serve      # people compare the responses",
    ),
)
app.command(
    rich_help_panel=RUN,
    epilog=examples("rlhf run quickstart", "rlhf run hh-small --name trial --set ppo.steps=20 --workspace work"),
)(run.run)
app.command(
    rich_help_panel=RUN,
    epilog=examples("rlhf plan gptj-6b", "rlhf plan gptj-6b --machine p5.48xlarge --set ppo.steps=200"),
)(plan.plan)
app.command(
    rich_help_panel=RUN,
    epilog=examples("rlhf report quickstart", "rlhf report --compare quickstart trial"),
)(report.report)
app.add_typer(run.profiles, name="profiles", rich_help_panel=RUN)
app.add_typer(label.app, name="label", rich_help_panel=PEOPLE)
app.command(
    rich_help_panel=SERVE,
    epilog=examples("rlhf serve", "rlhf serve hh-small --port 4201"),
)(deploy.serve)
app.command(
    rich_help_panel=SERVE,
    epilog=examples("rlhf deploy gptj-6b --workspace /workspace", "rlhf deploy gptj-6b --gpu-pool ecs"),
)(deploy.deploy)
app.command(
    rich_help_panel=MAINTAIN,
    epilog=examples("rlhf verify", "rlhf verify --workspace s3://bucket/prefix"),
)(run.verify)
app.command(
    rich_help_panel=MAINTAIN,
    epilog=examples("rlhf clean", "rlhf clean --run trial --yes"),
)(clean.clean)


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        typer.echo(f"rlhf-workflow {version('rlhf-workflow')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _rlhf(*, version: Version = False) -> None:
    """Take the options of `rlhf` itself."""


def main() -> None:
    """Entry point.  Errors that the user can fix are printed as one line, with exit code 2."""
    try:
        app()
    except SystemExit as exit_:
        if exit_.code == EXIT_INTERRUPTED:
            typer.echo("stopped; run the same command again to resume", err=True)
        raise
    except Exception as error:
        message = user_message(error) or _server_unreachable(error)
        if message is None:
            _fail(error)
        _print_error(message)
        sys.exit(2)


def _server_unreachable(error: Exception) -> str | None:
    """Message for the user if `error` means that no Prefect server answers, else None."""
    import httpx

    if not (isinstance(error, httpx.ConnectError) or str(error).startswith("Failed to reach API")):
        return None
    from prefect.settings import PREFECT_API_URL

    return (
        f"no Prefect server answers at {PREFECT_API_URL.value()} (PREFECT_API_URL); start it, correct the address, or "
        "unset PREFECT_API_URL to let the run start its own server"
    )


def _fail(error: Exception) -> NoReturn:
    """A failed stage has printed its log, so its trace would add nothing; other errors are bugs and raised."""
    if type(error).__name__ != "StageFailedError":
        raise error
    _print_error(str(error))
    sys.exit(1)


def _print_error(message: str) -> None:
    """Print an error without control characters: it may quote names and values of strangers."""
    from rlhf.data.invisible import escape_invisible

    typer.echo(f"error: {escape_invisible(message)}", err=True)
