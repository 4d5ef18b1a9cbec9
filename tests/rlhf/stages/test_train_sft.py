"""Fine-tuning: tokens that the loss covers, files of a run, and byte-identical results of a killed run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl import SFTConfig, SFTTrainer

from rlhf.config import ModelConfig, SftConfig
from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.models.tokenization import encode_prompt, encode_response, load_tokenizer
from rlhf.stage_config import SftStage
from rlhf.stages.train_sft import encode_rows, train_sft
from rlhf.storage.files import read_jsonl
from rlhf.training.trl_trainer import training_arguments, validation_rows
from tests.support.stages import Stages, assert_same_files, undisturbed_and_killed
from tests.support.tiny_inputs import tiny_inputs, write_request

SETTINGS = SftConfig(
    epochs=2, batch_size=8, device_batch_size=4, learning_rate=1e-2, warmup_steps=2, checkpoint_every=3
)
CONFIG = SftStage(seed=1, model=ModelConfig(), sft=SETTINGS)


def changed(**changes: object) -> SftStage:
    """CONFIG with other settings."""
    return CONFIG.model_copy(update={"sft": SETTINGS.model_copy(update=changes)})


def test_the_loss_covers_only_the_response_and_its_eos(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    tokenizer = load_tokenizer(inputs["model"] / "model")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    model = load_causal_lm(inputs["model"] / "model", "float32")

    # By hand: every row alone, without padding, log p of each token of response + EOS.
    logprobs, tokens = [], 0
    rows = read_jsonl(inputs["data"] / "demonstrations.jsonl")[:5]
    for row in rows:
        prompt = encode_prompt(tokenizer, str(row["prompt"]))
        response = encode_response(tokenizer, str(row["response"]))
        assert response[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            logprob_TV = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        logprobs += [logprob_TV[len(prompt) + i - 1, token] for i, token in enumerate(response)]
        tokens += len(response)

    encoded = encode_rows(inputs["data"] / "demonstrations.jsonl", tokenizer, model)
    arguments = training_arguments(SETTINGS, model=model, dtype="float32", seed=0, output=tmp_path / "out")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list(encoded),
        eval_dataset=validation_rows(encoded),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(5)])
    assert int((batch["labels"] != -100).sum()) == tokens
    assert int((batch["attention_mask"] == 0).sum()) > 0  # there is padding, and padding is EOS
    loss = trainer.compute_loss(model.eval(), batch)
    torch.testing.assert_close(loss.detach(), -torch.stack(logprobs).mean(), atol=1e-5, rtol=1e-5)


def test_a_run_learns_to_respond_and_to_stop(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    metrics = train_sft(changed(epochs=4, learning_rate=2e-2), inputs, tmp_path / "out")
    assert metrics["steps"] == 20  # 40 rows, 8 to a step, 4 epochs
    assert metrics["validation_loss_last"] < metrics["validation_loss_first"] - 2

    assert json.loads((inputs["model"] / "model" / "config.json").read_text())["use_cache"] is True
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text())["use_cache"] is True
    tokenizer = load_tokenizer(tmp_path / "out" / "model")
    model = load_causal_lm(tmp_path / "out" / "model", "float32")
    prompt = encode_prompt(tokenizer, "\n\nHuman: rice eggs?\n\nAssistant:")
    dialogue = [*prompt, *encode_response(tokenizer, " sky blue.")[:-1]]
    with torch.no_grad():
        at_end, at_start = (
            float(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[tokenizer.eos_token_id])
            for ids in (dialogue, prompt)
        )
    assert at_end > 0.3
    assert at_start < 0.05

    rows = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 3, 5, 6, 9, 10, 12, 15, 18, 20]
    assert [row["step"] for row in rows if "validation_loss" in row] == [0, 3, 6, 9, 12, 15, 18, 20]
    assert {"loss", "learning_rate", "epoch", "tokens_per_second"} <= rows[-1].keys()


def test_a_model_trained_in_bfloat16_is_saved_in_bfloat16(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    config = changed(max_steps=2).model_copy(update={"model": ModelConfig(dtype="bfloat16")})
    assert train_sft(config, inputs, tmp_path / "out")["steps"] == 2
    state = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    inputs = tiny_inputs(tmp_path)
    with pytest.raises(UserError, match=r"the loss at step .* is nan; lower learning_rate"):
        train_sft(changed(learning_rate=1e30), inputs, tmp_path / "diverged")

    long = {"id": "d-1", "prompt": "\n\nHuman: " + "rice " * 150 + "\n\nAssistant:", "response": " Yes."}
    (inputs["data"] / "demonstrations.jsonl").write_text(json.dumps(long))
    with pytest.raises(UserError, match=r"row d-1 has .* tokens, more than the model's context of 128"):
        train_sft(CONFIG, inputs, tmp_path / "long")

    (inputs["data"] / "demonstrations.jsonl").write_text("")
    with pytest.raises(UserError, match=r"demonstrations\.jsonl: no rows"):
        train_sft(CONFIG, inputs, tmp_path / "empty")


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(tmp_path: Path, stages: Stages) -> None:
    request = write_request(tmp_path / "request.json", "train_sft", CONFIG, tiny_inputs(tmp_path))
    for processes in (1, 2):
        assert stages.run("rlhf.stages.train_sft", request, tmp_path / str(processes), processes=processes)
        assert json.loads((tmp_path / str(processes) / "manifest.json").read_text())["processes"] == processes
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("1", "2"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_gives_the_same_bytes(tmp_path: Path, stages: Stages) -> None:
    inputs = tiny_inputs(tmp_path, "gpt2")  # has dropout, so random generator states matter
    request = write_request(tmp_path / "request.json", "train_sft", CONFIG, inputs)
    undisturbed, killed = undisturbed_and_killed(stages, "rlhf.stages.train_sft", request, tmp_path)
    assert_same_files(killed / "model", undisturbed / "model")
