"""`rlhf label` and `rlhf labels ...`.  Heavy imports stand inside the commands, so that help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Storage

labels = typer.Typer(no_args_is_help=True, help="Bring people's labels into a report, or pairs to Ground Truth.")

RunName = Annotated[str | None, typer.Option("--run", help="Name of the run; needed where there are several.")]


def label(
    workspace: Storage = "runs",
    run: RunName = None,
    annotator: Annotated[
        list[str] | None, typer.Option(help="Print a signed link for this person; again for more.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback everyone needs a link.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
) -> None:
    """Open the page on which people compare the answers of a run."""
    from contextlib import closing, suppress

    from rlhf.labeling.server import serve
    from rlhf.labeling.session import Labels
    from rlhf.runs.published import open_run

    with (
        open_run(workspace, run) as found,
        closing(Labels(found.pairs, found.labels)) as opened,
        suppress(KeyboardInterrupt),
    ):
        serve(opened, host, port, annotator or ())
    typer.echo(
        f"\nanswers: {opened.output}\nreport:  rlhf labels import --workspace {workspace} --run {found.folder.name}"
    )


@labels.command("import")
def import_(
    source: Annotated[
        str | None, typer.Argument(help="Output manifest, its folder, or s3://...; without it, the page's answers.")
    ] = None,
    workspace: Storage = "runs",
    run: RunName = None,
    partial: Annotated[bool, typer.Option("--partial", help="Take what is good and say what is missing.")] = False,
) -> None:
    """Check and unblind labels, and complete the report of a run with them; nothing else runs."""
    from rlhf.runs.label_import import import_labels
    from rlhf.runs.published import open_run

    with open_run(workspace, run) as found:
        imported = import_labels(found, source, partial=partial)
    evaluation = imported.evaluation
    for problem in imported.left_out:
        typer.echo(f"left out: {problem}")
    if imported.missing:
        typer.echo(f"missing: {', '.join(imported.missing)}")
    typer.echo(f"{evaluation.labelled} of {evaluation.items} pairs labelled, annotators: {len(evaluation.annotators)}")
    for question in evaluation.questions:
        counts = question.items
        typer.echo(f"{question.question:<13} RLHF better {counts.better}, tie {counts.tie}, SFT better {counts.worse}")
    typer.echo(f"report: {found.folder / 'report.html'}")


@labels.command()
def package(folder: Path, workspace: Storage = "runs", run: RunName = None) -> None:
    """Write manifest, template and instructions for Ground Truth or Ground Truth Plus into FOLDER."""
    from rlhf.labeling.ground_truth_job import write_package
    from rlhf.runs.published import open_run

    with open_run(workspace, run) as found:
        for path in write_package(found.pairs, folder):
            typer.echo(path)


@labels.command()
def send(
    *,
    prefix: Annotated[str, typer.Argument(help="Where package and labels go: s3://bucket/prefix.")],
    name: Annotated[str, typer.Option(help="Name of the labeling job.")],
    role: Annotated[str, typer.Option(help="ARN of the role that the job runs as.")],
    workteam: Annotated[str, typer.Option(help="ARN of the private work team.")],
    workers: Annotated[int, typer.Option(min=1, max=9, help="People per pair.")] = 3,
    workspace: Storage = "runs",
    run: RunName = None,
) -> None:
    """Create a Ground Truth labeling job for a private work team."""
    from pydantic import ValidationError

    from rlhf.errors import UserError
    from rlhf.labeling.ground_truth_job import LabelingJob, start_job, uploaded
    from rlhf.runs.cleanup import JOBS, record_objects
    from rlhf.runs.published import open_run

    try:
        job = LabelingJob(name=name, prefix=prefix.rstrip("/"), role=role, workteam=workteam, workers=workers)
    except ValidationError as error:
        raise UserError("; ".join(f"{part['loc'][0]}: {part['msg']}" for part in error.errors())) from None
    with open_run(workspace, run) as found:
        found.store.take(found.folder, [JOBS])
        typer.echo(start_job(found.pairs, job))
        record_objects(found.folder, uploaded(job))
        found.store.share(found.folder, [JOBS])
    done = f"{job.prefix}/{job.name} --workspace {workspace} --run {found.folder.name}"
    typer.echo(f"when it is done: rlhf labels import {done}")
