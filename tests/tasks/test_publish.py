"""What the Prefect UI shows of a finished run: the same metrics, stages and plots as the report."""

from __future__ import annotations

import base64
import json
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run

from rlhf.report.plot_images import image_uri
from rlhf.report.summary import summary
from rlhf.results.policy_comparison import RewardHackingSign
from rlhf.results.schema import ReportData, Results
from rlhf.runs.published import read_report_data
from rlhf.stages.aggregate_results import aggregate_results
from tasks.publish import show
from tests.support.results_fixture import fake_config, fake_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, ReportData]:
    root = tmp_path_factory.mktemp("run")
    output = root / "results"
    inputs = fake_run(root)
    output.mkdir()
    aggregate_results(fake_config(), inputs, output)
    return Results.model_validate_json((output / "results.json").read_bytes()), read_report_data(output)


@pytest.mark.usefixtures("prefect_server")
def test_tables_and_plots_are_artifacts(finished: tuple[Results, ReportData]) -> None:
    results, report_data = finished

    @flow(name="publishing")
    def publishing() -> str:
        show(results, report_data)
        return str(flow_run.id)

    of_this_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(publishing())]))
    with get_client(sync_client=True) as client:
        artifacts: list[Artifact] = client.read_artifacts(artifact_filter=of_this_run)
    by_key = {artifact.key: artifact for artifact in artifacts}
    assert {key for key in by_key if key and key.startswith("plot-")} == {
        "plot-optimized-reward-and-independent-judge",
        "plot-reward",
        "plot-kl-to-the-sft-model",
        "plot-response-length",
        "plot-toxicity-of-the-continuations",
        "plot-change-in-toxicity-from-sft-to-rlhf",
        "plot-calibration-of-the-reward-model",
    }
    assert "the RLHF model is less toxic" in results.verdict.headline
    assert str(by_key["results"].data).startswith(f"# {results.verdict.headline}\n")
    metrics, stages = (json.loads(str(by_key[key].data)) for key in ("metrics", "stages"))
    assert metrics[0]["metric"] == "optimized reward"
    assert float(metrics[0]["RLHF"]) == pytest.approx(results.reward.rlhf.mean, rel=1e-3)
    assert [row["stage"] for row in stages] == [stage.name for stage in results.stages]
    assert stages[0]["time"] == "3.5 s"


def test_an_image_of_a_plot_needs_no_other_file(finished: tuple[Results, ReportData]) -> None:
    for plot in finished[1].training:
        kind, _, content = image_uri(plot).partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(content).decode()
        assert "var(" not in svg
        assert svg.startswith('<svg width="640" height="')
        assert 'xmlns="http://www.w3.org/2000/svg"' in svg


def test_the_summary_names_signs_of_reward_hacking(finished: tuple[Results, ReportData]) -> None:
    results, _ = finished
    sign = RewardHackingSign(metric="KL", value=90.0, limit=25.0, text="Far away.")
    assert "- **KL**: Far away." in summary(results.model_copy(update={"reward_hacking_signs": [sign]}))
    assert "reward hacking" not in summary(results)
    assert summary(results).count("\n| ") == 8  # head, rule and six metrics
