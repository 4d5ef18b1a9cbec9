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
from rlhf.training.ppo.losses import Loss, ppo_loss
from rlhf.training.ppo.step import KlLimitError, TrainStats, check_finite, check_kl, run_step
from tests.support.tiny_models import copy_with_another_tokenizer
from tests.support.tiny_ppo import sample_only, settings, tiny_context, write_inputs


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
    """Rewarded for tokens of the lower half of the vocabulary, the policy samples more and more of them.

    Without the penalty of responses that do not end, because longer responses have higher scores.
    """
    context = tiny_context(
        tmp_path,
        rollouts_per_step=64,
        minibatch_size=16,
        epochs=4,
        learning_rate=0.01,
        kl_coefficient=0.0,
        missing_eos_penalty=0.0,
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
    sample_only(context, context.tokenizer.eos_token_id)
    monkeypatch.setattr(context, "score", lambda _prompts, _responses: torch.full((4,), 3.0))
    row = run_step(context, 1)
    assert row["response_tokens"] == 1
    assert row["truncated_share"] == 0
    assert all(math.isfinite(value) for value in row.values())


RICE = 299
"""Token id of " rice"."""


@pytest.mark.parametrize(
    ("token", "clip", "reward"),
    [
        (0, 10.0, 3.0),  # the EOS: every response ends
        (RICE, 10.0, 2.0),
        (RICE, 2.5, 2.0),  # clipped after the penalty; before it, 1.5 would remain
    ],
)
def test_a_response_that_does_not_end_is_penalized_in_the_reward_but_not_in_the_logged_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: int, clip: float, reward: float
) -> None:
    context = tiny_context(tmp_path, missing_eos_penalty=1.0, score_clip=clip, scale_scores=False, kl_coefficient=0.0)
    sample_only(context, token)
    monkeypatch.setattr(context, "score", lambda _prompts, _responses: torch.full((4,), 3.0))
    row = run_step(context, 1)
    assert row["truncated_share"] == (token == RICE)
    assert row["score"] == 3.0
    assert row["reward"] == pytest.approx(reward)


def test_all_tokens_of_a_stop_sequence_are_trained_on_and_the_response_counts_as_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ " rice rice" contains "e r" after two tokens; only " ric" is scored."""
    context = tiny_context(tmp_path, stop_sequences=("e r",), scale_scores=False, kl_coefficient=0.0)
    sample_only(context, RICE)
    texts: list[str] = []

    def score(_prompts: object, responses: list[Response]) -> Tensor:
        texts.extend(response.text for response in responses)
        return torch.full((4,), 3.0)

    monkeypatch.setattr(context, "score", score)
    recorded = record_losses(monkeypatch)
    row = run_step(context, 1)
    assert texts == [" ric"] * 4
    assert row["truncated_share"] == 0
    assert row["response_tokens"] == 2
    assert [len(logprob) for logprob, *_ in recorded] == [4] * 4  # two rollouts of two tokens in each minibatch
    assert row["reward"] == pytest.approx(3.0)


def test_a_kl_above_max_kl_stops_the_step_before_training(tmp_path: Path) -> None:
    context = tiny_context(tmp_path, max_kl=1e-9)
    run_step(context, 1)
    weights = {name: value.clone() for name, value in context.optimizer.weights().items()}
    with pytest.raises(KlLimitError) as reached:
        run_step(context, 2)
    assert reached.value.kl > 1e-9
    assert all(torch.equal(weights[name], value) for name, value in context.optimizer.weights().items())


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_not_finite_is_an_error(kl: float) -> None:
    with pytest.raises(UserError, match=rf"step 3: the KL to the reference is {kl}, not finite; .*lower ppo"):
        check_kl(kl, 100.0, step=3)


def test_a_kl_equal_to_max_kl_is_allowed() -> None:
    check_kl(100.0, 100.0, step=3)


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
