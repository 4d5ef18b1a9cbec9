"""The memory formula, by hand and against a measured run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.models.sizes import gptj_size
from rlhf.training.ppo.memory import decode_rows, gpu_cache_room, ppo_memory, ppo_memory_bytes
from tests.benchmarks.measure import run_child
from tests.benchmarks.ppo import ENGINE, memory_of
from tests.benchmarks.work import Work, make_inputs


def test_weights_and_kept_states_by_hand() -> None:
    """Width 2, 3 blocks of 12 * 4 + 14 = 62 parameters, 5 words: embeddings 10, final norm 4, output 15, value 17."""
    memory = ppo_memory_bytes(
        width=2,
        blocks=3,
        unfrozen_blocks=1,
        vocabulary=5,
        prompt_tokens=6,
        response_tokens=4,
        rollouts=8,
        rollout_batch=8,
        minibatch=2,
        weight_bytes=2,
    )
    assert memory.policy == 2 * (10 + 3 * 62 + 4 + 15 + 17)
    assert memory.reward_model == 2 * (10 + 3 * 62 + 4 + 2)
    assert memory.reference == 2 * (62 + 4 + 15)
    assert memory.optimizer == 12 * (62 + 4 + 15 + 17)
    assert memory.kept == 8 * 9 * 2 * 2
    assert memory.standing == sum(memory[:5])


def test_the_worked_figures_of_6b_on_40_gb() -> None:
    """Those of the docstring of `ppo_memory`, in GB: standing and peak."""
    for processes, unfrozen, at_once, standing, peak in ((8, 2, 19, 26.3, 31.7), (1, 2, 1, 33.0, 38.3)):
        model, token_bytes = gptj_size(4096, 28, 50400), 2 * 28 * 4096 * 2
        memory = ppo_memory(
            model,
            unfrozen_blocks=unfrozen,
            prompt_tokens=384,
            response_tokens=128,
            rollouts=56,
            rollout_batch=at_once,
            minibatch=4,
            weight_bytes=2,
            processes=processes,
        )
        room = gpu_cache_room(42_297_786_368, memory.standing - memory.kept)
        assert decode_rows(56, at_most=64, row_bytes=512 * token_bytes, room=room) == at_once
        assert memory.standing / 1e9 == pytest.approx(standing, abs=0.05)
        assert memory.peak / 1e9 == pytest.approx(peak, abs=0.05)


def test_answers_are_drawn_in_as_few_equal_batches_as_fit() -> None:
    assert decode_rows(64, at_most=64, row_bytes=10, room=225) == 22  # 22, 22, 20
    assert decode_rows(64, at_most=16, row_bytes=10, room=10_000) == 16
    assert decode_rows(64, at_most=64, row_bytes=10, room=0) == 1
    assert decode_rows(0, at_most=64, row_bytes=10, room=225) == 22


@pytest.mark.slow
@pytest.mark.parametrize("width", [256, 384])
def test_the_formula_is_within_a_third_of_the_measured_peak(tmp_path: Path, width: int) -> None:
    """Resident memory on the CPU, where the allocator keeps some of what was freed."""
    work = Work(width=width, heads=width // 64, rollouts=32, response_tokens=16, epochs=1)
    make_inputs(tmp_path, work)
    measured, formula = run_child(ENGINE, [str(tmp_path)], threads=1).peak_bytes, memory_of(work).peak
    assert abs(measured - formula) <= formula / 3, f"measured {measured / 1e6:.0f} MB, formula {formula / 1e6:.0f} MB"
