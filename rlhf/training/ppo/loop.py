"""The PPO run: step after step, measured, saved and resumed."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from rlhf.runtime.distributed import sum_over_processes, wait_for_all
from rlhf.runtime.metrics_log import StepLog
from rlhf.runtime.stage import is_main_process, note, progress
from rlhf.runtime.trackers import track
from rlhf.storage.files import write_atomically
from rlhf.training.ppo.checkpoints import Checkpoints, Measured, State
from rlhf.training.ppo.context import Run
from rlhf.training.ppo.score_scaling import RunningMoments
from rlhf.training.ppo.step import run_step
from rlhf.training.ppo.validation import validate

EXIT_TERMINATED = 128 + signal.SIGTERM


def train(run: Run, output: Path) -> State:
    """Take all steps, from the newest checkpoint in `output` where there is one; afterwards the policy is the best one.

    A TERM signal ends the process with status 143 after the step that it comes in and a checkpoint.
    """
    stop = StopRequest()
    config, checkpoints = run.config, Checkpoints(output, run.config.keep_checkpoints)
    state = checkpoints.newest()
    metrics = StepLog(output / "metrics.jsonl", state.step if state else None, track)
    measurements = StepLog(output / "validation.jsonl", state.step if state else None, track)
    if state is None:
        row = validate(run, 0)
        measurements.write(row)
        measured = Measured(step=0, score=row["score"])
        state = snapshot(run, 0, first=measured, best=measured, last=measured)
        save(run, checkpoints, state)
    else:
        note(f"going on after step {state.step} of {config.steps}")
        restore(run, checkpoints, state)

    for step in range(state.step + 1, config.steps + 1):
        row = run_step(run, step)
        metrics.write(row)
        progress("PPO", step, config.steps, reward=row["score"], kl=row["kl"])
        best, last = state.best, state.last
        if step % config.validate_every == 0 or step == config.steps:
            row = validate(run, step)
            measurements.write(row)
            last = Measured(step=step, score=row["score"])
            best = last if last.score > best.score else best
        improved, stopping = best.step == step, stop.requested()
        state = snapshot(run, step, first=state.first, best=best, last=last)
        if improved or stopping or step % config.checkpoint_every == 0 or step == config.steps:
            save(run, checkpoints, state)
        if stopping:
            note(f"stopped after step {step} of {config.steps}; the next run goes on from here")
            sys.exit(EXIT_TERMINATED)

    run.optimizer.load_weights(checkpoints.weights(state.best.step))
    if is_main_process():
        summary = {
            "first": state.first.score,
            "best": state.best.score,
            "last": state.last.score,
            "best_step": state.best.step,
        }
        write_atomically(output / "summary.json", json.dumps(summary, indent=2))
    return state


def snapshot(run: Run, step: int, *, first: Measured, best: Measured, last: Measured) -> State:
    """Everything but the tensors that the next step depends on."""
    return State(
        step=step,
        kl_coefficient=run.kl.coefficient,
        score_count=run.scores.count,
        score_mean=run.scores.mean,
        score_squares=run.scores.squares,
        first=first,
        best=best,
        last=last,
    )


def save(run: Run, checkpoints: Checkpoints, state: State) -> None:
    """Write a checkpoint; every process goes on when it is on the disk."""
    weights, moments = run.optimizer.weights(), run.optimizer.moments()
    if is_main_process():
        checkpoints.save(state, weights, moments)
    wait_for_all()


def restore(run: Run, checkpoints: Checkpoints, state: State) -> None:
    """Put the run where it was when `state` was saved."""
    run.optimizer.load_weights(checkpoints.weights(state.step))
    run.optimizer.load_moments(checkpoints.moments(state.step))
    run.kl.coefficient = state.kl_coefficient
    run.scores = RunningMoments(count=state.score_count, mean=state.score_mean, squares=state.score_squares)


class StopRequest:
    """Whether any process was asked to end."""

    def __init__(self) -> None:
        self._received = False
        signal.signal(signal.SIGTERM, self._receive)

    def requested(self) -> bool:
        """The same answer on every process, which all ask together."""
        return bool(sum_over_processes(torch.tensor([float(self._received)])).item())

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True
