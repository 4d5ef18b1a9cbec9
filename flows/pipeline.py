"""The pipeline: from a base model to an aligned model and a report on whether it got better."""

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
from tasks.run import Run

THREADS: TaskRunner[PrefectFuture[Any]] = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=16))
"""One thread per stage; most of them wait for their inputs.  The cast works around Prefect's type annotations."""


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
        policy_comparison = stages.compare_policies.submit(
            run, data=data, sft=sft, rlhf=rlhf, sft_responses=sft_responses, rlhf_responses=rlhf_responses, **classifier
        )

        toxicity: dict[str, Any] = {"source": _path(config.toxicity.prompts), **classifier}
        sft_toxicity = stages.score_toxicity.submit(run, variant="sft", policy=sft, **toxicity)
        rlhf_toxicity = stages.score_toxicity.submit(run, variant="rlhf", policy=rlhf, **toxicity)

        report_inputs: dict[str, Any] = {
            "model": model,
            "data": data,
            "sft": sft,
            "reward": reward,
            "rlhf": rlhf,
            "sft_responses": sft_responses,
            "rlhf_responses": rlhf_responses,
            "policy_comparison": policy_comparison,
            "labeling": labeling,
            "sft_toxicity": sft_toxicity,
            "rlhf_toxicity": rlhf_toxicity,
        }
        results = stages.aggregate_results.submit(run, **report_inputs)
        exported_model = stages.export_model.submit(run, rlhf=rlhf, results=results)
        return publish(run, list(report_inputs.values()), results, exported_model)


def _path(location: str | None) -> Path | None:
    """The file or folder that a setting names, or None if it names none."""
    return None if location in (None, HUB, SYNTHETIC) else Path(location)
