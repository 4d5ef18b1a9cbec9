"""The synthetic model: packing, schedule, resuming to the same bytes, and training on several processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from rlhf.config import ModelConfig, SyntheticModel
from rlhf.data.synthetic import synthetic_corpus
from rlhf.errors import UserError
from rlhf.models.loading import load_causal_lm
from rlhf.models.synthetic_model import (
    PAD,
    _load_checkpoint,
    _save_checkpoint,
    learning_rate,
    new_model,
    pack,
    train_tokenizer,
)
from rlhf.models.tokenization import load_tokenizer
from rlhf.stage_config import ModelStage
from tests.support.stages import Stages
from tests.support.tiny_inputs import write_request

TINY = SyntheticModel(
    vocab_size=300,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    context_tokens=32,
    documents=200,
    batch_size=2,
    learning_rate=1e-2,
)


@pytest.fixture(name="bytewise")
def _bytewise() -> PreTrainedTokenizerFast:
    """A tokenizer without merges: one token per byte, END_OF_TEXT is 0."""
    return train_tokenizer(["a"], TINY)


def byte_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(letter) for letter in text]


def test_the_tokenizer_has_the_requested_size_and_restores_every_text() -> None:
    documents = synthetic_corpus(300, 0)
    tokenizer = train_tokenizer(documents, SyntheticModel(vocab_size=400))
    assert len(tokenizer) == 400
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    for text in (*documents[:20], "\n\nHuman: Grüße, 日本!\n\nAssistant: 😀  two  spaces"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert train_tokenizer(documents, SyntheticModel(vocab_size=400)).get_vocab() == tokenizer.get_vocab()


def test_positions_restart_for_each_document_and_row(bytewise: PreTrainedTokenizerFast) -> None:
    settings = TINY.model_copy(update={"context_tokens": 4, "batch_size": 2})
    ids, positions = pack(["ab", "abcab", "c"], bytewise, settings)
    a, b, c = byte_ids(bytewise, "abc")
    # ab. abcab. c. is 11 tokens: one step of two rows of four; the last three are dropped.
    assert ids.tolist() == [[[a, b, 0, a], [b, c, a, b]]]
    assert positions.tolist() == [[[0, 1, 2, 0], [0, 1, 2, 3]]]


def test_too_few_documents_for_a_batch_are_an_error(bytewise: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"documents \(200\) make 4 tokens, fewer than .* \(64\); try documents=3201"):
        pack(["abc"], bytewise, TINY)


def test_documents_of_one_row_are_masked_from_each_other(bytewise: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = new_model(TINY, bytewise).eval()
    texts = ["abcabcab", "ca", "bbbbbbbbbbbbbbbb"]
    settings = TINY.model_copy(update={"batch_size": 1, "context_tokens": sum(len(text) + 1 for text in texts)})
    ids, positions = pack(texts, bytewise, settings)
    packed = model(input_ids=ids[0], position_ids=positions[0], use_cache=False).logits[0]

    alone = [model(input_ids=torch.tensor([[*byte_ids(bytewise, text), 0]])).logits[0] for text in texts]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_learning_rate_warms_up_and_falls_like_a_half_cosine() -> None:
    # 100 steps: 5 of warm-up, then 95 of cosine from 1 to 0.05, half-way at 5 + 94/2 = 52.
    assert learning_rate(0, 100, 2.0) == pytest.approx(0.4)
    assert learning_rate(4, 100, 2.0) == learning_rate(5, 100, 2.0) == pytest.approx(2.0)
    assert learning_rate(52, 100, 2.0) == pytest.approx(2.0 * (0.05 + 0.95 / 2))
    assert learning_rate(99, 100, 2.0) == pytest.approx(0.1)
    assert learning_rate(0, 1, 2.0) == pytest.approx(2.0)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ValidationError, match=r"hidden_size \(20\) must be a multiple of 2 x num_heads \(6\); try 18"):
        SyntheticModel(hidden_size=20, num_heads=3)


def test_the_default_model_has_two_to_four_million_parameters() -> None:
    settings = SyntheticModel()
    tokenizer = train_tokenizer(synthetic_corpus(settings.documents, 0), settings)
    assert 2e6 < new_model(settings, tokenizer).num_parameters() < 4e6


def test_a_damaged_or_foreign_checkpoint_is_not_used(
    bytewise: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = new_model(TINY, bytewise)
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / "run" / "checkpoints" / "pretraining.pt"
    path.parent.mkdir(parents=True)
    rows = [{"step": 10.0, "loss": 2.5}]
    _save_checkpoint(path, model, optimizer, rows)
    assert _load_checkpoint(path, model, optimizer) == rows

    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    foreign = tmp_path / "other" / "checkpoints" / path.name
    foreign.parent.mkdir(parents=True)
    for file, content in ((path, flipped), (path, whole[:-1]), (path, b""), (path, whole + b"\0"), (foreign, whole)):
        file.write_bytes(content)
        assert _load_checkpoint(file, model, optimizer) == []
        assert f"{file}: this checkpoint is damaged or of another run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_gives_the_same_bytes_and_a_model_that_learned(tmp_path: Path, stages: Stages) -> None:
    settings = ModelStage(seed=3, model=ModelConfig(synthetic=TINY))
    request = write_request(tmp_path / "request.json", "prepare_model", settings, {})
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert stages.run("rlhf.stages.prepare_model", request, undisturbed)
    checkpoint = killed / "checkpoints" / "pretraining.pt"
    assert not stages.run("rlhf.stages.prepare_model", request, killed, kill_when=checkpoint.is_file)
    assert not (killed / "manifest.json").exists()
    assert stages.run("rlhf.stages.prepare_model", request, killed)

    for path in sorted((undisturbed / "model").iterdir()):
        assert path.read_bytes() == (killed / "model" / path.name).read_bytes(), path.name
    assert (undisturbed / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[:3]] == [10, 20, 30]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert rows[0]["loss"] < math.log(300) + 0.1
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["metrics"]["loss"] == rows[-1]["loss"]
    load_causal_lm(undisturbed / "model", "float32")
    assert load_tokenizer(undisturbed / "model").pad_token == PAD


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(tmp_path: Path, stages: Stages) -> None:
    few = ModelStage(seed=3, model=ModelConfig(synthetic=TINY.model_copy(update={"documents": 20})))
    request = write_request(tmp_path / "request.json", "prepare_model", few, {})
    for processes in (1, 2):
        assert stages.run("rlhf.stages.prepare_model", request, tmp_path / str(processes), processes=processes)
    one, two = (load_file(tmp_path / str(processes) / "model" / "model.safetensors") for processes in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
