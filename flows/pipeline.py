"""The workflow: from a base model to a report on whether alignment made it better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from rlhf.config import HUB, SYNTHETIC, RunConfig
from tasks import stages
from tasks.launch import stop_stages_on_error
from tasks.publish import RunSummary, publish
from tasks.stage import Run

THREADS: TaskRunner[PrefectFuture[Any]] = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=16))
"""A thread for each stage: most wait for their inputs.  Prefect's types do not know a runner of threads as a runner."""


@flow(name="rlhf-pipeline", flow_run_name="{config.run_name}", task_runner=THREADS)
def pipeline(config: RunConfig, workspace: str = "runs") -> RunSummary:
    """Align a base model and prove whether it got better.

    Args:
        config: Settings of the run; a profile fills them in on the command line.
        workspace: Folder of artifacts and results, or s3://bucket/prefix.
    """
    run = Run.at(config, workspace)
    with stop_stages_on_error():
        model = stages.prepare_model.submit(run, source=_path(config.model.path))
        data = stages.prepare_data.submit(run, model=model, source=_path(config.data.source))
        sft = stages.train_sft.submit(run, model=model, data=data)
        reward = stages.train_reward.submit(run, model=model, data=data, source=_path(config.reward.path))
        rlhf = stages.train_ppo.submit(run, data=data, sft=sft, reward=reward)

        sft_responses = stages.generate_responses.submit(run, variant="sft", data=data, policy=sft, reward=reward)
        rlhf_responses = stages.generate_responses.submit(run, variant="rlhf", data=data, policy=rlhf, reward=reward)
        labeling = stages.export_labeling_manifest.submit(
            run, sft_responses=sft_responses, rlhf_responses=rlhf_responses
        )

        classifier: dict[str, Any] = {
            "checkpoint": _path(config.toxicity.checkpoint),
            "checkpoint_config": _path(config.toxicity.checkpoint_config),
        }
        comparison = stages.compare_policies.submit(
            run, data=data, sft=sft, rlhf=rlhf, sft_responses=sft_responses, rlhf_responses=rlhf_responses, **classifier
        )

        prompts = _path(config.toxicity.prompts)
        sft_toxicity = stages.score_toxicity.submit(run, variant="sft", policy=sft, source=prompts, **classifier)
        rlhf_toxicity = stages.score_toxicity.submit(run, variant="rlhf", policy=rlhf, source=prompts, **classifier)

        results = stages.aggregate_results.submit(
            run,
            model=model,
            data=data,
            sft=sft,
            reward=reward,
            rlhf=rlhf,
            sft_responses=sft_responses,
            rlhf_responses=rlhf_responses,
            comparison=comparison,
            labeling=labeling,
            sft_toxicity=sft_toxicity,
            rlhf_toxicity=rlhf_toxicity,
        )
        exported = stages.export_model.submit(run, rlhf=rlhf, results=results)
        return publish(
            run,
            [
                *(model, data, sft, reward, rlhf, sft_responses, rlhf_responses),
                *(comparison, labeling, sft_toxicity, rlhf_toxicity),
            ],
            results,
            exported,
        )


def _path(location: str | None) -> Path | None:
    """The user's file or folder behind a setting, or None where it names no place on this machine."""
    return None if location in (None, HUB, SYNTHETIC) else Path(location)
