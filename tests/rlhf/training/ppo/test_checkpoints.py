"""Checkpoints are complete or missing, and restore the run exactly."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rlhf.training.checkpoint_record import RECORD
from rlhf.training.ppo.checkpoints import OPTIMIZER_STATE, STATE, WEIGHTS, Checkpoints, TrainingState
from rlhf.training.ppo.optimizer import Optimizer, assign_owners
from tests.support.damage import flip_a_bit, replace_by_pipe

WEIGHT = {"weight": torch.tensor([1 / 3, 2.0])}


def state(step: int, best_step: int = 0) -> TrainingState:
    return TrainingState(
        step=step,
        kl_coefficient=0.1 + 0.2,
        score_count=3,
        score_mean=1 / 3,
        score_m2=1e-17,
        validations=({"step": 0, "score": 0.1 + 0.2, "kl": math.inf},),
        best_step=best_step,
    )


def saved_steps(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_a_checkpoint_restores_every_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(7, best_step=7), WEIGHT, {"exp_avg.weight": torch.tensor([0.1])})
    assert checkpoints.newest() == state(7, best_step=7)
    assert torch.equal(checkpoints.weights(7)["weight"], WEIGHT["weight"])
    assert torch.equal(checkpoints.optimizer_state(7)["exp_avg.weight"], torch.tensor([0.1]))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        checkpoints.save(state(step, best_step=20 if step >= 20 else 0), WEIGHT, {})
    assert saved_steps(tmp_path) == ["step-000020", "step-000030", "step-000040"]


def test_there_is_no_newest_checkpoint_before_the_first(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, keep=2).newest() is None


def three_checkpoints(output: Path) -> Checkpoints:
    """Checkpoints after steps 0, 1 and 2; step 0 is the best."""
    checkpoints = Checkpoints(output, keep=2)
    for step in range(3):
        checkpoints.save(state(step), WEIGHT, {"exp_avg.weight": torch.tensor([0.1])})
    return checkpoints


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "torn": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped bit": flip_a_bit,
    "pipe": replace_by_pipe,
    "of another step": lambda path: shutil.copyfile(path.parents[1] / "step-000001" / path.name, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [WEIGHTS, OPTIMIZER_STATE, STATE, RECORD])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    checkpoints = three_checkpoints(tmp_path)
    DAMAGES[damage](tmp_path / "checkpoints" / "step-000002" / file)
    if damage == "of another step" and file in (WEIGHTS, OPTIMIZER_STATE):
        assert checkpoints.newest() == state(2)  # the same content
        return
    assert checkpoints.newest() == state(1)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("@note")]
    if file != RECORD:  # without its record, a checkpoint is one that was never completed
        [line] = notes
        assert f"step-000002: this checkpoint is damaged ({file} " in line
        assert saved_steps(tmp_path) == ["step-000000", "step-000001"]
    checkpoints.save(state(2), WEIGHT, {})
    assert checkpoints.newest() == state(2)


def test_without_the_best_checkpoint_the_run_goes_back_to_before_it_was_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are the result if no later step is better; training would end without them."""
    checkpoints = Checkpoints(tmp_path, keep=4)
    for step, best_step in ((0, 0), (1, 0), (2, 2), (3, 2)):
        checkpoints.save(state(step, best_step), WEIGHT, {})
    flip_a_bit(tmp_path / "checkpoints" / "step-000002" / WEIGHTS)
    assert checkpoints.newest() == state(1)
    assert "step-000003: not used, because the best checkpoint of that time, step 2, is" in capsys.readouterr().out


def test_without_any_intact_checkpoint_the_run_starts_again_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(0), WEIGHT, {})
    flip_a_bit(tmp_path / "checkpoints" / "step-000000" / WEIGHTS)
    assert checkpoints.newest() is None
    assert "no intact checkpoint is left; the training starts again" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    three_checkpoints(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    assert Checkpoints(tmp_path / "other", keep=2).newest() is None
    assert Checkpoints(tmp_path / "one", keep=2).newest() == state(2)


@pytest.mark.parametrize("name", ["step-x", "step-", "step-9", "step-000009", "step-" + 200 * "9"])
def test_other_names_do_not_count(tmp_path: Path, name: str) -> None:
    checkpoints = three_checkpoints(tmp_path)
    shutil.copytree(tmp_path / "checkpoints" / "step-000002", tmp_path / "checkpoints" / name)
    assert checkpoints.newest() == state(2)


def test_a_half_written_checkpoint_does_not_count_and_is_written_again(tmp_path: Path) -> None:
    partial = tmp_path / "checkpoints" / ".step-000003.new"
    partial.mkdir(parents=True)
    (partial / WEIGHTS).write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    checkpoints.save(state(3, best_step=3), WEIGHT, {})
    assert checkpoints.newest() == state(3, best_step=3)
    assert saved_steps(tmp_path) == ["step-000003"]


def optimizer_of(parameter: nn.Parameter) -> Optimizer:
    return Optimizer(
        {"weight": parameter}, learning_rate=0.1, betas=(0.9, 0.95), weight_decay=0.1, max_gradient_norm=1.0
    )


def give_gradient(parameter: nn.Parameter, gradient: list[float]) -> None:
    (parameter * torch.tensor(gradient, dtype=parameter.dtype)).sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_continues_exactly_as_the_saved_one(tmp_path: Path, dtype: torch.dtype) -> None:
    first = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    optimizer = optimizer_of(first)

    def take_step(parameter: nn.Parameter, stepping: Optimizer, gradient: float) -> None:
        give_gradient(parameter, [gradient, -gradient])
        stepping.step()

    take_step(first, optimizer, 0.3)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(1), optimizer.weights(), optimizer.state())
    take_step(first, optimizer, -0.7)

    second = nn.Parameter(torch.zeros(2, dtype=dtype))
    resumed = optimizer_of(second)
    resumed.load_weights(checkpoints.weights(1))
    resumed.load_state(checkpoints.optimizer_state(1))
    take_step(second, resumed, -0.7)
    assert torch.equal(first, second)
    assert torch.equal(optimizer.weights()["weight"], resumed.weights()["weight"])


def test_an_optimizer_step_by_hand() -> None:
    """Gradient 3, 4 has norm 5, clipped to 1: after decay, Adam's first step is minus learning rate times sign."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = optimizer_of(parameter)
    give_gradient(parameter, [3.0, -4.0])
    assert optimizer.step().item() == pytest.approx(5.0)
    assert parameter.tolist() == pytest.approx([1.0 * 0.99 - 0.1, -2.0 * 0.99 + 0.1], abs=1e-6)
    assert optimizer.state()["exp_avg.weight"].tolist() == pytest.approx([0.1 * 0.6, -0.1 * 0.8], abs=1e-6)
    assert parameter.grad is None


def test_parameters_are_assigned_evenly_the_largest_first() -> None:
    """7 to rank 0, 5 and 1 to rank 1, 4 and 2 to rank 2."""
    assert assign_owners({"a": 1, "b": 5, "c": 7, "d": 4, "e": 2}, 3) == {"c": 0, "b": 1, "d": 2, "e": 2, "a": 1}
    assert assign_owners({"a": 1, "b": 5}, 1) == {"a": 0, "b": 0}
