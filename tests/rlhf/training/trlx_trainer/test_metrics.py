"""trlx's metrics become rows of ours; checkpoints are complete or missing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rlhf.runtime.metrics_log import MetricsLog
from rlhf.training.trlx_trainer.checkpoints import Checkpoints, RunningStatistics, TrlxState
from rlhf.training.trlx_trainer.metrics import ResponseBatch, rollout_metrics, truncate_at_eos, update_metrics

EOS = 0


def test_a_response_ends_with_its_first_eos() -> None:
    assert truncate_at_eos([5, 6, EOS, EOS, EOS], EOS) == [5, 6, EOS]
    assert truncate_at_eos([5, 6, 7], EOS) == [5, 6, 7]
    assert truncate_at_eos([EOS, EOS], EOS) == [EOS]


def test_metrics_of_responses_by_hand() -> None:
    responses = ResponseBatch([[5, 6, EOS], [1, 2, 3, 1, 2, 3, 1, 2]], prompt_tokens=7, scores=[1.0, -2.0])
    # the second has 6 n-grams of 3, of which 123, 231, 312 come first and three return
    assert responses.metrics(EOS) == {"score": -0.5, "response_tokens": 5.5, "truncated_share": 0.5, "repetition": 0.25}


def test_trlx_logs_the_square_root_of_the_kl() -> None:
    assert rollout_metrics({"policy/sqrt_kl": 1.5, "kl_ctl_value": 0.05}) == {"kl": 2.25, "kl_coefficient": 0.05}


def test_training_metrics_are_means_over_updates() -> None:
    updates = [
        {"losses/policy_loss": 1.0, "losses/value_loss": 2.0, "policy/clipfrac": 0.0, "values/clipfrac": 0.5},
        {"losses/policy_loss": 3.0, "losses/value_loss": 0.0, "policy/clipfrac": 0.2, "values/clipfrac": 0.5},
    ]
    found = update_metrics(updates)
    assert found == {"policy_loss": 2, "value_loss": 1, "policy_clip_fraction": 0.1, "value_clip_fraction": 0.5}


def test_a_resumed_run_neither_duplicates_nor_loses_a_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, None)
    for step in (1, 2, 3):
        log.write({"step": step})
    path.write_text(path.read_text() + '{"step": 4, "cut')
    MetricsLog(path, 2).write({"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def state(iteration: int, best_step: int) -> TrlxState:
    running_statistics = RunningStatistics(mean=0.5, std=1.5, var=2.25, count=16)
    return TrlxState(
        iteration=iteration,
        kl_coefficient=0.04,
        running_statistics=running_statistics,
        first=0,
        best=1,
        best_step=best_step,
    )


def test_only_complete_checkpoints_count_and_old_ones_are_deleted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    weights = {"weight": torch.arange(3.0)}
    for iteration in (8, 16, 24):
        checkpoints.folder(iteration).mkdir(parents=True)
        checkpoints.save_best(iteration, weights)
        checkpoints.finish(state(iteration, best_step=16 if iteration > 8 else 8))
    checkpoints.folder(32).mkdir()  # torn: killed before its state was written
    found = checkpoints.newest()
    assert found == (checkpoints.folder(24), state(24, best_step=16))
    kept = sorted(path.name for path in checkpoints.root.iterdir())
    assert kept == ["best-16.safetensors", "step-00000016", "step-00000024", "step-00000032"]
    assert torch.equal(checkpoints.load_best(16)["weight"], weights["weight"])


def test_tied_weights_can_be_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.root.mkdir()
    tied = torch.ones(2, 2)
    checkpoints.save_best(0, {"wte": tied, "lm_head": tied})
    assert torch.equal(checkpoints.load_best(0)["lm_head"], tied)
