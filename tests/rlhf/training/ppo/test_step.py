"""The first step is exactly on-policy; invalid scores, losses and KLs stop the context."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.errors import UserError
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import Response
from rlhf.models.tokenization import encode_prompt
from rlhf.runtime.distributed import init_distributed
from rlhf.stages.train_ppo import make_context
from rlhf.training.ppo import step as step_module
from rlhf.training.ppo.context import PpoContext
from rlhf.training.ppo.losses import Loss, ppo_loss
from rlhf.training.ppo.step import TrainStats, check_finite, check_kl, run_step
from tests.support.tiny_models import copy_with_another_tokenizer
from tests.support.tiny_ppo import settings, write_inputs


def tiny_context(folder: Path, **changes: object) -> PpoContext:
    return make_context(settings(**changes), write_inputs(folder), init_distributed())


def record_losses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """New and old log-probability, new and old value of every minibatch in training."""
    recorded = []

    def recording(
        logprob_T: Tensor, value_T: Tensor, *, old_logprob_T: Tensor, old_value_T: Tensor, **rest: Any
    ) -> Loss:
        recorded.append((logprob_T.detach(), old_logprob_T, value_T.detach(), old_value_T))
        return ppo_loss(logprob_T, value_T, old_logprob_T=old_logprob_T, old_value_T=old_value_T, **rest)

    monkeypatch.setattr(step_module, "ppo_loss", recording)
    return recorded


@pytest.mark.parametrize("unfrozen_blocks", [2, "all"])
def test_at_the_first_step_kl_is_exactly_0_and_each_first_minibatch_has_ratio_exactly_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfrozen_blocks: object
) -> None:
    context = tiny_context(tmp_path, unfrozen_blocks=unfrozen_blocks)
    recorded = record_losses(monkeypatch)
    assert run_step(context, 1)["kl"] == 0.0
    assert run_step(context, 2)["kl"] > 0.0
    minibatches_per_step = 4
    for first in (0, minibatches_per_step):
        logprob, old_logprob, value, old_value = recorded[first]
        assert torch.equal(logprob, old_logprob)
        assert torch.equal(value, old_value)
        assert not torch.equal(*recorded[first + 1][:2])


@pytest.mark.slow
def test_steps_move_the_policy_towards_rewarded_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewarded for tokens of the lower half of the vocabulary, the policy samples more and more of them."""
    context = tiny_context(
        tmp_path, rollouts_per_step=64, minibatch_size=16, epochs=4, learning_rate=0.01, kl_coefficient=0.0
    )

    def lower_half(_prompts: object, responses: list[Response]) -> Tensor:
        return torch.tensor([sum(token < 164 for token in response.token_ids) / 8 for response in responses])

    monkeypatch.setattr(context, "score", lower_half)
    scores = [run_step(context, step)["score"] for step in range(1, 9)]
    assert scores[0] == pytest.approx(0.5, abs=0.1)
    assert scores[-1] > 0.75


def test_a_step_with_equal_responses_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model always samples the EOS first, so all responses are empty and all scores are equal."""
    context = tiny_context(tmp_path, subtract_chosen_score=False)
    head = context.policy.split.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.get_parameter("bias")[context.tokenizer.eos_token_id] = 100.0
    monkeypatch.setattr(context, "score", lambda _prompts, _responses: torch.full((4,), 3.0))
    row = run_step(context, 1)
    assert row["response_tokens"] == 1
    assert row["truncated_share"] == 0
    assert all(math.isfinite(value) for value in row.values())


def test_a_kl_above_max_kl_stops_the_run_before_training(tmp_path: Path) -> None:
    context = tiny_context(tmp_path, max_kl=1e-9)
    run_step(context, 1)
    weights = {name: value.clone() for name, value in context.optimizer.weights().items()}
    with pytest.raises(UserError, match=r"step 2: the KL .* ppo\.max_kl is 1e-09.*last good checkpoint is kept"):
        run_step(context, 2)
    assert all(torch.equal(weights[name], value) for name, value in context.optimizer.weights().items())


def test_a_kl_of_nan_stops_the_run() -> None:
    with pytest.raises(UserError, match="KL to the reference is nan"):
        check_kl(math.nan, 100.0, step=3)


def test_a_loss_of_nan_stops_the_run() -> None:
    with pytest.raises(UserError, match=r"step 3: value_loss is nan; .*lower ppo\.learning_rate"):
        check_finite(TrainStats(0.1, math.nan, 0.0, 0.0, 1.0), step=3)


def test_a_reward_model_with_another_tokenizer_scores_the_text(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    other = tmp_path / "other"
    copy_with_another_tokenizer(inputs["reward"] / "model", other / "model")
    shutil.copy(inputs["reward"] / "chosen_scores.jsonl", other)
    context = make_context(settings(), inputs | {"reward": other}, init_distributed())
    texts = [prompt.text for prompt in context.prompts]
    assert encode_prompt(context.reward_model.tokenizer, texts[0]) != context.prompts[0].token_ids
    responses = context.generate(context.prompts, [1, 2, 3, 4])
    alone = RewardModel.load(other / "model", "float32", "cpu").score(
        texts, [response.text for response in responses], 1
    )
    torch.testing.assert_close(context.score(context.prompts, responses), alone - 0.25)  # the chosen responses' score
    assert math.isfinite(run_step(context, 1)["reward"])


def test_a_reward_model_of_nan_stops_the_run(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    context.reward_model.model.score.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match=r"reward model .* is nan, not finite"):
        run_step(context, 1)


def test_bfloat16_trains_float32_masters(tmp_path: Path) -> None:
    """At this learning rate a bfloat16 weight near 1 would never change."""
    inputs, config = write_inputs(tmp_path), settings(learning_rate=1e-5)
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    context = make_context(config, inputs, init_distributed())
    before = context.optimizer.weights()["transformer.ln_f.weight"].clone()
    assert run_step(context, 1)["kl"] == 0.0
    run_step(context, 2)
    after = context.optimizer.weights()["transformer.ln_f.weight"]
    assert context.policy.split.trained_parameters["transformer.ln_f.weight"].dtype == torch.bfloat16
    assert (after != before).all()
    assert (after - before).abs().max() < 1e-4
