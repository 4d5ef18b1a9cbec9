"""Run PPO by trlx as a stage: convert the inputs, define the reward, train, write the model in our layout."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.errors import UserError
from rlhf.models.loading import Dtype
from rlhf.models.reward_model import RewardModel
from rlhf.runtime.metrics_log import MetricsLog
from rlhf.runtime.stage import is_main_process, note
from rlhf.stage_config import PpoStage
from rlhf.storage.files import read_jsonl, write_atomically
from rlhf.training.trlx_trainer.batching import PromptRow
from rlhf.training.trlx_trainer.checkpoints import Checkpoints
from rlhf.training.trlx_trainer.conversion import convert_for_trlx, write_trained_model
from rlhf.training.trlx_trainer.launch import longest_text, prepare_processes, reward_device
from rlhf.training.trlx_trainer.ppo_trainer import PpoRun, train_by_ppo
from rlhf.training.trlx_trainer.reward_model import TrlxRewardModel, check_same_scores
from rlhf.training.trlx_trainer.trlx_config import ppo_settings, updates_per_step

METRICS, VALIDATION, SUMMARY = "metrics.jsonl", "validation.jsonl", "summary.json"
CHECKED_ROWS = 8
"""Number of chosen responses whose scores are compared with those of train_reward."""


def train(config: PpoStage, inputs: dict[str, Path], output: Path) -> dict[str, float]:
    """Train to the end, from a checkpoint if there is one, and write the best model."""
    if not ((output / "model").is_dir() and (output / SUMMARY).is_file()):
        run_trlx(config, inputs, output)
    summary = json.loads((output / SUMMARY).read_bytes())
    return {
        "first_score": summary["first"],
        "best_score": summary["best"],
        "last_score": summary["last"],
        "best_step": summary["best_step"],
    }


def run_trlx(config: PpoStage, inputs: dict[str, Path], output: Path) -> None:
    """Train and write model and summary."""
    processes, ppo, source = prepare_processes(), config.ppo, inputs["sft"] / "model"
    checkpoints = Checkpoints(output, ppo.keep_checkpoints)
    policy, reward_model = checkpoints.root / "converted", checkpoints.root / "converted-reward"
    with processes.main_process_first():
        if is_main_process():
            convert_for_trlx(source, policy)
            convert_for_trlx(inputs["reward"] / "model", reward_model)
        found = checkpoints.newest()
    resume, resumed = found or (None, None)
    done = resumed.iteration // updates_per_step(ppo) if resumed else 0
    if resumed:
        note(f"resuming after step {done} of {ppo.steps}")
    prompts, validation_prompts = (
        read_prompts(inputs, name, subtract_chosen=ppo.subtract_chosen_score)
        for name in ("ppo_prompts.jsonl", "validation_prompts.jsonl")
    )
    texts = [str(row["prompt"]) for row in prompts + validation_prompts]
    settings = ppo_settings(
        ppo,
        model=policy,
        checkpoints=checkpoints.root,
        prompt_tokens=longest_text(policy, texts, ppo.sampling.max_new_tokens),
        processes=processes.num_processes,
        seed=config.seed + done,
    )
    scorer = (
        TrlxRewardModel.load(reward_model, config.model.dtype, reward_device(processes)) if is_main_process() else None
    )
    if scorer is not None:
        check_reward_model(scorer, inputs, config.model.dtype)

    def reward(prompts: list[str], responses: list[str], baselines: list[float]) -> list[float]:
        assert scorer is not None, "trlx scores on the main process"
        scores = scorer.score(prompts, responses, ppo.rollout_batch_size)
        return [score - baseline for score, baseline in zip(scores.tolist(), baselines, strict=True)]

    run = PpoRun(
        output=output,
        checkpoints=checkpoints,
        resumed=resumed,
        config=ppo,
        seed=config.seed,
        metrics=MetricsLog(output / METRICS, done if resumed else None),
        validation_log=MetricsLog(output / VALIDATION, done if resumed else None),
    )
    last = train_by_ppo(
        settings,
        run,
        prompts=prompts,
        validation_prompts=validation_prompts,
        reward=reward,
        stop_sequences=config.stop_sequences,
        resume=resume,
    )
    if is_main_process():
        assert last.best_step is not None, "trlx validates before it trains"
        write_trained_model(source, checkpoints.load_best(last.best_step), output / "model")
        scores = last.model_dump(include={"first", "best", "last", "best_step"})
        # trlx neither ends early nor selects within bounds
        summary = scores | {"stopped_early": None, "rejected": []}
        write_atomically(output / SUMMARY, json.dumps(summary, indent=2))
    processes.wait_for_everyone()


def read_prompts(inputs: dict[str, Path], name: str, *, subtract_chosen: bool) -> list[PromptRow]:
    """Prompts with their baseline, which is subtracted from scores: that of the chosen response, or 0."""
    rows = read_jsonl(inputs["data"] / name)
    if not rows:
        raise UserError(f"{inputs['data'] / name} has no prompts; give more data, or raise data.max_prompt_tokens")
    scores = chosen_scores(inputs)
    return [
        {"prompt": str(row["prompt"]), "baseline": scores[str(row["id"])] if subtract_chosen else 0.0} for row in rows
    ]


def chosen_scores(inputs: dict[str, Path]) -> dict[str, float]:
    """Scores of the chosen responses, by prompt id."""
    return {str(row["id"]): float(str(row["score"])) for row in read_jsonl(inputs["reward"] / "chosen_scores.jsonl")}


def check_reward_model(reward_model: RewardModel, inputs: dict[str, Path], dtype: Dtype) -> None:
    """Raise UserError if the reward model scores differently under trlx's libraries."""
    rows, scores = read_jsonl(inputs["data"] / "ppo_prompts.jsonl")[:CHECKED_ROWS], chosen_scores(inputs)
    prompts, chosen = ([str(row[name]) for row in rows] for name in ("prompt", "chosen"))
    check_same_scores(reward_model, prompts, chosen, [scores[str(row["id"])] for row in rows], dtype)
