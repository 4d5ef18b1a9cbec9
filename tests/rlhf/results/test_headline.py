"""The headline metrics: values of results.json, and the same list in every table."""

from __future__ import annotations

import pytest
from rich.console import Console

from flows.cli.display import results_table
from rlhf.report.run_comparison import metric_rows
from rlhf.report.summary import metrics_table
from rlhf.results.headline import headline_metrics
from rlhf.results.schema import Results
from rlhf.stages.aggregate_results import aggregate_results
from tests.support.results_fixture import fake_config, fake_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("run")
    inputs = fake_run(root)
    output = root / "results"
    output.mkdir()
    aggregate_results(fake_config(), inputs, output)
    return Results.model_validate_json((output / "results.json").read_bytes())


def test_metrics_are_those_of_results_json(results: Results) -> None:
    metrics = {metric.key: metric for metric in headline_metrics(results)}
    assert list(metrics) == ["reward", "toxicity", "loss", "length", "ended", "repetition"]
    assert metrics["reward"].sft == results.reward.sft.mean
    assert metrics["toxicity"].difference == results.toxicity.difference
    assert metrics["loss"].rlhf == results.policy_comparison.validation_loss.rlhf.mean
    assert (metrics["length"].sft, metrics["length"].rlhf) == (21.0, 23.0)
    assert metrics["repetition"].rlhf == pytest.approx(0.03)
    assert [metric.n for metric in metrics.values()] == [12, 60, 40, 12, 12, 12]
    assert metrics["loss"].title == "Validation loss, nats per token"
    assert metrics["reward"].title == "Optimized reward"


def test_every_table_lists_them(results: Results) -> None:
    metrics = headline_metrics(results)
    assert [row["metric"] for row in metrics_table(results)] == [metric.name for metric in metrics]
    compared = {row.name for row in metric_rows(results, results)}
    assert {f"{metric.title}, RLHF minus SFT" for metric in metrics} <= compared
    console = Console(width=120)
    with console.capture() as capture:
        console.print(results_table(results))
    text = capture.get()
    for metric in metrics:
        assert metric.name in text
    assert "+2.0 (+2.0 to +2.0)" in text


def test_the_table_shows_the_name_of_a_judge_as_it_is(results: Results) -> None:
    [first, *_] = results.judges
    named = results.model_copy(update={"judges": [first.model_copy(update={"name": "[/red]judge[bold]"})]})
    console = Console(width=120)
    with console.capture() as capture:
        console.print(results_table(named))
    assert "win rate by [/red]judge[bold], at equal length" in capture.get()
