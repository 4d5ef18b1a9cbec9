"""The PPO training loop: step, log, validate, save a checkpoint; and resume from one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from rlhf.runtime.distributed import all_reduce_sum, barrier
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import is_main_process, note, progress
from rlhf.runtime.trackers import log_metrics
from rlhf.storage.files import write_atomically
from rlhf.training.ppo.checkpoints import Checkpoints, TrainingState, ValidationScore
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.score_scaling import RunningStatistics
from rlhf.training.ppo.step import run_step
from rlhf.training.ppo.validation import validate

EXIT_TERMINATED = 128 + signal.SIGTERM


def train(context: PpoContext, output: Path) -> TrainingState:
    """Run all steps, from the newest checkpoint in `output` if there is one; then load the best weights.

    After SIGTERM the current step is finished, a checkpoint is saved, and the process exits with status 143.
    """
    termination = TerminationFlag()
    config, checkpoints = context.config, Checkpoints(output, context.config.keep_checkpoints)
    state = checkpoints.newest()
    metrics_log = MetricsLog(output / "metrics.jsonl", state.step if state else None, log_metrics)
    validation_log = MetricsLog(output / "validation.jsonl", state.step if state else None, log_metrics)
    if state is None:
        row = validate(context, 0)
        validation_log.write(row)
        first = ValidationScore(step=0, score=row["score"])
        state = make_state(context, 0, first=first, best=first, last=first)
        save(context, checkpoints, state)
    else:
        note(f"resuming after step {state.step} of {config.steps}")
        restore(context, checkpoints, state)

    for step in range(state.step + 1, config.steps + 1):
        row = run_step(context, step)
        metrics_log.write(row)
        progress("PPO", step, config.steps, score=row["score"], kl=row["kl"])
        best, last = state.best, state.last
        if step % config.validate_every == 0 or step == config.steps:
            row = validate(context, step)
            validation_log.write(row)
            last = ValidationScore(step=step, score=row["score"])
            best = last if last.score > best.score else best
        improved, stopping = best.step == step, termination.requested()
        state = make_state(context, step, first=state.first, best=best, last=last)
        if improved or stopping or step % config.checkpoint_every == 0 or step == config.steps:
            save(context, checkpoints, state)
        if stopping:
            note(f"stopped after step {step} of {config.steps}; run it again to resume")
            sys.exit(EXIT_TERMINATED)

    context.optimizer.load_weights(checkpoints.weights(state.best.step))
    if is_main_process():
        summary = {
            "first": state.first.score,
            "best": state.best.score,
            "last": state.last.score,
            "best_step": state.best.step,
        }
        write_atomically(output / "summary.json", json.dumps(summary, indent=2))
    return state


def make_state(
    context: PpoContext, step: int, *, first: ValidationScore, best: ValidationScore, last: ValidationScore
) -> TrainingState:
    """Everything except the tensors that the next step depends on."""
    return TrainingState(
        step=step,
        kl_coefficient=context.kl_controller.coefficient,
        score_count=context.score_statistics.count,
        score_mean=context.score_statistics.mean,
        score_m2=context.score_statistics.m2,
        first=first,
        best=best,
        last=last,
    )


def save(context: PpoContext, checkpoints: Checkpoints, state: TrainingState) -> None:
    """Write a checkpoint; every rank returns only after it is on disk."""
    weights, optimizer_state = context.optimizer.weights(), context.optimizer.state()
    if is_main_process():
        checkpoints.save(state, weights, optimizer_state)
    barrier()


def restore(context: PpoContext, checkpoints: Checkpoints, state: TrainingState) -> None:
    """Load the checkpoint of `state` into the context."""
    context.optimizer.load_weights(checkpoints.weights(state.step))
    context.optimizer.load_state(checkpoints.optimizer_state(state.step))
    context.kl_controller.coefficient = state.kl_coefficient
    context.score_statistics = RunningStatistics(count=state.score_count, mean=state.score_mean, m2=state.score_m2)


class TerminationFlag:
    """Whether any rank has received SIGTERM."""

    def __init__(self) -> None:
        self._received = False
        signal.signal(signal.SIGTERM, self._receive)

    def requested(self) -> bool:
        """The same answer on every rank; all ranks must call this together."""
        return bool(all_reduce_sum(torch.tensor([float(self._received)])).item())

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True
