"""Complete a run's report after people have labeled its pairs.  Runs manually, hourly or on an event."""

from __future__ import annotations

from prefect import flow, task
from prefect.logging import get_run_logger

from rlhf.runs.label_import import IncompleteError, import_labels
from rlhf.runs.published import find_run, open_run


@flow(name="collect-labels")
def collect_labels(
    workspace: str = "runs", run: str | None = None, source: str | None = None, partial: bool = False
) -> str:
    """Import labels, if there are any, and update the report of a run.  No stage runs again.

    Args:
        workspace: Folder of artifacts and results, or s3://bucket/prefix.
        run: Name of the run.  Optional if the workspace has only one.
        source: Output manifest of Ground Truth, its folder or s3://...  Default: the answers from the labeling page.
        partial: Import valid answers now.  By default the report waits until every pair is labeled.

    Returns:
        The status of human evaluation: pending, partial or complete.
    """
    finished_run = find_run(workspace, run)
    if source is None and not finished_run.labels.is_dir():
        get_run_logger().info("Nobody has labeled %s yet", finished_run.folder.name)
        return finished_run.results.human_evaluation.status
    return read_labels(workspace, finished_run.folder.name, source, partial)


@task(retries=2, retry_delay_seconds=10, persist_result=False)
def read_labels(workspace: str, run: str, source: str | None, partial: bool) -> str:
    """Import the labels and update the report; returns the status of human evaluation."""
    with open_run(workspace, run) as finished_run:
        try:
            imported = import_labels(finished_run, source, partial=partial)
        except IncompleteError as error:
            get_run_logger().info("The report waits until every pair is labeled: %s", error)
            return finished_run.results.human_evaluation.status
    for problem in imported.recovered:
        get_run_logger().warning("%s", problem)
    evaluation = imported.evaluation
    get_run_logger().info("%d of %d pairs labeled", evaluation.labeled, evaluation.pairs)
    return evaluation.status
