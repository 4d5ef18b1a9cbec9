"""The PPO training loop: step, log, validate, save a checkpoint; and resume from one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import torch
from pydantic import BaseModel, ConfigDict

from rlhf.runtime.distributed import all_reduce_sum, barrier
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import is_main_process, note, progress
from rlhf.runtime.trackers import log_metrics
from rlhf.storage.files import write_atomically
from rlhf.training.ppo.checkpoints import Checkpoints, TrainingState
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.score_scaling import RunningStatistics
from rlhf.training.ppo.selection import Rejected, select_checkpoint
from rlhf.training.ppo.step import KlLimitError, run_step
from rlhf.training.ppo.validation import ValidationLog, validate

EXIT_TERMINATED = 128 + signal.SIGTERM


class EarlyStop(BaseModel):
    """Why PPO ended before its last step."""

    model_config = ConfigDict(frozen=True)
    step: int
    """The step whose rollouts had this KL; it did not train."""
    kl: float
    """Mean KL of the rollouts to the reference, in nats per response."""
    max_kl: float


class Summary(BaseModel):
    """Content of `summary.json`."""

    model_config = ConfigDict(frozen=True)
    first: float
    """Mean validation score of the SFT model."""
    best: float
    """Mean validation score of the final model."""
    last: float
    """Mean validation score at the last validation."""
    best_step: int
    """Step of the final model; 0 is the SFT model."""
    stopped_early: EarlyStop | None
    rejected: tuple[Rejected, ...]
    """Validated checkpoints outside the bounds of `ppo.selection`, in order."""


def train(context: PpoContext, output: Path) -> Summary:
    """Run all steps, from the newest checkpoint in `output` if there is one; then load the best weights.

    Ends early if the KL of a step's rollouts exceeds `ppo.max_kl`.
    After SIGTERM the current step is finished, a checkpoint is saved, and the process exits with status 143.
    """
    termination = TerminationFlag()
    config, checkpoints = context.config, Checkpoints(output, context.config.keep_checkpoints)
    state = checkpoints.newest()
    metrics_log = MetricsLog(output / "metrics.jsonl", state.step if state else None, log_metrics)
    validation_log = ValidationLog(output, state.step if state else None)
    if state is None:
        validation = validate(context, 0)
        validation_log.write(validation)
        state = make_state(context, 0, (validation.row,))
        save(context, checkpoints, state)
    else:
        note(f"resuming after step {state.step} of {config.steps}")
        restore(context, checkpoints, state)

    stopped_early = None
    for step in range(state.step + 1, config.steps + 1):
        try:
            row = run_step(context, step)
        except KlLimitError as error:
            stopped_early = EarlyStop(step=step, kl=error.kl, max_kl=config.max_kl)
            note(
                f"PPO ended before step {step} of {config.steps}: the KL of its rollouts is {error.kl:.3g} nats per "
                f"response, ppo.max_kl is {config.max_kl:g}; the final model is that of step {state.best_step}"
            )
            break
        metrics_log.write(row)
        progress("PPO", step, config.steps, score=row["score"], kl=row["kl"])
        validations = state.validations
        if step % config.validate_every == 0 or step == config.steps:
            validation = validate(context, step)
            validation_log.write(validation)
            validations += (validation.row,)
        state, stopping = make_state(context, step, validations), termination.requested()
        if state.best_step == step or stopping or step % config.checkpoint_every == 0 or step == config.steps:
            save(context, checkpoints, state)
        if stopping:
            note(f"stopped after step {step} of {config.steps}; run it again to resume")
            sys.exit(EXIT_TERMINATED)

    context.optimizer.load_weights(checkpoints.weights(state.best_step))
    best, rejected = select_checkpoint(state.validations, config.selection)
    summary = Summary(
        first=state.validations[0]["score"],
        best=best["score"],
        last=state.validations[-1]["score"],
        best_step=state.best_step,
        stopped_early=stopped_early,
        rejected=rejected,
    )
    if is_main_process():
        write_atomically(output / "summary.json", json.dumps(summary.model_dump(), indent=2))
    return summary


def make_state(context: PpoContext, step: int, validations: tuple[dict[str, float], ...]) -> TrainingState:
    """Everything except the tensors that the next step and the final selection depend on."""
    return TrainingState(
        step=step,
        kl_coefficient=context.kl_controller.coefficient,
        score_count=context.score_statistics.count,
        score_mean=context.score_statistics.mean,
        score_m2=context.score_statistics.m2,
        validations=validations,
        best_step=int(select_checkpoint(validations, context.config.selection).best["step"]),
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
