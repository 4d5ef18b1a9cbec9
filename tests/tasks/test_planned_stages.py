"""Each stage of a finished run with what it was planned to take."""

from __future__ import annotations

from pathlib import Path

from rlhf.profiles import load_profile
from rlhf.results.schema import StageRow
from tasks.publish import with_plan
from tasks.stage import Run


def test_each_step_that_a_plan_knows_stands_beside_it(tmp_path: Path) -> None:
    rows = [
        StageRow(name=name, seconds=1.0, cached=False, fingerprint="ab", device="cpu")
        for name in ("train_ppo", "score_toxicity[rlhf]", "something_new")
    ]
    run = Run(load_profile("quickstart"), tmp_path)
    planned = [row.planned_seconds for row in with_plan(run, rows)]
    assert all(planned[:2])
    assert planned[2] is None
    (tmp_path / "bench.json").write_text("not JSON")
    assert [row.planned_seconds for row in with_plan(run, rows)] == [None] * 3
