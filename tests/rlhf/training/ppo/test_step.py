"""The first step is exactly on policy; bad scores and distances stop the run."""

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
from rlhf.runtime.distributed import start_processes
from rlhf.stages.train_ppo import make_run
from rlhf.training.ppo import step as step_module
from rlhf.training.ppo.context import Run
from rlhf.training.ppo.losses import Loss, ppo_loss
from rlhf.training.ppo.step import Trained, refuse_distance, refuse_divergence, run_step
from tests.support.tiny_models import copy_with_another_tokenizer
from tests.support.tiny_ppo import settings, write_inputs


def tiny_run(folder: Path, **changes: object) -> Run:
    return make_run(settings(**changes), write_inputs(folder), start_processes())


def record_losses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Log-probability and value, new and old, of every minibatch that is trained on."""
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
    run = tiny_run(tmp_path, unfrozen_blocks=unfrozen_blocks)
    recorded = record_losses(monkeypatch)
    assert run_step(run, 1)["kl"] == 0.0
    assert run_step(run, 2)["kl"] > 0.0
    minibatches_per_step = 4
    for first in (0, minibatches_per_step):
        logprob, old_logprob, value, old_value = recorded[first]
        assert torch.equal(logprob, old_logprob)
        assert torch.equal(value, old_value)
        assert not torch.equal(*recorded[first + 1][:2])


@pytest.mark.slow
def test_a_step_moves_the_policy_towards_what_is_rewarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewarded for tokens of the lower half of the vocabulary, it draws more and more of them."""
    run = tiny_run(tmp_path, rollouts_per_step=64, minibatch_size=16, epochs=4, learning_rate=0.01, kl_coefficient=0.0)

    def lower_half(_prompts: object, answers: list[Response]) -> Tensor:
        return torch.tensor([sum(token < 164 for token in answer.token_ids) / 8 for answer in answers])

    monkeypatch.setattr(run, "score", lower_half)
    scores = [run_step(run, step)["score"] for step in range(1, 9)]
    assert scores[0] == pytest.approx(0.5, abs=0.1)
    assert scores[-1] > 0.75


def test_answers_that_are_all_equal_leave_a_finite_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model stops at once, so every answer is empty and every score of a prompt the same."""
    run = tiny_run(tmp_path, subtract_chosen_score=False)
    head = run.policy.split.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.get_parameter("bias")[run.tokenizer.eos_token_id] = 100.0
    monkeypatch.setattr(run, "score", lambda _prompts, _answers: torch.full((4,), 3.0))
    row = run_step(run, 1)
    assert row["response_tokens"] == 1
    assert row["truncated_share"] == 0
    assert all(math.isfinite(value) for value in row.values())


def test_kl_beyond_its_limit_stops_the_run_before_training(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_kl=1e-9)
    run_step(run, 1)
    weights = {name: value.clone() for name, value in run.optimizer.weights().items()}
    with pytest.raises(UserError, match=r"step 2: the KL .* ppo\.max_kl is 1e-09.*last good checkpoint is kept"):
        run_step(run, 2)
    assert all(torch.equal(weights[name], value) for name, value in run.optimizer.weights().items())


def test_a_kl_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(UserError, match="KL to the reference is nan"):
        refuse_distance(math.nan, 100.0, step=3)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(UserError, match=r"step 3: value_loss is nan; .*lower ppo\.learning_rate"):
        refuse_divergence(Trained(0.1, math.nan, 0.0, 0.0, 1.0), step=3)


def test_a_reward_model_with_another_tokenizer_scores_the_text(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    other = tmp_path / "other"
    copy_with_another_tokenizer(inputs["reward"] / "model", other / "model")
    shutil.copy(inputs["reward"] / "chosen_scores.jsonl", other)
    run = make_run(settings(), inputs | {"reward": other}, start_processes())
    texts = [prompt.text for prompt in run.prompts]
    assert encode_prompt(run.reward_model.tokenizer, texts[0]) != run.prompts[0].token_ids
    answers = run.answer(run.prompts, [1, 2, 3, 4])
    alone = RewardModel.load(other / "model", "float32", "cpu").score(texts, [answer.text for answer in answers], 1)
    torch.testing.assert_close(run.score(run.prompts, answers), alone - 0.25)  # the chosen answers' score
    assert math.isfinite(run_step(run, 1)["reward"])


def test_a_reward_model_of_nan_stops_the_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    run.reward_model.model.score.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match=r"reward model .* no finite number"):
        run_step(run, 1)


def test_bfloat16_trains_float32_masters(tmp_path: Path) -> None:
    """At this learning rate no bfloat16 weight near 1 would ever move."""
    inputs, config = write_inputs(tmp_path), settings(learning_rate=1e-5)
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    run = make_run(config, inputs, start_processes())
    before = run.optimizer.weights()["transformer.ln_f.weight"].clone()
    assert run_step(run, 1)["kl"] == 0.0
    run_step(run, 2)
    after = run.optimizer.weights()["transformer.ln_f.weight"]
    assert run.policy.split.trained["transformer.ln_f.weight"].dtype == torch.bfloat16
    assert (after != before).all()
    assert (after - before).abs().max() < 1e-4
