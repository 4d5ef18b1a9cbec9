"""What PPO changed: losses and KL worked out another way, the null case exact, nothing depends on the batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config import ModelConfig, RunConfig, ToxicityConfig
from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import encode_response, encode_prompt, load_tokenizer
from rlhf.stage_config import ComparisonStage, part_of
from rlhf.stages import compare_policies as stage
from rlhf.stages.compare_policies import Dialogue, Models, answer_kl, compare_policies, place_logprobs
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.stages import Stages
from tests.support.tiny_inputs import tiny_inputs, write_request
from tests.support.tiny_models import tiny_model

CONFIG = part_of(RunConfig(model=ModelConfig(), toxicity=ToxicityConfig(classifier="profanity-check")), ComparisonStage)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models with different weights and answers of each to two prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    made = tiny_inputs(folder)
    made |= {name: folder / name for name in ("sft", "rlhf", "sft_responses", "rlhf_responses")}
    tiny_model(made["sft"] / "model", seed=0)
    tiny_model(made["rlhf"] / "model", seed=1)
    answers = {"sft_responses": (" rice rice rice rice rice", " red."), "rlhf_responses": (" blue sky, fuck you", "")}
    for name, texts in answers.items():
        made[name].mkdir()
        prompts = read_jsonl(made["data"] / "test_prompts.jsonl")
        rows = zip(prompts, texts, (False, True), strict=True)
        write_jsonl(
            made[name] / "responses.jsonl",
            [{"id": row["id"], "prompt": row["prompt"], "answer": text, "stopped": end} for row, text, end in rows],
        )
    del made["model"]
    return made


def run(inputs: dict[str, Path], output: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    output.mkdir()
    compare_policies(CONFIG, inputs, output)
    return read_jsonl(output / "validation_loss.jsonl"), read_jsonl(output / "response_metrics.jsonl")


def test_losses_are_those_of_transformers(inputs: dict[str, Path], tmp_path: Path) -> None:
    """transformers' own loss, one unpadded row at a time, with the prompt left out by its label -100."""
    held_out, _ = run(inputs, tmp_path / "out")
    tokenizer = load_tokenizer(inputs["sft"] / "model")
    rows = read_jsonl(inputs["data"] / "validation_demonstrations.jsonl")
    assert [row["id"] for row in held_out] == [row["id"] for row in rows]
    for name, column in (("sft", "sft_loss"), ("rlhf", "rlhf_loss")):
        model = AutoModelForCausalLM.from_pretrained(inputs[name] / "model")
        for row, measured in zip(rows, held_out, strict=True):
            prompt = encode_prompt(tokenizer, str(row["prompt"]))
            answer = encode_response(tokenizer, str(row["answer"]))
            with torch.no_grad():
                loss = model(
                    input_ids=torch.tensor([prompt + answer]), labels=torch.tensor([[-100] * len(prompt) + answer])
                ).loss
            assert measured["tokens"] == len(answer)
            assert measured[column] == pytest.approx(float(loss), abs=1e-5)


def test_kl_is_the_mean_log_ratio_over_every_possible_token(inputs: dict[str, Path]) -> None:
    """For one answer, place by place: torch's own kl_div of the two models' distributions, unpadded."""
    models = load(inputs)
    dialogues = [Dialogue([5, 6, 7], [8, 9, 10, 0]), Dialogue([11], [12]), Dialogue([3, 4], [])]
    for dialogue, kl in zip(dialogues, answer_kl(models, dialogues), strict=True):
        ids = torch.tensor([dialogue.prompt + dialogue.answer])
        with torch.no_grad():
            rlhf, sft = (model(input_ids=ids).logits[0].log_softmax(-1) for model in (models.rlhf, models.sft))
        places = slice(len(dialogue.prompt) - 1, len(dialogue.prompt) - 1 + len(dialogue.answer))
        expected = torch.nn.functional.kl_div(sft[places], rlhf[places], reduction="sum", log_target=True)
        assert kl == pytest.approx(float(expected), abs=1e-5)
        assert (kl > 0.01) == bool(dialogue.answer)


def test_log_probabilities_by_hand(inputs: dict[str, Path]) -> None:
    """A model whose output layer is all zeros finds every token as likely: log(1 / V)."""
    models = load(inputs)
    models.sft.lm_head.weight.data.zero_()
    models.sft.lm_head.bias.data.zero_()
    logprob_BRV, mask_BR = place_logprobs(models.sft, [Dialogue([1, 2], [3, 4]), Dialogue([1], [2])])
    assert mask_BR.tolist() == [[True, True], [False, True]]
    assert logprob_BRV.shape[:2] == (2, 2)
    assert torch.allclose(logprob_BRV, -torch.tensor(float(logprob_BRV.shape[2])).log())


def test_the_same_model_shows_no_difference_at_all(inputs: dict[str, Path], tmp_path: Path) -> None:
    held_out, answers = run({**inputs, "rlhf": inputs["sft"]}, tmp_path / "out")
    assert all(row["sft_loss"] == row["rlhf_loss"] for row in held_out)
    assert [row["kl"] for row in answers] == [0.0, 0.0]


def test_answers_are_described_by_their_own_tokens(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Five times " rice": 5 tokens or more a piece; of n equal words' n-2 runs of three all but one are repeated."""
    _, answers = run(inputs, tmp_path / "out")
    tokenizer = load_tokenizer(inputs["sft"] / "model")
    pieces = len(encode_response(tokenizer, " rice")) - 1
    rice, red = (row["sft"] for row in answers)
    assert isinstance(rice, dict)
    assert isinstance(red, dict)
    assert rice["tokens"] == 5 * pieces  # no end of text: it was cut off
    runs = 5 * pieces - 2
    assert rice["repetition"] == pytest.approx((runs - pieces) / runs)
    assert red["tokens"] == len(encode_response(tokenizer, " red."))
    rude, empty = (row["rlhf"] for row in answers)
    assert isinstance(rude, dict)
    assert rude["toxicity"] > 0.9
    assert rice["toxicity"] < 0.5
    assert empty == {"tokens": 1, "repetition": 0.0, "toxicity": 0.0}  # the end of text alone


def test_nothing_depends_on_the_batch(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(inputs, tmp_path / "whole")
    monkeypatch.setattr(stage, "ROWS_AT_ONCE", 1)
    single = run(inputs, tmp_path / "single")
    for rows, others in zip(whole, single, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert row["id"] == other["id"]
            for name in ("sft_loss", "rlhf_loss", "kl"):
                assert row.get(name) == pytest.approx(other.get(name), abs=1e-5)


def test_damaged_weights_are_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    model = load_causal_lm(inputs["rlhf"] / "model", "float32")
    model.lm_head.weight.data.fill_(float("nan"))
    broken = tmp_path / "ppo"
    shutil.copytree(inputs["rlhf"], broken)
    model.save_pretrained(broken / "model")
    with pytest.raises(UserError, match=r"loss of held-out row \S+ is nan"):
        run({**inputs, "rlhf": broken}, tmp_path / "out")


@pytest.mark.slow
def test_two_processes_find_what_one_finds(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    request = write_request(tmp_path / "request.json", "compare_policies", CONFIG, inputs)
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        assert stages.run("rlhf.stages.compare_policies", request, output, processes=processes)
        found.append([read_jsonl(output / name) for name in ("validation_loss.jsonl", "response_metrics.jsonl")])
    one, two = (json.dumps(rounded(files)) for files in found)
    assert one == two


def rounded(value: object) -> object:
    """The same with every number to 4 places."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


def load(inputs: dict[str, Path]) -> Models:
    return Models(
        load_tokenizer(inputs["sft"] / "model"),
        load_causal_lm(inputs["sft"] / "model", "float32"),
        load_causal_lm(inputs["rlhf"] / "model", "float32"),
    )
