"""accelerate accepts our configurations and reads them as intended."""

from __future__ import annotations

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from deployments import FOLDER

EXPECTED = {
    "cpu": (DistributedType.NO, "no"),
    "gpu": (DistributedType.MULTI_GPU, "no"),
    "fsdp": (DistributedType.FSDP, "bf16"),
    "zero2": (DistributedType.FSDP, "bf16"),
}


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in (FOLDER / "accelerate").iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_loads_it(name: str) -> None:
    """Its loader rejects unknown keys."""
    config = load_config_from_file(str(FOLDER / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.mixed_precision) == EXPECTED[name]
    assert config.use_cpu == (name == "cpu")


@pytest.mark.parametrize(("name", "strategy"), [("fsdp", "FULL_SHARD"), ("zero2", "SHARD_GRAD_OP")])
def test_what_is_sharded_over_the_gpus(name: str, strategy: str) -> None:
    config = load_config_from_file(str(FOLDER / "accelerate" / f"{name}.yaml"))
    assert config.fsdp_config["fsdp_sharding_strategy"] == strategy
    known = launch_command_parser().parse_args(["module"])
    assert [key for key in config.fsdp_config if not hasattr(known, key)] == []
