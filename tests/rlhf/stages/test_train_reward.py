"""Reward model: training, files of a run, imported models, shuffled labels, and the bytes after a kill."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from rlhf.config import ModelConfig, RewardConfig
from rlhf.errors import UserError
from rlhf.models.loading import new_reward_model, save_model
from rlhf.models.reward_model import RewardModel
from rlhf.models.tokenization import load_tokenizer
from rlhf.stage_config import RewardStage
from rlhf.stages.train_reward import shuffle_labels, train_reward
from rlhf.storage.files import read_jsonl
from tests.support.stages import Stages, assert_same_files, undisturbed_and_killed
from tests.support.tiny_inputs import tiny_inputs, write_request
from tests.support.tiny_models import END

SETTINGS = RewardConfig(
    epochs=4, batch_size=8, device_batch_size=4, learning_rate=1e-2, warmup_steps=2, checkpoint_every=3
)
CONFIG = RewardStage(seed=1, model=ModelConfig(), reward=SETTINGS)
CONTROL = CONFIG.model_copy(update={"control": "shuffled"})


class TrainedRun(NamedTuple):
    """A run of the stage."""

    inputs: dict[str, Path]
    output: Path
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("trained")
    inputs = tiny_inputs(folder)
    return TrainedRun(inputs, folder / "out", train_reward(CONFIG, inputs, folder / "out"))


def test_a_run_learns_the_preference_and_scores_the_chosen_responses(trained: TrainedRun) -> None:
    inputs, output, metrics = trained
    assert metrics["pairs"] == 11
    assert metrics["accuracy"] > 0.9
    assert metrics["accuracy_low"] < metrics["accuracy"] <= metrics["accuracy_high"]
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert {name: evaluation[name] for name in metrics} == metrics
    assert sum(row["pairs"] for row in evaluation["calibration"]) == 11

    rows = read_jsonl(output / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation_accuracy" in row] == [0, 3, 6, 9, 12, 15, 18, 20]
    assert {"loss", "accuracy", "margin", "learning_rate", "tokens_per_second"} <= rows[-1].keys()

    reward = RewardModel.load(output / "model", "float32", "cpu")
    prompts = [
        row
        for name in ("ppo_prompts", "validation_prompts", "test_prompts")
        for row in read_jsonl(inputs["data"] / f"{name}.jsonl")
    ]
    expected = reward.score([str(row["prompt"]) for row in prompts], [str(row["chosen"]) for row in prompts], 3)
    scored = read_jsonl(output / "chosen_scores.jsonl")
    assert [row["id"] for row in scored] == [row["id"] for row in prompts]
    assert [row["score"] for row in scored] == pytest.approx(expected.tolist(), abs=1e-5)


def test_shuffled_labels_swap_about_half_of_the_pairs() -> None:
    """Each by a coin of its own: of 2,000, half with a standard deviation of 22."""
    rows = [{"chosen_ids": [2 * number], "rejected_ids": [2 * number + 1]} for number in range(2000)]
    shuffled = shuffle_labels(rows, seed=3)
    assert [{*row["chosen_ids"], *row["rejected_ids"]} for row in shuffled] == [{2 * n, 2 * n + 1} for n in range(2000)]
    swapped = [row["chosen_ids"] > row["rejected_ids"] for row in shuffled]
    assert 900 < sum(swapped) < 1100
    neighbors = sum(first == second for first, second in pairwise(swapped))
    assert 900 < neighbors < 1100
    assert shuffle_labels(rows, seed=3) == shuffled
    other = [row["chosen_ids"] > row["rejected_ids"] for row in shuffle_labels(rows, seed=4)]
    assert 900 < sum(first == second for first, second in zip(swapped, other, strict=True)) < 1100


def test_with_shuffled_labels_nothing_is_learned(trained: TrainedRun, tmp_path: Path) -> None:
    """The same pairs that teach the preference above leave the accuracy at one half; its interval covers that."""
    assert trained.metrics["accuracy_low"] > 0.5
    metrics = train_reward(CONTROL, trained.inputs, tmp_path / "out")
    assert metrics["accuracy_low"] < 0.5 < metrics["accuracy_high"]
    assert abs(metrics["mean_margin"]) < 0.2 * trained.metrics["mean_margin"]
    # Before the first step the model is that of the fixture, so equal measurements mean equal validation pairs.
    first, expected = (
        {name: value for name, value in read_jsonl(folder / "metrics.jsonl")[0].items() if "validation_" in name}
        for folder in (tmp_path / "out", trained.output)
    )
    assert first["validation_margin"] != 0
    assert first == expected
    again = train_reward(CONTROL, trained.inputs, tmp_path / "again")
    assert again == metrics
    assert_same_files(tmp_path / "again" / "model", tmp_path / "out" / "model")


def test_the_control_measures_a_model_on_pairs_that_are_not_shuffled(trained: TrainedRun, tmp_path: Path) -> None:
    """A finished training is not repeated, so the stage only measures the model above."""
    shutil.copytree(trained.output / "model", tmp_path / "model")
    assert train_reward(CONTROL, trained.inputs, tmp_path) == trained.metrics
    assert not (tmp_path / "metrics.jsonl").exists()
    for name in ("evaluation.json", "chosen_scores.jsonl"):
        assert (tmp_path / name).read_bytes() == (trained.output / name).read_bytes()


def test_transformers_own_forward_pass_gives_the_same_scores(trained: TrainedRun) -> None:
    """Other code that loads the folder and pads a batch also reads the score at the EOS."""
    folder = trained.output / "model"
    prompt, responses = "\n\nHuman: rice?\n\nAssistant:", [" sky.", " sky blue air light red!"]
    ours = RewardModel.load(folder, "float32", "cpu").score([prompt] * 2, responses, 2)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [prompt + response + tokenizer.eos_token for response in responses]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(folder)(**batch).logits[:, 0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_an_imported_model_is_evaluated_like_a_trained_one(trained: TrainedRun, tmp_path: Path) -> None:
    metrics = train_reward(CONFIG, trained.inputs | {"source": trained.output / "model"}, tmp_path)
    assert metrics == trained.metrics
    assert not (tmp_path / "metrics.jsonl").exists()
    for name in ("model/model.safetensors", "chosen_scores.jsonl", "evaluation.json"):
        assert (tmp_path / name).read_bytes() == (trained.output / name).read_bytes()


def test_a_pickle_without_a_tokenizer_gets_that_of_the_base_model(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    base = inputs["model"] / "model"
    state = {name: tensor for name, tensor in load_file(base / "model.safetensors").items() if "lm_head" not in name}
    (tmp_path / "published").mkdir()
    torch.save(state | {"v_head.weight": torch.ones(1, 32)}, tmp_path / "published" / "hf_ckpt.pt")
    train_reward(CONFIG, inputs | {"source": tmp_path / "published"}, tmp_path / "out")

    model, _ = new_reward_model(base, "float32", seed=0)
    model.score.weight.data.fill_(1)
    save_model(model, load_tokenizer(base), tmp_path / "expected")
    prompts, responses = ["\n\nHuman: rice?\n\nAssistant:"], [" sky."]
    scores = [
        RewardModel.load(folder, "float32", "cpu").score(prompts, responses, 1)
        for folder in (tmp_path / "out" / "model", tmp_path / "expected")
    ]
    torch.testing.assert_close(scores[0], scores[1])


def gpt2_reward_model(folder: Path, rows: int, vocabulary: int | None) -> Path:
    """A reward model of `rows` embeddings; its tokenizer, of `vocabulary` entries, is in GPT-2's first layout."""
    config = GPT2Config(vocab_size=rows, n_embd=32, n_layer=1, n_head=4, n_positions=128, num_labels=1, pad_token_id=0)
    torch.manual_seed(0)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    if vocabulary is not None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = [END, *alphabet, *(f"word{number}" for number in range(vocabulary - len(alphabet) - 1))]
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.mark.parametrize("rows", [300, 400], ids=["fewer rows than the base", "more rows than the base"])
def test_an_imported_model_keeps_its_own_tokenizer(tmp_path: Path, rows: int) -> None:
    """In GPT-2's first layout there is no tokenizer.json.  Ids by hand: `a` is alone in the alphabet, no merges."""
    source = gpt2_reward_model(tmp_path / "published", rows, vocabulary=300)
    train_reward(CONFIG, tiny_inputs(tmp_path) | {"source": source}, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out" / "model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert tokenizer("abc").input_ids == [1 + alphabet.index(letter) for letter in "abc"]
    assert tokenizer.vocab_size == 300


def test_an_imported_model_with_too_few_embeddings_for_the_tokenizer_is_refused(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    source = gpt2_reward_model(tmp_path / "published", 290, vocabulary=None)
    with pytest.raises(UserError, match=r"the tokenizer's ids go up to 319, but the model has 290 embeddings"):
        train_reward(CONFIG, inputs | {"source": source}, tmp_path / "out")
    gpt2_reward_model(source, 290, vocabulary=300)
    with pytest.raises(UserError, match=r"the tokenizer's ids go up to 299, but the model has 290 embeddings"):
        train_reward(CONFIG, inputs | {"source": source}, tmp_path / "out")


def test_the_cache_is_in_use_as_in_the_base_model(trained: TrainedRun) -> None:
    base, own = (
        json.loads((folder / "model" / "config.json").read_text())["use_cache"]
        for folder in (trained.inputs["model"], trained.output)
    )
    assert base is own is True


def test_no_pairs_is_a_user_error(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    (inputs["data"] / "preferences.jsonl").write_text("")
    with pytest.raises(UserError, match=r"preferences\.jsonl: no rows"):
        train_reward(CONFIG, inputs, tmp_path / "out")


@pytest.mark.slow
def test_two_processes_train_and_score_like_one(tmp_path: Path, stages: Stages) -> None:
    request = write_request(tmp_path / "request.json", "train_reward", CONFIG, tiny_inputs(tmp_path))
    for processes in (1, 2):
        assert stages.run("rlhf.stages.train_reward", request, tmp_path / str(processes), processes=processes)
        assert json.loads((tmp_path / str(processes) / "manifest.json").read_text())["processes"] == processes
    one, two = (read_jsonl(tmp_path / name / "chosen_scores.jsonl") for name in ("1", "2"))
    assert [row["id"] for row in one] == [row["id"] for row in two]
    assert [row["score"] for row in one] == pytest.approx([row["score"] for row in two], abs=1e-3)


@pytest.mark.slow
@pytest.mark.exhaustive  # SFT shows the same of the same trainer
def test_a_run_that_is_killed_ten_times_gives_the_same_bytes(tmp_path: Path, stages: Stages) -> None:
    request = write_request(tmp_path / "request.json", "train_reward", CONFIG, tiny_inputs(tmp_path))
    undisturbed, killed = undisturbed_and_killed(stages, "rlhf.stages.train_reward", request, tmp_path)
    assert_same_files(killed / "model", undisturbed / "model")
