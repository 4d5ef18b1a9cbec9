"""The pipeline: from a base model to an aligned model and a report on whether it got better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from rlhf.config import HUB, SYNTHETIC, RewardConfig, RunConfig
from rlhf.stage_config import variant_of_seed
from tasks import stages
from tasks.launch import stop_stages_on_error
from tasks.publish import RunSummary, publish
from tasks.run import Run
from tasks.stage import StageFuture

THREADS: TaskRunner[PrefectFuture[Any]] = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=16))
"""One thread per stage; most of them wait for their inputs.  The cast works around Prefect's type annotations."""

Inputs = dict[str, Any]
"""Stages (StageFuture) by the name under which the report reads them."""


@flow(name="rlhf-pipeline", flow_run_name="{config.run_name}", task_runner=THREADS)
def pipeline(config: RunConfig, workspace: str = "runs") -> RunSummary:
    """Align a language model with RLHF and measure whether it got better.

    Args:
        config: Settings of the run.  On the command line, a profile supplies them.
        workspace: Folder of artifacts and results, or s3://bucket/prefix.
    """
    run = Run.open(config, workspace)
    with stop_stages_on_error():
        model = stages.prepare_model.submit(run, source=_path(config.model.path))
        data = stages.prepare_data.submit(run, model=model, source=_path(config.data.source))
        sft = stages.train_sft.submit(run, model=model, data=data)
        reward = stages.train_reward.submit(run, model=model, data=data, source=_path(config.reward.path))
        training: Inputs = {"model": model, "data": data, "sft": sft, "reward": reward}

        evaluated = _evaluate(run, "sft", training, sft)
        for number in range(config.ppo.seeds):
            seed_run = run.with_settings(seed=config.seed + number, ppo=config.ppo.model_copy(update={"seeds": 1}))
            variant = variant_of_seed(config.seed, number)
            rlhf = stages.train_ppo.submit(
                seed_run, variant=variant if number else "", data=data, sft=sft, reward=reward
            )
            evaluated |= {variant: rlhf} | _evaluate(run, variant, training, rlhf)
            evaluated |= _compare_with_sft(run, variant, training, evaluated)

        sft_responses, rlhf_responses = evaluated["sft_responses"], evaluated["rlhf_responses"]
        labeling = stages.export_labeling_manifest.submit(
            run, sft_responses=sft_responses, rlhf_responses=rlhf_responses
        )
        judged = _judge(run, training, evaluated)

        report_inputs = training | evaluated | {"labeling": labeling} | judged
        results = stages.aggregate_results.submit(run, **report_inputs)
        exported_model = stages.export_model.submit(run, rlhf=evaluated["rlhf"], results=results)
        return publish(run, list(report_inputs.values()), results, exported_model)


def _evaluate(run: Run, variant: str, training: Inputs, policy: StageFuture) -> Inputs:
    """Responses of one model to the test prompts, and the toxicity of its continuations."""
    return {
        f"{variant}_responses": stages.generate_responses.submit(
            run, variant=variant, data=training["data"], policy=policy, reward=training["reward"]
        ),
        f"{variant}_toxicity": stages.score_toxicity.submit(
            run,
            variant=variant,
            policy=policy,
            source=_path(run.config.toxicity.prompts),
            second_opinion=_path(run.config.toxicity.second_opinion),
            **_classifier(run.config),
        ),
    }


def _compare_with_sft(run: Run, variant: str, training: Inputs, evaluated: Inputs) -> Inputs:
    """Side effects of one PPO training."""
    label = "" if variant == "rlhf" else variant
    comparison = stages.compare_policies.submit(
        run,
        variant=label,
        data=training["data"],
        sft=training["sft"],
        rlhf=evaluated[variant],
        sft_responses=evaluated["sft_responses"],
        rlhf_responses=evaluated[f"{variant}_responses"],
        questions=_path(run.config.evaluation.questions),
        **_classifier(run.config),
    )
    return {f"{label or 'policy'}_comparison": comparison}


def _judge(run: Run, training: Inputs, evaluated: Inputs) -> Inputs:
    """The independent judge with its scores, the baseline best-of-n, and a language model's answers, as far as set."""
    config, judged = run.config, Inputs()
    if config.evaluation.best_of > 1:
        judged["best_of_n"] = stages.sample_best_of_n.submit(
            run, data=training["data"], policy=training["sft"], reward=training["reward"]
        )
    if config.data.judge_share > 0:
        settings = config.judge.training or config.reward
        judge_run = run.with_settings(
            model=config.judge.model or config.model,
            reward=RewardConfig.model_validate(settings.model_dump() | {"path": None}),
        )
        base = training["model"]
        if config.judge.model is not None:
            source = _path(config.judge.model.path)
            judged["judge_model"] = base = stages.prepare_model.submit(judge_run, variant="judge", source=source)
        judged["judge"] = stages.train_judge.submit(judge_run, model=base, data=training["data"])
        responses = {name: stage for name, stage in (evaluated | judged).items() if stage.name in stages.WITH_RESPONSES}
        judged["judging"] = stages.judge_responses.submit(judge_run, judge=judged["judge"], **responses)
    if config.judge.llm is not None:
        judged["llm_judge"] = stages.ask_llm_judge.submit(
            run,
            sft_responses=evaluated["sft_responses"],
            rlhf_responses=evaluated["rlhf_responses"],
            llm=_path(config.judge.llm.path),
        )
    return judged


def _classifier(config: RunConfig) -> dict[str, Path | None]:
    """The user's files of the toxicity classifier."""
    return {
        "checkpoint": _path(config.toxicity.checkpoint),
        "checkpoint_config": _path(config.toxicity.checkpoint_config),
    }


def _path(location: str | None) -> Path | None:
    """The file or folder that a setting names, or None if it names none."""
    return None if location in (None, HUB, SYNTHETIC) else Path(location)
