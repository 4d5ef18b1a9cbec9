"""PPO by trlx: its trainer, with unchanged computation, on our prompts, reward, files and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
import trlx
from accelerate.utils import gather_object
from trlx.data.configs import TRLConfig
from trlx.trainer import register_trainer
from trlx.trainer.accelerate_ppo_trainer import AcceleratePPOTrainer
from trlx.utils.modeling import logprobs_of_labels

from rlhf.config import PpoConfig
from rlhf.errors import UserError
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import is_main_process, note, progress
from rlhf.runtime.throughput import throughput_metrics
from rlhf.training.trlx_trainer.batching import PromptRow, pad_to_full_chunks
from rlhf.training.trlx_trainer.checkpoints import RunningStatistics, TrlxState
from rlhf.training.trlx_trainer.metrics import ResponseBatch, rollout_metrics, truncate_at_eos, update_metrics
from rlhf.training.trlx_trainer.trainer_mixin import RecordingMixin, Resumable
from rlhf.training.trlx_trainer.trlx_config import updates_per_step
from rlhf.training.trlx_trainer.versions import check_reference_matches

Reward = Callable[[list[str], list[str], list[float]], list[float]]
"""Scores of prompts, responses and their baselines."""


@dataclass
class PpoRun(Resumable):
    """What the trainer needs in addition to its TRLConfig."""

    config: PpoConfig
    seed: int
    metrics: MetricsLog
    validation_log: MetricsLog


@register_trainer
class PpoTrainer(RecordingMixin, AcceleratePPOTrainer):  # type: ignore[misc]  # trlx is not type-checked
    """trlx's PPO trainer, which also records metrics."""

    run: PpoRun

    def __init__(self, config: TRLConfig, *, run: PpoRun, **arguments: Any) -> None:
        super().__init__(config, **arguments)
        self.begin_recording(run)
        self.reward: Reward = arguments["reward_fn"]
        self.reward_fn = self.score
        self.responses = ResponseBatch()
        self.row: dict[str, float] = {}
        self.updates: list[dict[str, float]] = []
        self.seconds: dict[str, float] = {}
        self.score_seconds = 0.0
        self.updates_began = 0.0
        self.validation = run.resumed or TrlxState(iteration=0)
        if run.resumed is not None and run.resumed.running_statistics is not None:
            self.kl_ctl.value = run.resumed.kl_coefficient
            for name, value in run.resumed.running_statistics:
                setattr(self.running_moments, name, value)

    @property
    def step(self) -> int:
        """Number of finished PPO steps."""
        done: int = self.iter_count // updates_per_step(self.run.config)
        return done

    def prepare_learning(self) -> None:
        """Check the reference model, then generate the first rollouts."""
        self.iter_count = self.run.iteration
        if self.run.resumed is None:
            gap = self.reference_gap()
            check_reference_matches(gap, transformers.__version__)
            note(f"policy and reference agree before training: log-probabilities differ by at most {gap:.1g} nats")
        super().prepare_learning()

    @torch.no_grad()
    def reference_gap(self) -> float:
        """Largest difference between policy and reference in a token's log-probability, on validation prompts."""
        batch = next(iter(self.eval_pipeline.create_loader(self.config.method.chunk_size)))
        ids, mask = (batch[name].to(self.accelerator.device) for name in ("input_ids", "attention_mask"))
        positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1)
        logits, *_ = self.model(ids, attention_mask=mask, position_ids=positions)
        reference = self.model.forward_hydra(ids, attention_mask=mask, position_ids=positions, return_dict=True).logits
        policy_logprob, reference_logprob = (
            logprobs_of_labels(scores[:, :-1], ids[:, 1:]) for scores in (logits, reference)
        )
        gap = ((policy_logprob - reference_logprob).abs() * mask[:, :-1] * mask[:, 1:]).max()
        return float(gap)

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        """Generate responses of a rollout, and record them for the metrics."""
        started = time.monotonic()
        samples = super().generate(input_ids, attention_mask, **options)
        self.seconds["generate"] = self.seconds.get("generate", 0.0) + time.monotonic() - started
        self.record_responses(input_ids, attention_mask, samples)
        return samples

    def generate_eval(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        """Generate responses for validation."""
        samples = super().generate_eval(input_ids, attention_mask, **options)
        self.record_responses(input_ids, attention_mask, samples)
        return samples

    def record_responses(self, input_ids: Any, attention_mask: Any, samples: Any) -> None:
        """Collect the generated tokens of all ranks."""
        rows = [truncate_at_eos(ids, self.tokenizer.eos_token_id) for ids in samples[:, input_ids.shape[1] :].tolist()]
        lengths = [int(attention_mask.sum())]
        if self.accelerator.num_processes > 1:
            rows, lengths = gather_object(rows), gather_object(lengths)
        self.responses.token_ids += rows
        self.responses.prompt_tokens += sum(lengths)

    def score(
        self, *, prompts: list[str], outputs: list[str], baseline: list[float], **_metadata: object
    ) -> list[float]:
        """Score responses; trlx calls this on the main rank only."""
        started = time.monotonic()
        end = self.tokenizer.eos_token
        scores: list[float] = self.reward(prompts, [output.removesuffix(end) for output in outputs], baseline)
        self.responses.scores += scores
        self.score_seconds += time.monotonic() - started
        return scores

    def make_experience(self, num_rollouts: int = 1024, iter_count: int = 0) -> None:
        """Generate the rollouts of a PPO step, and start its row of metrics."""
        self.responses, self.seconds, self.score_seconds = ResponseBatch(), {}, 0.0
        started = time.monotonic()
        super().make_experience(num_rollouts, iter_count)
        total_seconds = time.monotonic() - started
        self.seconds |= {
            "score": self.score_seconds,
            "evaluate": total_seconds - self.seconds["generate"] - self.score_seconds,
            "train": 0.0,
        }
        self.row["reward"] = fmean(float(rollout.rewards.sum()) for rollout in self.store.history)
        self.updates, self.updates_began = [], time.monotonic()

    def record_rollouts(self, stats: dict[str, Any]) -> None:
        """Record the metrics of rollouts, before training on them."""
        if "policy/sqrt_kl" in stats and is_main_process():
            self.row = {**self.responses.metrics(self.tokenizer.eos_token_id), **rollout_metrics(stats)}
            self.check_kl()

    def check_kl(self) -> None:
        """Raise UserError if the KL exceeds its limit or is NaN."""
        if not self.row["kl"] <= self.run.config.max_kl:
            raise UserError(
                f"step {self.step + 1}: the KL to the reference is {self.row['kl']:.3g} nats per response, ppo.max_kl "
                f"is {self.run.config.max_kl:g}; the last good checkpoint is kept; lower ppo.learning_rate or raise "
                "ppo.kl_coefficient"
            )

    def record_update(self, stats: dict[str, Any], step: int) -> None:
        """Record the metrics of an optimizer step; after the last one of a PPO step, write the row."""
        self.seconds["train"] += time.monotonic() - self.updates_began
        self.updates_began = time.monotonic()
        self.updates.append(stats)
        config = self.run.config
        if step % updates_per_step(config) or not is_main_process():
            return
        tokens = sum(map(len, self.responses.token_ids))
        row = {
            "step": self.step,
            **self.row,
            "sequence_tokens": (self.responses.prompt_tokens + tokens) / config.rollouts_per_step,
            **update_metrics(self.updates),
            **throughput_metrics(
                self.seconds,
                response_tokens=tokens,
                sequence_tokens=self.responses.prompt_tokens + tokens,
                epochs=config.epochs,
                rollouts=config.rollouts_per_step,
            ),
        }
        for name in ("policy_loss", "value_loss"):
            if not math.isfinite(row[name]):
                raise UserError(
                    f"step {self.step}: {name} is {row[name]:g}; the last good checkpoint is kept; "
                    "lower ppo.learning_rate"
                )
        self.run.metrics.write(row)
        progress("PPO", self.step, config.steps, score=row["score"], kl=row["kl"])

    def validate(self) -> dict[str, float]:
        """Score responses to the validation prompts, always with the same seed; save the weights if they are best."""
        started, rollout_responses, self.responses = time.monotonic(), self.responses, ResponseBatch()
        with torch.random.fork_rng():
            torch.manual_seed(self.run.seed + self.accelerator.process_index)
            super(RecordingMixin, self).evaluate()
        best = self.update_best(self.responses) if is_main_process() else False
        if self.accelerator.num_processes > 1:
            best = any(gather_object([best]))
        if best:
            weights = self.trained_tensors()
            if is_main_process():
                self.run.checkpoints.save_best(self.step, weights)
        self.responses = rollout_responses
        self.updates_began += time.monotonic() - started  # not part of the training time
        return {}

    def update_best(self, responses: ResponseBatch) -> bool:
        """Write the row of a validation; returns whether it is the best so far."""
        metrics = responses.metrics(self.tokenizer.eos_token_id)
        self.run.validation_log.write({"step": self.step, **metrics})
        score, before = metrics["score"], self.validation
        improved = before.best is None or score > before.best
        self.validation = TrlxState(
            iteration=0,
            first=score if before.first is None else before.first,
            best=score if improved else before.best,
            best_step=self.step if improved else before.best_step,
            last=score,
        )
        return improved

    def state(self) -> TrlxState:
        """The state that a checkpoint of trlx does not contain."""
        running_statistics, controller = self.running_moments, copy(self.kl_ctl)
        controller.update(self.mean_kl, n_steps=self.config.train.batch_size)  # trlx does this after the checkpoint
        return self.validation.model_copy(
            update={
                "iteration": self.iter_count,
                "kl_coefficient": float(controller.value),
                "running_statistics": RunningStatistics(
                    mean=float(running_statistics.mean),
                    std=float(running_statistics.std),
                    var=float(running_statistics.var),
                    count=float(running_statistics.count),
                ),
            }
        )


def train_by_ppo(
    settings: dict[str, Any],
    run: PpoRun,
    *,
    prompts: list[PromptRow],
    validation_prompts: list[PromptRow],
    reward: Reward,
    stop_sequences: tuple[str, ...],
    resume: Path | None,
) -> TrlxState:
    """Run trlx to the end; returns the validation scores.  The best weights are in the run's checkpoints.

    A response is cut before the first of `stop_sequences`, before it is scored and trained on.
    """
    settings["train"] |= {
        "resume_from_checkpoint": str(resume) if resume else None,
        "trainer_kwargs": {"run": run},
    }
    trainer = trlx.train(
        reward_fn=reward,
        prompts=pad_to_full_chunks(prompts, settings["method"]["chunk_size"]),
        eval_prompts=validation_prompts,
        config=TRLConfig.from_dict(settings),
        stop_sequences=list(stop_sequences),
    )
    state: TrlxState = trainer.validation
    return state
