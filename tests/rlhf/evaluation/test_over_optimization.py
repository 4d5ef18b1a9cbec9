"""Best-of-n: weights of sorted samples, and KL."""

from __future__ import annotations

from itertools import combinations
from math import log

import pytest

from rlhf.evaluation.over_optimization import best_of_kl, best_of_weights


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_weights_are_the_shares_of_choices_in_which_a_sample_is_the_best(n: int) -> None:
    choices = list(combinations(range(5), n))
    assert best_of_weights(5, n).tolist() == pytest.approx(
        [sum(max(choice) == sample for choice in choices) / len(choices) for sample in range(5)]
    )


def test_kl_of_best_of_n() -> None:
    assert best_of_kl(1) == 0.0
    assert best_of_kl(16) == pytest.approx(log(16) - 15 / 16)


@pytest.mark.parametrize("samples", range(1, 65))
def test_weights_sum_to_one_up_to_rounding(samples: int) -> None:
    for n in (2**power for power in range(samples.bit_length())):
        assert best_of_weights(samples, n).sum() == pytest.approx(1.0, abs=1e-12)
