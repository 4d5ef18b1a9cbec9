"""The stages of a finished run get their planned times."""

from __future__ import annotations

from pathlib import Path

from rlhf.profiles import load_profile
from rlhf.results.schema import StageRow
from tasks.publish import add_planned_seconds
from tasks.run import Run


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
