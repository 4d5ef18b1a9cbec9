"""A PPO stage around trlx: inputs made readable, the reward, the run, the model in our layout."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.errors import UserError
from rlhf.models.loading import Dtype
from rlhf.models.reward_model import RewardModel
from rlhf.runtime.metrics_log import StepLog
from rlhf.runtime.stage import is_main_process, note
from rlhf.stage_config import PpoStage
from rlhf.storage.files import read_jsonl, write_atomically
from rlhf.training.trlx_trainer.batching import PromptRow
from rlhf.training.trlx_trainer.checkpoints import Checkpoints
from rlhf.training.trlx_trainer.conversion import write_old_layout, write_trained
from rlhf.training.trlx_trainer.launch import prepare_processes, require_room, reward_device
from rlhf.training.trlx_trainer.ppo_trainer import PpoRun, train_by_ppo
from rlhf.training.trlx_trainer.reward_model import Scorer, require_same_scores
from rlhf.training.trlx_trainer.trlx_config import ppo_settings, updates_per_step

METRICS, MEASUREMENTS, SUMMARY = "metrics.jsonl", "validation.jsonl", "summary.json"
COMPARED = 8
"""Chosen answers whose scores are compared with those that train_reward measured."""


def train(config: PpoStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train to the end, from a checkpoint where there is one, and write the best model."""
    if not ((output / "model").is_dir() and (output / SUMMARY).is_file()):
        run_trlx(config, inputs, output)
    summary: dict[str, float] = json.loads((output / SUMMARY).read_bytes())
    return {
        "first_score": summary["first"],
        "best_score": summary["best"],
        "last_score": summary["last"],
        "best_step": summary["best_step"],
    }


def run_trlx(config: PpoStage, inputs: dict[str, Path], output: Path) -> None:
    """Everything up to the model."""
    processes, ppo, source = prepare_processes(), config.ppo, inputs["sft"] / "model"
    checkpoints = Checkpoints(output, ppo.keep_checkpoints)
    policy, reward_model = checkpoints.root / "readable", checkpoints.root / "readable-reward"
    with processes.main_process_first():
        if is_main_process():
            write_old_layout(source, policy)
            write_old_layout(inputs["reward"] / "model", reward_model)
    found = checkpoints.newest()
    resume, resumed = found or (None, None)
    done = resumed.iteration // updates_per_step(ppo) if resumed else 0
    if resumed:
        note(f"going on after step {done} of {ppo.steps}")
    prompts, validation_prompts = (
        read_prompts(inputs, name, delta=ppo.subtract_chosen_score)
        for name in ("ppo_prompts.jsonl", "validation_prompts.jsonl")
    )
    texts = [str(row["prompt"]) for row in prompts + validation_prompts]
    settings = ppo_settings(
        ppo,
        model=policy,
        checkpoints=checkpoints.root,
        prompt_tokens=require_room(policy, texts, ppo.sampling.max_new_tokens),
        processes=processes.num_processes,
        seed=config.seed + done,
    )
    scorer = Scorer.load(reward_model, config.model.dtype, reward_device(processes)) if is_main_process() else None
    if scorer is not None:
        require_same_reward(scorer, inputs, config.model.dtype)

    def reward(prompts: list[str], answers: list[str], baselines: list[float]) -> list[float]:
        assert scorer is not None, "trlx scores on the main process"
        scores = scorer.score(prompts, answers, ppo.rollout_batch_size)
        return [score - baseline for score, baseline in zip(scores.tolist(), baselines, strict=True)]

    run = PpoRun(
        output=output,
        checkpoints=checkpoints,
        resumed=resumed,
        config=ppo,
        seed=config.seed,
        metrics=StepLog(output / METRICS, done if resumed else None),
        measurements=StepLog(output / MEASUREMENTS, done if resumed else None),
    )
    last = train_by_ppo(
        settings, run, prompts=prompts, validation_prompts=validation_prompts, reward=reward, resume=resume
    )
    if is_main_process():
        assert last.best_step is not None, "trlx measures before it trains"
        write_trained(source, checkpoints.load_best(last.best_step), output / "model")
        summary = last.model_dump(include={"first", "best", "last", "best_step"})
        write_atomically(output / SUMMARY, json.dumps(summary, indent=2))
    processes.wait_for_everyone()


def read_prompts(inputs: dict[str, Path], name: str, *, delta: bool) -> list[PromptRow]:
    """Prompts with what is taken off the score of an answer: that of the chosen answer, or 0."""
    rows = read_jsonl(inputs["data"] / name)
    if not rows:
        raise UserError(f"{inputs['data'] / name} has no prompts; give more data, or raise data.max_prompt_tokens")
    scores = chosen_scores(inputs)
    return [{"prompt": str(row["prompt"]), "baseline": scores[str(row["id"])] if delta else 0.0} for row in rows]


def chosen_scores(inputs: dict[str, Path]) -> dict[str, float]:
    """Scores of the chosen answers by prompt."""
    return {str(row["id"]): float(str(row["score"])) for row in read_jsonl(inputs["reward"] / "chosen_scores.jsonl")}


def require_same_reward(reward_model: RewardModel, inputs: dict[str, Path], dtype: Dtype) -> None:
    """Raise UserError where the reward model is not the same under trlx's libraries."""
    rows, scores = read_jsonl(inputs["data"] / "ppo_prompts.jsonl")[:COMPARED], chosen_scores(inputs)
    prompts, chosen = ([str(row[name]) for row in rows] for name in ("prompt", "chosen"))
    require_same_scores(reward_model, prompts, chosen, [scores[str(row["id"])] for row in rows], dtype)
