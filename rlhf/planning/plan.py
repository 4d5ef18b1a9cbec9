"""The plan of a run: what each stage needs and costs, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.config import RunConfig
from rlhf.planning import estimates, evaluation_estimates
from rlhf.planning.estimates import ResourceEstimate
from rlhf.planning.machines import GIB, Machine
from rlhf.planning.ppo_estimates import train_ppo
from rlhf.planning.scenario import Scenario, make_scenario
from rlhf.stage_config import variant_of_seed

RUNTIME_BYTES = GIB
"""GPU memory of the CUDA context and libraries.  Assumed."""
START_SECONDS = 7.0
"""Seconds of imports per stage.  Measured on a CPU: LOG.md."""

REMEDIES = {
    "train_sft": "set compute.accelerate=fsdp, lower sft.device_batch_size, or use more GPUs",
    "train_reward": "set compute.accelerate=fsdp, lower reward.device_batch_size, or use more GPUs",
    "train_ppo": "lower ppo.unfrozen_blocks, ppo.minibatch_size or ppo.rollouts_per_step, or use larger GPUs",
    "train_judge": "set compute.accelerate=fsdp, lower judge.training.device_batch_size (that of reward if "
    "judge.training is not set), set judge.model to a smaller model, or use more GPUs",
    "generate_responses": "lower responses.batch_size or use larger GPUs",
    "sample_best_of_n": "lower responses.batch_size or use larger GPUs",
    "judge_responses": "lower responses.batch_size, set judge.model to a smaller model, or use larger GPUs",
    "ask_llm_judge": "lower judge.llm.requests_at_once, or run the language model on a server and set judge.llm.url",
    "score_toxicity": "lower toxicity.batch_size or use larger GPUs",
}
"""What to change if a stage does not fit."""


@dataclass(frozen=True)
class StagePlan:
    """One stage of the plan."""

    name: str
    estimate: ResourceEstimate
    dollars: float | None
    problems: list[str]
    """What does not fit, why, and the remedy."""

    @property
    def memory(self) -> int:
        """Peak bytes on one GPU."""
        return sum(self.estimate.memory.values())


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    scenario: Scenario
    dollars_per_hour: float | None
    price_source: str
    stages: list[StagePlan]
    problems: list[str]
    """Problems that concern all stages."""

    @property
    def seconds(self) -> float:
        """Wall time of all stages one after another, with imports."""
        return sum(stage.estimate.seconds + START_SECONDS for stage in self.stages)

    @property
    def dollars(self) -> float | None:
        """Price of that time."""
        return None if self.dollars_per_hour is None else self.seconds / 3600 * self.dollars_per_hour


def plan_run(config: RunConfig, machine: Machine, benchmark: Mapping[str, float]) -> Plan:
    """Plan a run of `config` on `config.compute.machines` machines, which are paid for during the complete run.

    Raises UserError if a model's size is not known.
    """
    scenario = make_scenario(config, machine, benchmark)
    price, price_source = _price(config, machine)
    return Plan(
        scenario=scenario,
        dollars_per_hour=price,
        price_source=price_source,
        stages=[_plan_stage(scenario, name, estimate, price) for name, estimate in stage_estimates(scenario).items()],
        problems=_problems(scenario),
    )


def stage_estimates(scenario: Scenario) -> dict[str, ResourceEstimate]:
    """Estimates of the stages that the pipeline runs, by their names in results.json and in its order."""
    config, judge = scenario.config, scenario.judge
    responses = evaluation_estimates.generate_responses(scenario)
    toxicity = evaluation_estimates.score_toxicity(scenario)
    stages = {
        "prepare_model": estimates.prepare_model(scenario),
        "prepare_data": estimates.prepare_data(scenario),
        "train_sft": estimates.train_sft(scenario),
        "train_reward": estimates.train_reward(scenario),
        "generate_responses[sft]": responses,
        "score_toxicity[sft]": toxicity,
    }
    for number in range(config.ppo.seeds):
        variant = variant_of_seed(config.seed, number)
        suffix = f"[{variant}]" if number else ""
        stages |= {
            f"train_ppo{suffix}": train_ppo(scenario),
            f"generate_responses[{variant}]": responses,
            f"score_toxicity[{variant}]": toxicity,
            f"compare_policies{suffix}": evaluation_estimates.compare_policies(scenario),
        }
    stages["export_labeling_manifest"] = estimates.cpu_only_stage()
    if config.evaluation.best_of > 1:
        stages["sample_best_of_n"] = evaluation_estimates.sample_best_of_n(scenario)
    if judge is not None:
        if config.judge.model is not None:
            stages["prepare_model[judge]"] = estimates.prepare_model(judge)
        stages["train_judge"] = estimates.train_judge(judge)
        stages["judge_responses"] = evaluation_estimates.judge_responses(scenario, judge)
    if config.judge.llm is not None:
        stages["ask_llm_judge"] = evaluation_estimates.ask_llm_judge(scenario)
    stages["aggregate_results"] = estimates.cpu_only_stage()
    stages["export_model"] = estimates.cpu_only_stage()
    return stages


def _price(config: RunConfig, machine: Machine) -> tuple[float | None, str]:
    """Dollars per hour of all machines."""
    if config.compute.dollars_per_hour is not None:
        return config.compute.dollars_per_hour, "compute.dollars_per_hour"
    if machine.dollars_per_hour is None:
        return None, "no price is known; --dollars-per-hour sets one"
    return machine.dollars_per_hour * config.compute.machines, machine.source


def _plan_stage(scenario: Scenario, name: str, estimate: ResourceEstimate, price: float | None) -> StagePlan:
    machine, problems = scenario.machine, []
    needed, free = sum(estimate.memory.values()), machine.device_memory_bytes - RUNTIME_BYTES
    unit = "of each GPU" if machine.gpus else "of the machine"
    needed_per_unit = needed if machine.gpus else needed * scenario.processes // scenario.config.compute.machines
    if needed_per_unit > free:
        largest = sorted(estimate.memory.items(), key=lambda part: -part[1])[:3]
        parts = ", ".join(f"{part} {gigabytes(size)}" for part, size in largest)
        remedy = REMEDIES.get(name.partition("[")[0], "use a larger machine")
        problems.append(
            f"{name} needs {gigabytes(needed_per_unit)} {unit}, which has {gigabytes(free)} free ({parts}); {remedy}"
        )
    if estimate.host_memory_bytes > machine.host_memory_bytes:
        problems.append(
            f"{name} needs {gigabytes(estimate.host_memory_bytes)} of the machine's main memory, which has "
            f"{gigabytes(machine.host_memory_bytes)}: every rank loads the complete model; use a larger machine"
        )
    return StagePlan(name, estimate, None if price is None else estimate.seconds / 3600 * price, problems)


def _problems(scenario: Scenario) -> list[str]:
    compute, machine, problems = scenario.config.compute, scenario.machine, []
    gpus = machine.gpus * compute.machines
    # trlx scores on a GPU on which no rank trains
    required = compute.processes + (scenario.config.trainer == "trlx")
    if machine.gpus and required > gpus:
        reward_gpu = " and one for the reward model" if required > compute.processes else ""
        problems.append(
            f"compute.processes ({compute.processes}){reward_gpu}: {machine.name} has {gpus} GPU(s); lower it"
        )
    if machine.gpus and compute.accelerate == "cpu":
        problems.append(f"compute.accelerate (cpu) leaves the GPUs of {machine.name} idle; set gpu or fsdp")
    return problems


def gigabytes(size: float) -> str:
    """A number of bytes as readable text."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
