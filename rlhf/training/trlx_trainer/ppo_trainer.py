"""PPO by trlx: its trainer, unchanged in what it computes, on our prompts, reward, files and checkpoints."""

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
from rlhf.runtime.metrics_log import StepLog
from rlhf.runtime.stage import is_main_process, note, progress
from rlhf.training.trlx_trainer.batching import PromptRow, whole_chunks
from rlhf.training.trlx_trainer.checkpoints import Moments, State
from rlhf.training.trlx_trainer.metrics import (
    Answers,
    cut_answer,
    rollout_figures,
    speed_figures,
    trained_figures,
)
from rlhf.training.trlx_trainer.trainer_mixin import Recorded, Resumable
from rlhf.training.trlx_trainer.trlx_config import STOP_SEQUENCES, updates_per_step
from rlhf.training.trlx_trainer.versions import refuse_gap

Reward = Callable[[list[str], list[str], list[float]], list[float]]
"""Scores of prompts, answers and their baselines."""


@dataclass
class PpoRun(Resumable):
    """What the trainer needs besides its TRLConfig."""

    config: PpoConfig
    seed: int
    metrics: StepLog
    measurements: StepLog


@register_trainer
class PpoTrainer(Recorded, AcceleratePPOTrainer):  # type: ignore[misc]  # trlx is not type-checked
    """trlx's PPO trainer that records."""

    run: PpoRun

    def __init__(self, config: TRLConfig, *, run: PpoRun, **given: Any) -> None:
        super().__init__(config, **given)
        self.begin_recording(run)
        self.reward: Reward = given["reward_fn"]
        self.reward_fn = self.score
        self.answers = Answers()
        self.row: dict[str, float] = {}
        self.updates: list[dict[str, float]] = []
        self.seconds: dict[str, float] = {}
        self.score_seconds = 0.0
        self.updates_began = 0.0
        self.validation = run.resumed or State(iteration=0)
        if run.resumed is not None and run.resumed.moments is not None:
            self.kl_ctl.value = run.resumed.kl_coefficient
            for name, value in run.resumed.moments:
                setattr(self.running_moments, name, value)

    @property
    def step(self) -> int:
        """Rounds of rollouts that are trained on."""
        done: int = self.iter_count // updates_per_step(self.run.config)
        return done

    def prepare_learning(self) -> None:
        """Refuse a broken reference, then draw the first rollouts."""
        self.iter_count = self.run.iteration
        if self.run.resumed is None:
            gap = self.reference_gap()
            refuse_gap(gap, transformers.__version__)
            note(f"policy and reference agree before training: log-probabilities differ by at most {gap:.1g} nats")
        super().prepare_learning()

    @torch.no_grad()
    def reference_gap(self) -> float:
        """Largest difference between policy and reference in a token's log-probability, on validation prompts."""
        batch = next(iter(self.eval_pipeline.create_loader(self.config.method.chunk_size)))
        ids, mask = (batch[name].to(self.accelerator.device) for name in ("input_ids", "attention_mask"))
        place = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1)
        logits, *_ = self.model(ids, attention_mask=mask, position_ids=place)
        reference = self.model.forward_hydra(ids, attention_mask=mask, position_ids=place, return_dict=True).logits
        of_policy, of_reference = (logprobs_of_labels(given[:, :-1], ids[:, 1:]) for given in (logits, reference))
        gap = ((of_policy - of_reference).abs() * mask[:, :-1] * mask[:, 1:]).max()
        return float(gap)

    def generate(self, input_ids: Any, attention_mask: Any = None, **given: Any) -> Any:
        """Draw answers of a rollout, and keep what the row tells of them."""
        started = time.monotonic()
        samples = super().generate(input_ids, attention_mask, **given)
        self.seconds["decode"] = self.seconds.get("decode", 0.0) + time.monotonic() - started
        self.keep(input_ids, attention_mask, samples)
        return samples

    def generate_eval(self, input_ids: Any, attention_mask: Any = None, **given: Any) -> Any:
        """Draw answers of a measurement."""
        samples = super().generate_eval(input_ids, attention_mask, **given)
        self.keep(input_ids, attention_mask, samples)
        return samples

    def keep(self, input_ids: Any, attention_mask: Any, samples: Any) -> None:
        """Keep the drawn tokens of all processes."""
        rows = [cut_answer(ids, self.tokenizer.eos_token_id) for ids in samples[:, input_ids.shape[1] :].tolist()]
        lengths = [int(attention_mask.sum())]
        if self.accelerator.num_processes > 1:
            rows, lengths = gather_object(rows), gather_object(lengths)
        self.answers.token_ids += rows
        self.answers.prompt_tokens += sum(lengths)

    def score(self, *, prompts: list[str], outputs: list[str], baseline: list[float], **_given: object) -> list[float]:
        """The reward as trlx asks for it; only the main process does."""
        started = time.monotonic()
        end = self.tokenizer.eos_token
        scores: list[float] = self.reward(prompts, [output.removesuffix(end) for output in outputs], baseline)
        self.answers.scores += scores
        self.score_seconds += time.monotonic() - started
        return scores

    def make_experience(self, num_rollouts: int = 1024, iter_count: int = 0) -> None:
        """One round of rollouts; begins the row of its step."""
        self.answers, self.seconds, self.score_seconds = Answers(), {}, 0.0
        started = time.monotonic()
        super().make_experience(num_rollouts, iter_count)
        spent = time.monotonic() - started
        self.seconds |= {
            "score": self.score_seconds,
            "estimate": spent - self.seconds["decode"] - self.score_seconds,
            "train": 0.0,
        }
        self.row["reward"] = fmean(float(rollout.rewards.sum()) for rollout in self.store.history)
        self.updates, self.updates_began = [], time.monotonic()

    def record_rollouts(self, stats: dict[str, Any]) -> None:
        """Figures of a round, before training on it."""
        if "policy/sqrt_kl" in stats and is_main_process():
            self.row = {**self.answers.figures(self.tokenizer.eos_token_id), **rollout_figures(stats)}
            self.refuse_distance()

    def refuse_distance(self) -> None:
        """Raise UserError where the KL is beyond its bound or no number."""
        if not self.row["kl"] <= self.run.config.max_kl:
            raise UserError(
                f"step {self.step + 1}: the KL to the reference is {self.row['kl']:.3g} nats per answer, ppo.max_kl "
                f"is {self.run.config.max_kl:g}; the last good checkpoint is kept; lower ppo.learning_rate or raise "
                "ppo.kl_coefficient"
            )

    def record_update(self, stats: dict[str, Any], step: int) -> None:
        """Figures of an optimizer step, the row with the last one of a round."""
        self.seconds["train"] += time.monotonic() - self.updates_began
        self.updates_began = time.monotonic()
        self.updates.append(stats)
        config = self.run.config
        if step % updates_per_step(config) or not is_main_process():
            return
        tokens = sum(map(len, self.answers.token_ids))
        row = {
            "step": self.step,
            **self.row,
            "sequence_tokens": (self.answers.prompt_tokens + tokens) / config.rollouts_per_step,
            **trained_figures(self.updates),
            **speed_figures(
                self.seconds,
                drawn_tokens=tokens,
                read_tokens=self.answers.prompt_tokens + tokens,
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
        progress("PPO", self.step, config.steps, reward=row["score"], kl=row["kl"])

    def measure(self) -> dict[str, float]:
        """Mean score of answers to the validation prompts, drawn with the same seed every time; keeps the best."""
        started, kept, self.answers = time.monotonic(), self.answers, Answers()
        with torch.random.fork_rng():
            torch.manual_seed(self.run.seed + self.accelerator.process_index)
            super(Recorded, self).evaluate()
        best = self.best_after(self.answers) if is_main_process() else False
        if self.accelerator.num_processes > 1:
            best = any(gather_object([best]))
        if best:
            weights = self.trained_tensors()
            if is_main_process():
                self.run.checkpoints.save_best(self.step, weights)
        self.answers = kept
        self.updates_began += time.monotonic() - started  # no time of training
        return {}

    def best_after(self, answers: Answers) -> bool:
        """Write the row of a measurement; whether it is the best so far."""
        figures = answers.figures(self.tokenizer.eos_token_id)
        self.run.measurements.write({"step": self.step, **figures})
        score, before = figures["score"], self.validation
        improved = before.best is None or score > before.best
        self.validation = State(
            iteration=0,
            first=score if before.first is None else before.first,
            best=score if improved else before.best,
            best_step=self.step if improved else before.best_step,
            last=score,
        )
        return improved

    def state(self) -> State:
        """What a checkpoint of trlx lacks."""
        moments, controller = self.running_moments, copy(self.kl_ctl)
        controller.update(self.mean_kl, n_steps=self.config.train.batch_size)  # which trlx does after the checkpoint
        return self.validation.model_copy(
            update={
                "iteration": self.iter_count,
                "kl_coefficient": float(controller.value),
                "moments": Moments(
                    mean=float(moments.mean),
                    std=float(moments.std),
                    var=float(moments.var),
                    count=float(moments.count),
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
    resume: Path | None,
) -> State:
    """Run trlx to the end; returns what the validation said.  The best weights lie in the run's checkpoints."""
    settings["train"] |= {
        "resume_from_checkpoint": str(resume) if resume else None,
        "trainer_kwargs": {"run": run},
    }
    trainer = trlx.train(
        reward_fn=reward,
        prompts=whole_chunks(prompts, settings["method"]["chunk_size"]),
        eval_prompts=validation_prompts,
        config=TRLConfig.from_dict(settings),
        stop_sequences=STOP_SEQUENCES,
    )
    state: State = trainer.validation
    return state
