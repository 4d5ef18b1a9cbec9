"""Our loading and scoring of a Detoxify checkpoint against Detoxify's own, on a small one made here."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detoxify import Detoxify
from detoxify.detoxify import MODEL_URLS
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from rlhf.artifacts import file_sha256
from rlhf.errors import InputError
from rlhf.toxicity import detoxify_model
from rlhf.toxicity.detoxify_model import RELEASES, batches_by_length, download_checkpoint, read_detoxify

CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "you", "are", "a", "kind", "foolish", "person", "and", "so", "."]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with configuration and tokenizer, as the encoder's repository has them."""
    folder = tmp_path_factory.mktemp("encoder")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        num_labels=len(CLASSES),
    )
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=24).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(encoder: Path) -> Path:
    """A checkpoint in the released format, with the position numbers that old versions saved."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig.from_pretrained(encoder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    path = encoder / "toxic.ckpt"
    arguments = {
        "num_classes": len(CLASSES),
        "model_type": str(encoder),
        "model_name": "BertForSequenceClassification",
        "tokenizer_name": "BertTokenizer",
    }
    config = {"arch": {"type": "BERT", "args": arguments}, "dataset": {"args": {"classes": CLASSES}}}
    state = {**model.state_dict(), "bert.embeddings.position_ids": torch.arange(24)[None]}
    torch.save({"config": config, "state_dict": state}, path)
    return path


TEXTS = [
    "you are a kind person .",
    "foolish",
    "so kind and so foolish and so kind .",
    "you " * 40,
    "strange words",
    "a",
]


def test_scores_are_those_of_detoxify(checkpoint: Path, encoder: Path) -> None:
    ours = read_detoxify(checkpoint, file_sha256(checkpoint), encoder, CPU)
    theirs = Detoxify(checkpoint=str(checkpoint), huggingface_config_path=str(encoder))
    theirs.tokenizer.model_max_length = 24
    expected = theirs.predict(TEXTS)
    found = ours.score(TEXTS)
    assert ours.labels == ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack")
    assert found.keys() == expected.keys()
    for label, scores in expected.items():
        assert found[label] == pytest.approx(scores, abs=1e-6)
    assert len(set(found["toxicity"])) == len(TEXTS)


def test_scores_do_not_depend_on_batches(checkpoint: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = read_detoxify(checkpoint, file_sha256(checkpoint), encoder, CPU)
    together = classifier.score(TEXTS)
    monkeypatch.setattr(detoxify_model, "TOKENS_PER_BATCH", 1)
    apart = classifier.score(TEXTS)
    for label in classifier.labels:
        assert apart[label] == pytest.approx(together[label], abs=1e-6)


def test_batches_hold_every_row_once_and_no_more_padded_tokens() -> None:
    lengths = [3, 9, 1, 4, 4, 9, 2, 30]
    batches = batches_by_length(lengths, 18)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches[:3] == [[7], [1, 5], [3, 4, 0, 6]]  # 30 alone, 2 x 9 = 18, 4 x 4 = 16
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 18 for batch in batches)


def test_a_changed_byte_is_refused(checkpoint: Path, encoder: Path, tmp_path: Path) -> None:
    changed = bytearray(checkpoint.read_bytes())
    changed[len(changed) // 2] ^= 1
    path = tmp_path / "toxic.ckpt"
    path.write_bytes(changed)
    with pytest.raises(InputError, match=r"sha256 is .* it was not opened"):
        read_detoxify(path, file_sha256(checkpoint), encoder, CPU)


class Surprise:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("surprise"),)


def test_code_in_a_checkpoint_is_refused(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toxic.ckpt"
    torch.save({"config": Surprise(), "state_dict": {}}, path)
    with pytest.raises(InputError, match="not a Detoxify checkpoint of plain data"):
        read_detoxify(path, file_sha256(path), encoder, CPU)
    assert not Path("surprise").exists()


def test_a_missing_tensor_is_refused(checkpoint: Path, encoder: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["classifier.bias"]
    path = tmp_path / "toxic.ckpt"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"classifier\.bias"):
        read_detoxify(path, file_sha256(path), encoder, CPU)


def test_a_failed_download_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(InputError, match=r"put the file at .*toxic-1234\.ckpt, or .*profanity-check"):
        download_checkpoint("https://example.org/v1/toxic-1234.ckpt", "1234")


def test_a_cached_checkpoint_is_not_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    cached = tmp_path / "checkpoints" / "toxic-1234.ckpt"
    cached.parent.mkdir()
    cached.write_bytes(b"weights")
    assert download_checkpoint("https://example.org/v1/toxic-1234.ckpt", "1234") == cached


def test_pinned_hashes_are_those_in_the_file_names() -> None:
    for name, release in RELEASES.items():
        assert MODEL_URLS[name].endswith(f"-{release.sha256[:8]}.ckpt")
