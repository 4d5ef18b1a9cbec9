"""Plans of profiles, and the sizes of GPT-J-6B that their numbers are worked out from by hand."""

from __future__ import annotations

from rlhf.planning.machines import find_machine
from rlhf.planning.plan import Plan, StagePlan, plan_run
from rlhf.profiles import load_profile

GPT_J = 6_050_882_784
"""Parameters."""
BLOCK = 201_355_264
"""Parameters of a block."""
BLOCK_WEIGHTS = 201_326_592
"""12 x 4096^2: weights of a block's matrices."""
OUTPUT = 206_438_400
"""50400 x 4096: weights of the output layer."""
VALUE_HEAD = 33_570_817
"""2 x 4096^2 + 4 x 4096 + 1."""
REWARD_MODEL = GPT_J - OUTPUT - 50400 + 4096
"""Parameters of a reward model of this size: one number in place of the output layer and its biases."""
FORWARD, TRAINING, MEMORY = 0.45 * 312e12, 0.35 * 312e12, 0.6 * 1555e9
"""Rates of one GPU of p4d.24xlarge in bfloat16: operations per second forward and in training, bytes per second."""


def planned(profile: str, machine: str, *overrides: str) -> Plan:
    """The plan of a profile with some settings changed."""
    return plan_run(load_profile(profile, overrides), find_machine(machine), {})


def stage(plan: Plan, name: str) -> StagePlan:
    """The stage of that name."""
    return next(stage for stage in plan.stages if stage.name == name)
