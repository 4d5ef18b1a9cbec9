"""The memory formula equals numbers computed by hand and is close to measured peaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.models.sizes import gptj_size
from rlhf.training.ppo.memory import decode_batch_size, gpu_kv_cache_budget, ppo_memory
from tests.benchmarks.measure import run_child
from tests.benchmarks.ppo import ENGINE, memory_of
from tests.benchmarks.work import Work, make_inputs


def test_weights_and_trunk_states_by_hand() -> None:
    """Hidden size 2, vocabulary 5, 3 blocks of 12 * 4 + 14 = 62 parameters.

    Embeddings have 10 parameters, final norm 4, output layer 15, value head 17.
    """
    memory = ppo_memory(
        gptj_size(2, 3, 5),
        unfrozen_blocks=1,
        prompt_tokens=6,
        response_tokens=4,
        rollouts=8,
        decode_batch_size=8,
        minibatch_size=2,
        weight_bytes=2,
    )
    assert memory.policy == 2 * (10 + 3 * 62 + 4 + 15 + 17)
    assert memory.reward_model == 2 * (10 + 3 * 62 + 4 + 2)
    assert memory.reference == 2 * (62 + 4 + 15)
    assert memory.optimizer == 12 * (62 + 4 + 15 + 17)
    assert memory.trunk_states == 8 * 9 * 2 * 2
    assert memory.resident == sum(memory[:5])


def test_the_example_of_6b_on_40_gb() -> None:
    """The numbers in the docstring of `ppo_memory`, in GB: resident and peak."""
    for world_size, unfrozen, batch_size, resident, peak in ((8, 2, 19, 26.3, 31.7), (1, 2, 1, 33.0, 38.3)):
        model, token_bytes = gptj_size(4096, 28, 50400), 2 * 28 * 4096 * 2
        memory = ppo_memory(
            model,
            unfrozen_blocks=unfrozen,
            prompt_tokens=384,
            response_tokens=128,
            rollouts=56,
            decode_batch_size=batch_size,
            minibatch_size=4,
            weight_bytes=2,
            world_size=world_size,
        )
        budget = gpu_kv_cache_budget(42_297_786_368, memory.resident - memory.trunk_states)
        assert decode_batch_size(56, max_batch_size=64, bytes_per_row=512 * token_bytes, budget=budget) == batch_size
        assert memory.resident / 1e9 == pytest.approx(resident, abs=0.05)
        assert memory.peak / 1e9 == pytest.approx(peak, abs=0.05)


def test_responses_are_decoded_in_the_fewest_equal_batches_that_fit() -> None:
    assert decode_batch_size(64, max_batch_size=64, bytes_per_row=10, budget=225) == 22  # 22, 22, 20
    assert decode_batch_size(64, max_batch_size=16, bytes_per_row=10, budget=10_000) == 16
    assert decode_batch_size(64, max_batch_size=64, bytes_per_row=10, budget=0) == 1
    assert decode_batch_size(0, max_batch_size=64, bytes_per_row=10, budget=225) == 22


@pytest.mark.slow
@pytest.mark.parametrize("width", [256, 384])
def test_the_formula_is_within_a_third_of_the_measured_peak(tmp_path: Path, width: int) -> None:
    """Resident memory on a CPU, where the allocator keeps some freed memory."""
    work = Work(hidden_size=width, num_heads=width // 64, rollouts=32, response_tokens=16, epochs=1)
    make_inputs(tmp_path, work)
    measured, formula = run_child(ENGINE, [str(tmp_path)], threads=1).peak_bytes, memory_of(work).peak
    assert abs(measured - formula) <= formula / 3, f"measured {measured / 1e6:.0f} MB, formula {formula / 1e6:.0f} MB"
