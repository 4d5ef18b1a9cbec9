"""Complete a run's report once people have labeled its pairs: by hand, every hour, or on an event."""

from __future__ import annotations

from prefect import flow, task
from prefect.logging import get_run_logger

from rlhf.runs.label_import import IncompleteError, import_labels
from rlhf.runs.published import find_run, open_run


@flow(name="collect-labels")
def collect_labels(
    workspace: str = "runs", run: str | None = None, source: str | None = None, partial: bool = False
) -> str:
    """Import labels where there are any, and write the report again; nothing else of the run runs again.

    Args:
        workspace: Folder of artifacts and results, or s3://bucket/prefix.
        run: Name of the run; needed where there are several.
        source: Output manifest, its folder, or s3://...; without it, the answers of the labelling page.
        partial: Take what is good; otherwise the report waits until every pair is labeled.

    Returns:
        The status of human evaluation: pending, partial or complete.
    """
    found = find_run(workspace, run)
    if source is None and not found.labels.is_dir():
        get_run_logger().info("nobody has labeled %s yet", found.folder.name)
        return found.results.human_evaluation.status
    return read_labels(workspace, found.folder.name, source, partial)


@task(retries=2, retry_delay_seconds=10, persist_result=False)
def read_labels(workspace: str, run: str, source: str | None, partial: bool) -> str:
    """Read the labels, from S3 perhaps, and complete the report; returns the status of human evaluation."""
    with open_run(workspace, run) as found:
        try:
            evaluation = import_labels(found, source, partial=partial).evaluation
        except IncompleteError as error:
            get_run_logger().info("the report waits: %s", error)
            return found.results.human_evaluation.status
    get_run_logger().info("%d of %d pairs labeled", evaluation.labeled, evaluation.items)
    return evaluation.status
