"""The GPU benchmark, at a tiny size on the CPU, where only CUDA graphs and numbers differ."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.errors import UserError
from tests.benchmarks import gpu
from tests.benchmarks.gpu import GPTJ_6B, decode_bytes, run_on
from tests.benchmarks.measure import CPU
from tests.benchmarks.part import Options
from tests.benchmarks.work import Work

TINY = {
    "hidden_size": 64,
    "num_layers": 3,
    "num_heads": 2,
    "rotary_size": 16,
    "vocab_size": 128,
    "prompt_tokens": 12,
}
SMALL = {"response_tokens": 8, "rollouts": 8, "epochs": 1, "chunk": 4}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_tiny_model_on_the_cpu() -> None:
    result = run_on(GPTJ_6B.model_copy(update=TINY | SMALL), CPU, threads=1)
    assert all(math.isfinite(value) and value > 0 for value in result.metrics.values())
    sides = {
        f"{side}.{phase}" for side in ("ours", "reference") for phase in ("generate", "score", "evaluate", "train")
    }
    assert {f"{name}_seconds" for name in sides} | {f"{name}_tokens_per_second" for name in sides} <= set(
        result.metrics
    )
    assert {"ratio", "training_ratio", "copy_gigabytes_per_second", "ours.training_mfu"} <= set(result.metrics)
    assert {"ours.peak_bytes", "ours.decode_seconds_over_limit"} <= set(result.metrics)
    (table,) = result.tables
    assert "MFU" in str(table.caption)


def test_the_model_has_the_size_of_gpt_j_6b() -> None:
    """EleutherAI/gpt-j-6b has 6,050,882,784 parameters."""
    assert GPTJ_6B.parameters == 6_050_882_784
    with torch.device("meta"):
        small = Work(hidden_size=64, num_layers=3, num_heads=2, rotary_size=16, vocab_size=128)
        model = AutoModelForCausalLM.from_config(small.model())
    assert sum(parameter.numel() for parameter in model.parameters()) == small.parameters


def test_decode_bytes_by_hand() -> None:
    """Two tokens after the first: 62 + 5 x 2 weights each; keys and values of size 2 of 7 and 8 tokens in 2 rows."""
    work = Work(
        hidden_size=2, num_layers=1, vocab_size=5, prompt_tokens=6, response_tokens=3, rollouts=2, dtype="bfloat16"
    )
    assert decode_bytes(work) == 2 * (2 * (62 + 10) + 2 * (7 + 8) * 4)


def test_without_a_gpu_the_benchmark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        gpu.run(Options(quick=False, linear=False, repeats=1, threads=1))
