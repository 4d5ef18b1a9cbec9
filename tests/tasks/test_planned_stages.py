"""`rlhf plan` plans the stages that the pipeline runs, and the stages of a finished run get their planned times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.planning.machines import find_machine
from rlhf.planning.plan import plan_run
from rlhf.profiles import load_profile
from rlhf.results.schema import StageRow
from rlhf.stage_config import JudgeStage, part_of
from tasks.publish import add_planned_seconds
from tasks.run import Run
from tests.support.unstarted_pipeline import submit_pipeline

PLAIN = ("data.judge_share=0", "evaluation.best_of=1", "evaluation.questions=null")
SERVER = ("judge.llm.url=http://127.0.0.1:8000/v1", "judge.llm.model=m")


@pytest.mark.parametrize(
    ("profile", "overrides"),
    [
        ("quickstart", ()),
        ("quickstart", PLAIN),
        ("quickstart", ("ppo.seeds=3", "judge.model={folder}", "judge.llm.path={folder}")),
        ("quickstart", (*SERVER, "data.judge_share=0", "judge.model={folder}")),
        ("gptj-6b", ("seed=7", "ppo.seeds=4", "evaluation.best_of=1", "judge.training.batch_size=64")),
        ("gptj-6b-trlx", SERVER),
    ],
)
def test_the_plan_has_the_stages_of_the_pipeline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, overrides: tuple[str, ...]
) -> None:
    """Same names in the same order; the judge is planned with the settings that its stage gets."""
    folder = tmp_path / "model"
    folder.mkdir()
    sizes = {"model_type": "gptj", "n_embd": 64, "n_layer": 2, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(sizes))
    config = load_profile(profile, [override.format(folder=folder) for override in overrides])
    submitted = submit_pipeline(monkeypatch, config, tmp_path / "runs")

    plan = plan_run(config, find_machine("p4d.24xlarge"), {})
    assert [stage.name for stage in plan.stages] == submitted.published
    assert sorted(submitted.published) == sorted(submitted.jobs)
    judge_settings = [job.request.config for label, job in submitted.jobs.items() if label == "train_judge"]
    judge = plan.scenario.judge
    assert judge_settings == ([] if judge is None else [part_of(judge.config, JudgeStage).model_dump(mode="json")])


def test_stages_that_the_plan_knows_get_their_planned_time(tmp_path: Path) -> None:
    rows = [
        StageRow(name=name, seconds=1.0, cached=False, fingerprint="ab", device="cpu")
        for name in ("train_ppo", "score_toxicity[rlhf]", "something_new")
    ]
    run = Run(load_profile("quickstart"), tmp_path)
    planned = [row.planned_seconds for row in add_planned_seconds(run, rows)]
    assert all(planned[:2])
    assert planned[2] is None
    (tmp_path / "bench.json").write_text("not JSON")
    assert [row.planned_seconds for row in add_planned_seconds(run, rows)] == [None] * 3
