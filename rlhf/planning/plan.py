"""The plan of a run: what each stage needs and costs, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlhf.config import RunConfig
from rlhf.planning import estimates
from rlhf.planning.estimates import ResourceEstimate
from rlhf.planning.machines import GIB, Machine
from rlhf.planning.ppo_estimates import train_ppo
from rlhf.planning.scenario import Scenario, make_scenario

RUNTIME_BYTES = GIB
"""GPU memory of the CUDA context and libraries.  Assumed."""
START_SECONDS = 7.0
"""Seconds of imports per stage.  Measured on a CPU: LOG.md."""

ESTIMATES: dict[str, Callable[[Scenario], ResourceEstimate]] = {
    "prepare_model": estimates.prepare_model,
    "prepare_data": estimates.prepare_data,
    "train_sft": estimates.train_sft,
    "train_reward": estimates.train_reward,
    "train_ppo": train_ppo,
    "generate_responses[sft]": estimates.generate_responses,
    "generate_responses[rlhf]": estimates.generate_responses,
    "compare_policies": estimates.compare_policies,
    "export_labeling_manifest": estimates.cpu_only_stage,
    "score_toxicity[sft]": estimates.score_toxicity,
    "score_toxicity[rlhf]": estimates.score_toxicity,
    "aggregate_results": estimates.cpu_only_stage,
    "export_model": estimates.cpu_only_stage,
}
"""Estimates of all stages, by their names in results.json."""
REMEDIES = {
    "train_sft": "set compute.accelerate=fsdp, lower sft.device_batch_size, or use more GPUs",
    "train_reward": "set compute.accelerate=fsdp, lower reward.device_batch_size, or use more GPUs",
    "train_ppo": "lower ppo.unfrozen_blocks, ppo.minibatch_size or ppo.rollouts_per_step, or use larger GPUs",
    "generate_responses": "lower responses.batch_size or use larger GPUs",
    "score_toxicity": "lower toxicity.batch_size or use larger GPUs",
}


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
        stages=[_plan_stage(scenario, name, estimate(scenario), price) for name, estimate in ESTIMATES.items()],
        problems=_problems(scenario),
    )


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
