"""Comparison of SFT and RLHF model: losses by transformers, an exact null case, independence of the batch size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.config import ModelConfig, RunConfig, ToxicityConfig
from rlhf.data.questions import read_questions
from rlhf.errors import UserError
from rlhf.evaluation import policy_comparison
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import encode_prompt, encode_response, load_tokenizer
from rlhf.results.capability import QuestionRow
from rlhf.stage_config import ComparisonStage, part_of
from rlhf.stages.compare_policies import compare_policies
from rlhf.storage.files import read_jsonl, write_jsonl
from tests.support.data_files import write_rows
from tests.support.stages import Stages
from tests.support.tiny_inputs import WORDS, tiny_inputs, write_request
from tests.support.tiny_models import tiny_model

CONFIG = part_of(RunConfig(model=ModelConfig(), toxicity=ToxicityConfig(classifier="profanity-check")), ComparisonStage)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models with different weights, and responses of each to two prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    inputs = tiny_inputs(folder)
    inputs |= {name: folder / name for name in ("sft", "rlhf", "sft_responses", "rlhf_responses")}
    tiny_model(inputs["sft"] / "model", seed=0)
    tiny_model(inputs["rlhf"] / "model", seed=1)
    responses = {"sft_responses": (" rice rice rice rice rice", " red."), "rlhf_responses": (" blue sky, fuck you", "")}
    for name, texts in responses.items():
        inputs[name].mkdir()
        prompts = read_jsonl(inputs["data"] / "test_prompts.jsonl")
        rows = zip(prompts, texts, (False, True), strict=True)
        write_jsonl(
            inputs[name] / "responses.jsonl",
            [{"id": row["id"], "prompt": row["prompt"], "response": text, "stopped": end} for row, text, end in rows],
        )
    del inputs["model"]
    return inputs


def run(inputs: dict[str, Path], output: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    output.mkdir()
    compare_policies(CONFIG, inputs, output)
    return read_jsonl(output / "validation_loss.jsonl"), read_jsonl(output / "response_metrics.jsonl")


def test_losses_are_those_of_transformers(inputs: dict[str, Path], tmp_path: Path) -> None:
    """transformers' own loss, one unpadded row at a time, with the prompt masked by the label -100."""
    losses, _ = run(inputs, tmp_path / "out")
    tokenizer = load_tokenizer(inputs["sft"] / "model")
    rows = read_jsonl(inputs["data"] / "validation_demonstrations.jsonl")
    assert [row["id"] for row in losses] == [row["id"] for row in rows]
    for name, column in (("sft", "sft_loss"), ("rlhf", "rlhf_loss")):
        model = AutoModelForCausalLM.from_pretrained(inputs[name] / "model")
        for row, measured in zip(rows, losses, strict=True):
            prompt = encode_prompt(tokenizer, str(row["prompt"]))
            response = encode_response(tokenizer, str(row["response"]))
            with torch.no_grad():
                loss = model(
                    input_ids=torch.tensor([prompt + response]), labels=torch.tensor([[-100] * len(prompt) + response])
                ).loss
            assert measured["tokens"] == len(response)
            assert measured[column] == pytest.approx(float(loss), abs=1e-5)


def test_equal_models_show_no_difference(inputs: dict[str, Path], tmp_path: Path) -> None:
    losses, responses = run({**inputs, "rlhf": inputs["sft"]}, tmp_path / "out")
    assert all(row["sft_loss"] == row["rlhf_loss"] for row in losses)
    assert [row["kl"] for row in responses] == [0.0, 0.0]


def test_metrics_of_responses_by_hand(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Five times " rice", each of one or more tokens: all 3-grams but the first of each kind repeat an earlier one."""
    _, responses = run(inputs, tmp_path / "out")
    tokenizer = load_tokenizer(inputs["sft"] / "model")
    pieces = len(encode_response(tokenizer, " rice")) - 1
    rice, red = (row["sft"] for row in responses)
    assert isinstance(rice, dict)
    assert isinstance(red, dict)
    assert rice["tokens"] == 5 * pieces  # no end of text: the response was truncated
    trigrams = 5 * pieces - 2
    assert rice["repetition"] == pytest.approx((trigrams - pieces) / trigrams)
    assert red["tokens"] == len(encode_response(tokenizer, " red."))
    rude, empty = (row["rlhf"] for row in responses)
    assert isinstance(rude, dict)
    assert rude["toxicity"] > 0.9
    assert rice["toxicity"] < 0.5
    assert empty == {"tokens": 1, "repetition": 0.0, "toxicity": 0.0}  # only the end of text


def test_results_do_not_depend_on_the_batch_size(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = run(inputs, tmp_path / "batched")
    monkeypatch.setattr(policy_comparison, "COMPARED_ROWS", 1)
    single = run(inputs, tmp_path / "single")
    for rows, others in zip(batched, single, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert row["id"] == other["id"]
            for name in ("sft_loss", "rlhf_loss", "kl"):
                assert row.get(name) == pytest.approx(other.get(name), abs=1e-5)


def test_weights_that_are_not_finite_are_reported(inputs: dict[str, Path], tmp_path: Path) -> None:
    model = load_causal_lm(inputs["rlhf"] / "model", "float32")
    model.lm_head.weight.data.fill_(float("nan"))
    broken = tmp_path / "ppo"
    shutil.copytree(inputs["rlhf"], broken)
    model.save_pretrained(broken / "model")
    with pytest.raises(UserError, match=r"loss of validation row \S+ is nan"):
        run({**inputs, "rlhf": broken}, tmp_path / "out")


def test_questions_of_a_file_are_answered_in_its_order(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The accuracies are those of the rows; without the setting there is no file."""
    choices = ["xxxx", "yyyy", "zzzz"]
    rows: list[dict[str, object]] = [
        {"question": f"{word}?", "choices": choices, "answer": number % 3} for number, word in enumerate(WORDS)
    ]
    path = write_rows(tmp_path / "questions.jsonl", rows)
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    config = CONFIG.model_copy(update={"questions": str(path)})
    metrics = compare_policies(config, {**inputs, "questions": path}, tmp_path / "with")
    answers = [QuestionRow.model_validate(row) for row in read_jsonl(tmp_path / "with" / "questions.jsonl")]
    assert [(row.correct, row.choices) for row in answers] == [(number % 3, 3) for number in range(len(WORDS))]
    assert [row.id for row in answers] == [question.id for question in read_questions(str(path), 0, path)]
    assert any(row.sft != row.rlhf for row in answers)
    for name in ("sft", "rlhf"):
        right = sum(getattr(row, name) == row.correct for row in answers)
        assert metrics[f"accuracy_{name}"] == pytest.approx(right / len(WORDS))
    assert "accuracy_sft" not in compare_policies(CONFIG, inputs, tmp_path / "without")
    assert not (tmp_path / "without" / "questions.jsonl").exists()


def test_a_broken_line_stops_the_stage_before_it_writes(inputs: dict[str, Path], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "questions.jsonl", [{"question": "q", "choices": ["a", "b"], "answer": 2}])
    config = CONFIG.model_copy(update={"questions": str(path)})
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"questions\.jsonl:1: field answer is 2"):
        compare_policies(config, {**inputs, "questions": path}, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(inputs: dict[str, Path], tmp_path: Path, stages: Stages) -> None:
    config = CONFIG.model_copy(update={"questions": "synthetic"})
    request = write_request(tmp_path / "request.json", "compare_policies", config, inputs)
    results = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        assert stages.run("rlhf.stages.compare_policies", request, output, processes=processes)
        results.append([read_jsonl(output / name) for name in ("validation_loss.jsonl", "response_metrics.jsonl")])
    one, two = (json.dumps(rounded(files)) for files in results)
    assert one == two
    one_questions, two_questions = ((tmp_path / str(number) / "questions.jsonl").read_bytes() for number in (1, 2))
    assert one_questions == two_questions
    assert one_questions.count(b"\n") == 60


def rounded(value: object) -> object:
    """`value` with every number rounded to 4 decimals."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value
