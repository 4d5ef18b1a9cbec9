"""The plan of a run, step by step: what it needs, what that costs, what does not fit and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlhf.config import RunConfig
from rlhf.planning import estimates
from rlhf.planning.estimates import Need
from rlhf.planning.machines import GIB, Machine
from rlhf.planning.ppo_estimates import train_ppo
from rlhf.planning.scenario import Setting, make_setting

RUNTIME_BYTES = GIB
"""Of a GPU that its context and the libraries take.  Assumed."""
START_SECONDS = 7.0
"""Of imports before a stage's first line.  Measured on a CPU: LOG.md."""

STEPS: dict[str, Callable[[Setting], Need]] = {
    "prepare_model": estimates.prepare_model,
    "prepare_data": estimates.prepare_data,
    "train_sft": estimates.train_sft,
    "train_reward": estimates.train_reward,
    "train_ppo": train_ppo,
    "generate_responses[sft]": estimates.generate_responses,
    "generate_responses[rlhf]": estimates.generate_responses,
    "compare_policies": estimates.compare_policies,
    "export_labeling_manifest": estimates.paperwork,
    "score_toxicity[sft]": estimates.score_toxicity,
    "score_toxicity[rlhf]": estimates.score_toxicity,
    "aggregate_results": estimates.paperwork,
    "export_model": estimates.paperwork,
}
"""The steps as the results of a run name them."""
REMEDIES = {
    "train_sft": "set compute.accelerate=fsdp, lower sft.device_batch_size, or take more GPUs",
    "train_reward": "set compute.accelerate=fsdp, lower reward.device_batch_size, or take more GPUs",
    "train_ppo": "lower ppo.unfrozen_blocks, ppo.minibatch_size or ppo.rollouts_per_step, or take larger GPUs",
    "generate_responses": "lower responses.batch_size or take larger GPUs",
    "score_toxicity": "lower toxicity.batch_size or take larger GPUs",
}


@dataclass(frozen=True)
class StepPlan:
    """One step of the plan."""

    name: str
    need: Need
    dollars: float | None
    problems: list[str]
    """What does not fit and why, with what would help."""

    @property
    def memory(self) -> int:
        """Bytes of one GPU at its fullest."""
        return sum(self.need.memory.values())


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    setting: Setting
    dollars_per_hour: float | None
    price_source: str
    steps: list[StepPlan]
    problems: list[str]
    """What is wrong for every step."""

    @property
    def seconds(self) -> float:
        """From beginning to end, the steps' imports included, one step after another."""
        return sum(step.need.seconds + START_SECONDS for step in self.steps)

    @property
    def dollars(self) -> float | None:
        """Price of that time."""
        return None if self.dollars_per_hour is None else self.seconds / 3600 * self.dollars_per_hour


def plan_run(config: RunConfig, machine: Machine, benchmark: Mapping[str, float]) -> Plan:
    """The plan of a run of `config` on `config.compute.machines` such machines, which are held from beginning to end.

    Raises UserError where a model's sizes are not known.
    """
    setting = make_setting(config, machine, benchmark)
    price, price_source = _price(config, machine)
    return Plan(
        setting=setting,
        dollars_per_hour=price,
        price_source=price_source,
        steps=[_step(setting, name, need(setting), price) for name, need in STEPS.items()],
        problems=_problems(setting),
    )


def _price(config: RunConfig, machine: Machine) -> tuple[float | None, str]:
    """Dollars per hour of all machines."""
    if config.compute.dollars_per_hour is not None:
        return config.compute.dollars_per_hour, "compute.dollars_per_hour"
    if machine.dollars_per_hour is None:
        return None, "no price is known; --dollars-per-hour sets one"
    return machine.dollars_per_hour * config.compute.machines, machine.source


def _step(setting: Setting, name: str, need: Need, price: float | None) -> StepPlan:
    machine, problems = setting.machine, []
    taken, room = sum(need.memory.values()), machine.device_bytes - RUNTIME_BYTES
    of_what = "of each GPU" if machine.gpus else "of the machine"
    taken_there = taken if machine.gpus else taken * setting.processes // setting.config.compute.machines
    if taken_there > room:
        largest = sorted(need.memory.items(), key=lambda part: -part[1])[:3]
        parts = ", ".join(f"{part} {gigabytes(size)}" for part, size in largest)
        remedy = REMEDIES.get(name.partition("[")[0], "take a larger machine")
        problems.append(
            f"{name} needs {gigabytes(taken_there)} {of_what}, which has {gigabytes(room)} free ({parts}); {remedy}"
        )
    if need.host_bytes > machine.host_bytes:
        problems.append(
            f"{name} needs {gigabytes(need.host_bytes)} of the machine's own memory, which is "
            f"{gigabytes(machine.host_bytes)}: every process loads the whole model; take a larger machine"
        )
    return StepPlan(name, need, None if price is None else need.seconds / 3600 * price, problems)


def _problems(setting: Setting) -> list[str]:
    compute, machine, problems = setting.config.compute, setting.machine, []
    gpus = machine.gpus * compute.machines
    # trlx scores on a GPU that no process trains on
    wanted = compute.processes + (setting.config.trainer == "trlx")
    if machine.gpus and wanted > gpus:
        beside = " and one for the reward model" if wanted > compute.processes else ""
        problems.append(f"compute.processes ({compute.processes}){beside}: {machine.name} has {gpus} GPU(s); lower it")
    if machine.gpus and compute.accelerate == "cpu":
        problems.append(f"compute.accelerate (cpu) leaves the GPUs of {machine.name} idle; set gpu or fsdp")
    return problems


def gigabytes(size: float) -> str:
    """Bytes for a person to read."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
