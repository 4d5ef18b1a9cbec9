"""Small tools that all settings share."""

from __future__ import annotations

import pytest

from rlhf.config import flatten, require_multiple
from rlhf.errors import UserError


@pytest.mark.parametrize(("value", "divisor", "nearest"), [(7, 3, 6), (2, 4, 4)])
def test_a_value_that_is_not_a_multiple_is_refused_with_one_that_is(value: int, divisor: int, nearest: int) -> None:
    with pytest.raises(UserError, match=rf"^a \({value}\) must be a multiple of b \({divisor}\); try {nearest}$"):
        require_multiple("a", value, "b", divisor)


def test_a_multiple_is_accepted() -> None:
    require_multiple("a", 6, "b", 3)


def test_nested_settings_get_dotted_names() -> None:
    assert flatten({"seed": 1, "ppo": {"sampling": {"top_k": 0}, "kl_target": None}, "betas": [0.9, 0.95]}) == {
        "seed": 1,
        "ppo.sampling.top_k": 0,
        "ppo.kl_target": None,
        "betas": [0.9, 0.95],
    }
