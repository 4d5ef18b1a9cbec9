"""Estimates of the judges, best-of-n and questions agree with numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.planning.plan import Plan
from tests.support.plans import (
    BLOCK_WEIGHTS,
    FORWARD,
    GPT_J,
    MEMORY,
    OUTPUT,
    REWARD_MODEL,
    TRAINING,
    planned,
    stage,
)

BLOCKS = 2 * 28 * BLOCK_WEIGHTS
"""Operations per token in a forward pass through all blocks."""
TOKENS = 0.29 * 384 + 128
"""A prompt of mean length with a response of the maximum length."""
ROW = 0.29 * 384 + 0.32 * 128
"""A prompt and a response of mean length."""


@pytest.fixture(scope="module")
def published() -> Plan:
    return planned("gptj-6b", "p4d.24xlarge")


@pytest.fixture
def gptj_folder(tmp_path: Path) -> Path:
    """A folder with the configuration of GPT-J-6B."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "vocab_size": 50400})
    )
    return tmp_path


def test_training_of_the_judge_by_hand(published: Plan) -> None:
    """160,800 rows, 143,112 kept: 42,933 are for the judge, in 1,342 steps of 32 pairs, and 100,179 for the others."""
    assert published.scenario.judge is not None
    assert (published.scenario.pairs, published.scenario.judge.pairs) == (100_179, 42_933)
    judge = stage(published, "train_judge").estimate
    # Both sides of a pair, 6 operations per weight and 2 more to recompute; 3 validations of 128 pairs.
    flop = BLOCKS * ROW * 2 * (4 * 1_342 * 32 + 3 * 128)
    assert judge.flop == pytest.approx(flop, rel=1e-6)
    assert judge.memory["AdamW"] == 8 * REWARD_MODEL // 8
    # The exchange, 1,342 x 0.17 s, is faster than the products.  One checkpoint and the final model, at 1 GB/s.
    files = (3 * 4 + 2 * (2 + 4)) * REWARD_MODEL / 1e9
    assert judge.seconds == pytest.approx(flop / 8 / TRAINING + files, rel=1e-6)


def test_the_judge_has_settings_and_a_model_of_its_own(gptj_folder: Path) -> None:
    plan = planned(
        "quickstart",
        "cpu",
        f"judge.model.path={gptj_folder}",
        "judge.model.dtype=bfloat16",
        "judge.training.batch_size=4",
        "judge.training.device_batch_size=4",
        "judge.training.max_steps=7",
    )
    judge = stage(plan, "train_judge")
    assert "7 steps of 4;" in judge.estimate.source
    assert "80 steps of 16;" in stage(plan, "train_reward").estimate.source
    assert judge.estimate.memory["weights"] == 4 * REWARD_MODEL
    assert "lower judge.training.device_batch_size" in judge.problems[0]
    assert stage(plan, "judge_responses").estimate.memory["weights"] == 2 * REWARD_MODEL
    # Read in float32, stored in bfloat16 twice, at 1 GB/s.
    assert stage(plan, "prepare_model[judge]").estimate.seconds == pytest.approx((4 + 2 * 2) * GPT_J / 1e9)


def test_best_of_n_by_hand(published: Plan) -> None:
    """16 x 128 responses: 158 batches of 13, so 20 for a rank."""
    best_of_n = stage(published, "sample_best_of_n").estimate
    assert best_of_n.flop == pytest.approx(2_048 * (2 * TOKENS * BLOCKS + 128 * 2 * OUTPUT), rel=1e-6)
    # Each of 128 draws reads the weights and 13 rows' keys and values of 175 tokens on average.
    draws = 128 * (2 * GPT_J + 13 * 175 * 458_752) / MEMORY
    batch = 13 * (111.36 + TOKENS) * BLOCKS / FORWARD + draws
    files = 2 * (GPT_J + REWARD_MODEL) / 1e9
    assert best_of_n.seconds == pytest.approx(20 * batch + files, rel=1e-6)
    one_batch = stage(
        planned("gptj-6b", "p4d.24xlarge", "evaluation.best_of=2", "responses.batch_size=500"), "sample_best_of_n"
    )
    assert one_batch.estimate.memory["keys and values"] == 256 * 512 * 458_752


@pytest.mark.parametrize(
    ("profile", "overrides", "responses"),
    [
        ("gptj-6b", (), 2 * 100 + 20 * 128 + 16 * 128),  # test responses, 20 validations, best of 16
        ("gptj-6b", ("ppo.seeds=3",), 4 * 100 + 3 * 20 * 128 + 16 * 128),
        ("gptj-6b", ("evaluation.best_of=1",), 2 * 100 + 20 * 128),
        ("gptj-6b-trlx", (), 2 * 100 + 16 * 128),  # trlx does not keep responses of its validations
    ],
)
def test_responses_that_the_judge_scores(profile: str, overrides: tuple[str, ...], responses: int) -> None:
    plan = planned(profile, "p4d.24xlarge", *overrides)
    judging = stage(plan, "judge_responses").estimate
    flop = responses * TOKENS * BLOCKS
    assert judging.flop == pytest.approx(flop, rel=1e-6)
    assert judging.seconds == pytest.approx(flop / plan.scenario.processes / FORWARD + 2 * REWARD_MODEL / 1e9, rel=1e-6)


def test_a_server_as_judge_takes_time_and_no_memory() -> None:
    """100 pairs, 8 at a time: 13 times two questions, one after the other, of an assumed second each."""
    plan = planned("gptj-6b", "p4d.24xlarge", "judge.llm.url=http://127.0.0.1:8000/v1", "judge.llm.model=m")
    asked = stage(plan, "ask_llm_judge").estimate
    assert (asked.seconds, asked.memory, asked.flop) == (26.0, {}, 0.0)
    assert "assumed" in asked.source


def test_a_language_model_in_a_folder_as_judge(gptj_folder: Path) -> None:
    """200 questions of 111.36 + 2 x 128 + 200 tokens, and the probabilities of one token after each; 6 at a time."""
    plan = planned("gptj-6b", "p4d.24xlarge", f"judge.llm.path={gptj_folder}", "judge.llm.requests_at_once=7")
    asked = stage(plan, "ask_llm_judge").estimate
    flop = 200 * ((111.36 + 256 + 200) * BLOCKS + 2 * OUTPUT)
    assert asked.flop == pytest.approx(flop, rel=1e-6)
    assert asked.seconds == pytest.approx(flop / 8 / FORWARD + 2 * GPT_J / 1e9, rel=1e-6)
    assert asked.memory == {
        "weights": 2 * GPT_J,
        "activations": 14 * 6 * (384 + 256 + 200) * 4096 * 2,
        "logits": 4 * 6 * 50400 * 4,
    }
    [problem] = stage(planned("quickstart", "cpu", f"judge.llm.path={gptj_folder}"), "ask_llm_judge").problems
    assert "set judge.llm.url" in problem


def test_questions_add_two_forward_passes_for_each_choice(published: Plan, tmp_path: Path) -> None:
    """4 choices of 26 + 8 tokens; log-probabilities of 8."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text("{}\n" * 50)
    for source, count in (("synthetic", 60), (str(questions), 50)):
        plan = planned("gptj-6b", "p4d.24xlarge", f"evaluation.questions={source}")
        added = stage(plan, "compare_policies").estimate.flop - stage(published, "compare_policies").estimate.flop
        assert added == pytest.approx(2 * count * 4 * (34 * BLOCKS + 8 * 2 * OUTPUT), rel=1e-6)
