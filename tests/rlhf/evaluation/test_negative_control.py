"""A negative control finds nothing more often than chance allows.

Simulated reports: the policy changed, and with it lengths and scores, but no judge has a reason to prefer either model.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rlhf.evaluation.verdict import complete, read_evidence
from rlhf.evaluation.win_rates import judge_results, outcomes
from rlhf.results.base import Share
from rlhf.results.schema import Results
from rlhf.stages.aggregate_results import aggregate_results
from tests.support.results_fixture import fake_config, fake_run

REPETITIONS = 20
SERIES = 20


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("run")
    aggregate_results(fake_config(), fake_run(root), root)
    return Results.model_validate_json((root / "results.json").read_bytes())


def simulated_control(results: Results, generator: np.random.Generator, seeds: int) -> Results:
    """The report of a run in which nothing is preferred: 100 prompts, one in ten responses equal, lengths change."""
    sft = generator.normal(size=100)
    quality = 0.1 * generator.normal(size=(seeds, 1)) + generator.normal(size=(seeds, 100))
    rlhf = np.where(generator.random((seeds, 100)) < 0.1, sft, quality)
    tokens = generator.normal(0, 6, (seeds, 100)).round()
    judge = judge_results("independent judge", "independent", outcomes(rlhf, sft), tokens).model_copy(
        update={"accuracy": Share(share=0.8, ci95=(0.71, 0.87), n=100, p_value=1e-9)}
    )
    measured = results.model_copy(update={"control": "shuffled", "judges": [judge]})
    return complete(measured, results.human_evaluation)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_control_finds_no_preference_more_often_than_chance_allows(results: Results, seeds: int) -> None:
    """In 20 repetitions at most three gains (5 % allow four or more in 1.6 % of series); in all, at most 5 %."""
    generator, findings = np.random.default_rng(1), []
    for _ in range(SERIES):
        found = 0
        for _ in range(REPETITIONS):
            control = simulated_control(results, generator, seeds)
            evidence = read_evidence(control, control.judges, control.human_evaluation, control.verdict.endpoints)
            found += evidence.judge == "for"
            assert control.verdict.headline.startswith("Negative control. ")
            assert control.verdict.tone != "better"
        findings.append(found)
    assert stats.binom.sf(3, REPETITIONS, 0.05) == pytest.approx(0.016, abs=1e-3)
    assert max(findings) <= 3
    assert sum(findings) <= 0.05 * SERIES * REPETITIONS


def test_a_preference_in_the_control_would_be_found(results: Results) -> None:
    """The same simulation with a judge that prefers the RLHF model: the test above has power."""
    generator, found = np.random.default_rng(2), 0
    for _ in range(REPETITIONS):
        sft = generator.normal(size=100)
        outcome = outcomes(sft + 1.0 + generator.normal(size=(1, 100)), sft)
        judge = judge_results("independent judge", "independent", outcome, generator.normal(0, 6, (1, 100)).round())
        accurate = Share(share=0.8, ci95=(0.71, 0.87), n=100, p_value=1e-9)
        measured = results.model_copy(update={"judges": [judge.model_copy(update={"accuracy": accurate})]})
        control = complete(measured, results.human_evaluation)
        evidence = read_evidence(control, control.judges, control.human_evaluation, control.verdict.endpoints)
        found += evidence.judge == "for"
    assert found == REPETITIONS
