"""What a validation measures, and the rows that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import generate
from rlhf.runtime.distributed import init_distributed
from rlhf.runtime.seeds import derive_seed
from rlhf.stages.train_ppo import make_context
from rlhf.storage.files import read_jsonl
from rlhf.training.ppo.step import run_step
from rlhf.training.ppo.validation import Validation, ValidationLog, validate
from tests.support.tiny_ppo import sample_only, settings, tiny_context, write_inputs

RICE = 299
"""Token id of " rice"."""


def test_rows_hold_each_response_and_its_raw_score(tmp_path: Path) -> None:
    """`reward` is the reward model's own number, `score` is 0.25 lower: the score of the chosen responses."""
    inputs, config = write_inputs(tmp_path), settings()
    context = make_context(config, inputs, init_distributed())
    prompts = context.validation_prompts
    responses = generate(
        context.policy.model,
        context.tokenizer,
        [prompt.token_ids for prompt in prompts],
        config.ppo.sampling,
        [derive_seed(config.seed, "validation", prompt.id) for prompt in prompts],
        batch_size=1,
    )
    rewards = RewardModel.load(inputs["reward"] / "model", "float32", "cpu").score(
        [prompt.text for prompt in prompts], [response.text for response in responses], 1
    )
    validation = validate(context, 3)
    assert validation.responses == [
        {
            "step": 3,
            "id": prompt.id,
            "prompt": prompt.text,
            "response": response.text,
            "ended": response.stopped,
            "tokens": len(response.token_ids),
            "kl": 0.0,
            "reward": pytest.approx(reward, abs=1e-5),
        }
        for prompt, response, reward in zip(prompts, responses, rewards.tolist(), strict=True)
    ]
    assert validation.row["score"] == pytest.approx(rewards.mean().item() - 0.25, abs=1e-5)
    assert validation.row["response_tokens"] == sum(len(response.token_ids) for response in responses) / 2


def test_the_kl_of_the_rows_averages_to_that_of_the_validation(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    run_step(context, 1)
    validation = validate(context, 1)
    kls = [float(str(row["kl"])) for row in validation.responses]
    assert min(kls) > 0
    assert validation.row["kl"] == pytest.approx(sum(kls) / 2)


def test_diversity_is_measured_across_responses(tmp_path: Path) -> None:
    """Two responses of eight times the same token have 12 3-grams, all equal.  Within one response it would be 1/6."""
    context = tiny_context(tmp_path)
    sample_only(context, RICE)
    assert validate(context, 0).row["distinct_ngrams"] == pytest.approx(1 / 12)


def test_a_response_ends_before_a_stop_sequence(tmp_path: Path) -> None:
    """ " rice rice" contains "e r" after two tokens: both count, and " ric" is scored."""
    context = tiny_context(tmp_path, stop_sequences=("e r",))
    sample_only(context, RICE)
    validation = validate(context, 0)
    assert [(row["response"], row["ended"], row["tokens"]) for row in validation.responses] == [(" ric", True, 2)] * 2
    assert validation.row["truncated_share"] == 0
    alone = context.reward_model.score([prompt.text for prompt in context.validation_prompts], [" ric"] * 2, 1)
    assert [row["reward"] for row in validation.responses] == pytest.approx(alone.tolist(), abs=1e-5)


def test_a_resumed_log_drops_the_rows_of_later_steps(tmp_path: Path) -> None:
    def row(step: int, prompt_id: str) -> dict[str, object]:
        return {"step": step, "id": prompt_id, "response": " a\u2028\u200b\n"}

    log = ValidationLog(tmp_path, None)
    for step in (0, 2, 4):
        log.write(Validation({"step": step, "score": 0.5}, [row(step, "a"), row(step, "b")]))
    path = tmp_path / "validation_responses.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "id": "a", "resp')  # cut off by a kill
    ValidationLog(tmp_path, 2).write(Validation({"step": 4, "score": 0.5}, [row(4, "a")]))
    assert read_jsonl(path) == [row(0, "a"), row(0, "b"), row(2, "a"), row(2, "b"), row(4, "a")]
    assert [read["step"] for read in read_jsonl(tmp_path / "validation.jsonl")] == [0, 2, 4]
