"""`rlhf label`: human evaluation.  Heavy imports are inside the commands, so that help is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Storage, examples

app = typer.Typer(
    no_args_is_help=True,
    help="Let people compare the responses of both models: serve the labeling page, import answers, use Ground Truth.",
    epilog=examples("rlhf label serve --annotator Ada --annotator Grace", "rlhf label import"),
)

RunName = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="Name of the run; needed if the workspace has several.")
]


@app.command(
    rich_help_panel="Labeling page",
    epilog=examples("rlhf label serve", "rlhf label serve --host 0.0.0.0 --annotator Ada --annotator Grace"),
)
def serve(
    workspace: Storage = "runs",
    run_name: RunName = None,
    annotator: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Print a signed link for this annotator. May be repeated."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; on a public one every annotator needs a link.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="Port; 0 picks a free one.")] = 8765,
) -> None:
    """Serve the page on which people compare the responses of a run."""
    from contextlib import closing, suppress

    from rlhf.labeling.problems import first_problems
    from rlhf.labeling.server import serve as serve_page
    from rlhf.labeling.session import LabelingSession
    from rlhf.runs.published import open_run

    with (
        open_run(workspace, run_name) as run,
        closing(LabelingSession(run.pairs, run.labels)) as session,
        suppress(KeyboardInterrupt),
    ):
        for problem in first_problems(session.problems):
            typer.echo(f"note: {problem}", err=True)
        serve_page(session, host, port, annotator or ())
    typer.echo(
        f"\nanswers: {session.output}\nreport:  rlhf label import --workspace {workspace} --run {run.folder.name}"
    )


@app.command(
    "import",
    rich_help_panel="Labeling page",
    epilog=examples("rlhf label import", "rlhf label import s3://bucket/prefix/job --run hh-small --partial"),
)
def import_(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", help="Ground Truth output: file, folder or s3://... Default: the page's answers."
        ),
    ] = None,
    workspace: Storage = "runs",
    run_name: RunName = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Import valid answers and report the missing ones.")
    ] = False,
) -> None:
    """Validate and unblind labels, then update the run's report."""
    from rlhf.labeling.problems import first_problems
    from rlhf.runs.label_import import import_labels
    from rlhf.runs.published import open_run

    with open_run(workspace, run_name) as run:
        imported = import_labels(run, source, partial=partial)
    evaluation = imported.evaluation
    for problem in imported.recovered:
        typer.echo(f"note: {problem}", err=True)
    for problem in imported.rejected:
        typer.echo(f"dropped: {problem}")
    if imported.missing:
        typer.echo(f"missing: {', '.join(first_problems(imported.missing))}")
    typer.echo(f"{evaluation.labeled} of {evaluation.pairs} pairs labeled, annotators: {len(evaluation.annotators)}")
    for question in evaluation.questions:
        counts = question.pairs
        typer.echo(f"{question.question:<13} RLHF better {counts.wins}, tie {counts.ties}, SFT better {counts.losses}")
    typer.echo(f"report: {run.folder / 'report.html'}")


@app.command(rich_help_panel="SageMaker Ground Truth", epilog=examples("rlhf label package to-label --run hh-small"))
def package(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that is created.")],
    workspace: Storage = "runs",
    run_name: RunName = None,
) -> None:
    """Write manifest, template and instructions for Ground Truth or Ground Truth Plus into FOLDER."""
    from rlhf.labeling.ground_truth_job import write_package
    from rlhf.runs.published import open_run

    with open_run(workspace, run_name) as run:
        for path in write_package(run.pairs, folder):
            typer.echo(path)


@app.command(
    rich_help_panel="SageMaker Ground Truth",
    epilog=examples("rlhf label send s3://bucket/prefix --name pairs-1 --role ARN --workteam ARN"),
)
def send(
    *,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Location of package and labels: s3://bucket/prefix.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the labeling job.")],
    role: Annotated[str, typer.Option(metavar="ARN", help="ARN of the IAM role that the job assumes.")],
    workteam: Annotated[str, typer.Option(metavar="ARN", help="ARN of the private work team.")],
    workers: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=9, help="Annotators per pair.")] = 3,
    workspace: Storage = "runs",
    run_name: RunName = None,
) -> None:
    """Create a Ground Truth labeling job for a private work team."""
    from pydantic import ValidationError

    from rlhf.errors import UserError
    from rlhf.labeling.ground_truth_job import LabelingJob, start_job, uploaded_objects
    from rlhf.runs.cleanup import JOBS, record_objects
    from rlhf.runs.published import open_run

    try:
        job = LabelingJob(name=name, prefix=prefix.rstrip("/"), role=role, workteam=workteam, workers=workers)
    except ValidationError as error:
        raise UserError("; ".join(f"{part['loc'][0]}: {part['msg']}" for part in error.errors())) from error
    with open_run(workspace, run_name) as run:
        run.store.pull(run.folder, [JOBS])
        typer.echo(start_job(run.pairs, job))
        record_objects(run.folder, uploaded_objects(job))
        run.store.push(run.folder, [JOBS])
    done = f"{job.prefix}/{job.name} --workspace {workspace} --run {run.folder.name}"
    typer.echo(f"when the job has finished: rlhf label import {done}")
