"""Fine-tuning: which tokens the loss covers, what a run leaves, and that a killed run ends like an unbroken one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config import ModelConfig, SftConfig, SftStage
from tests.stage_runs import assert_resumes_to_the_same_bytes, tiny_inputs, write_request

SETTINGS = SftConfig(
    epochs=2, batch_size=8, device_batch_size=4, learning_rate=1e-2, warmup_steps=2, checkpoint_every=3
)
CONFIG = SftStage(seed=1, model=ModelConfig(), sft=SETTINGS)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path, "gpt2")  # which has dropout: generator states count
    request = write_request(tmp_path / "request.json", "train_sft", CONFIG, inputs)
    assert_resumes_to_the_same_bytes("rlhf.train_sft", request, tmp_path, checkpoint_steps=(3, 9))
