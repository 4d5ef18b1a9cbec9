"""Our loading and scoring of Detoxify checkpoints against Detoxify itself, on small checkpoints made by the tests."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detoxify import Detoxify
from detoxify.detoxify import MODEL_URLS

from rlhf.config import ToxicityConfig
from rlhf.errors import UserError
from rlhf.evaluation.toxicity import detoxify_model
from rlhf.evaluation.toxicity.classifier import load_classifier, score_texts
from rlhf.evaluation.toxicity.detoxify_model import RELEASES, batches_by_length, download_checkpoint, read_detoxify
from rlhf.storage.files import file_sha256
from tests.support.detoxify_checkpoints import ORIGINAL, SHAPES, UNBIASED, UNBIASED_OUTPUTS, Shape, make_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a BERT, in a folder with configuration and tokenizer like those of the encoder's repository."""
    return make_checkpoint(tmp_path_factory.mktemp("encoder"), "bert", ORIGINAL, len(ORIGINAL))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Path:
    """Folder with configuration and tokenizer."""
    return checkpoint.parent


TEXTS = [
    "you are a kind person .",
    "foolish",
    "so kind and so foolish and so kind .",
    "you " * 40,
    "strange words",
    "a",
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("classes", "outputs"), [(ORIGINAL, len(ORIGINAL)), (UNBIASED, UNBIASED_OUTPUTS)])
def test_scores_are_those_of_detoxify(shape: Shape, classes: list[str], outputs: int, tmp_path: Path) -> None:
    """Detoxify loads and predicts by itself, in one batch padded to the longest text, with its own label names."""
    path = make_checkpoint(tmp_path, shape, classes, outputs)
    model = read_detoxify(path, file_sha256(path), tmp_path, CPU)
    expected = Detoxify(checkpoint=str(path), huggingface_config_path=str(tmp_path)).predict(TEXTS)
    actual = model.score(TEXTS)
    assert model.labels == tuple(expected)
    assert actual.keys() == expected.keys()
    for label, scores in expected.items():
        assert actual[label] == pytest.approx(scores, abs=1e-6)
    assert len({round(score, 5) for score in actual["toxicity"]}) == len(TEXTS)
    assert len({round(scores[0], 5) for scores in actual.values()}) == len(classes)


def test_first_models_use_the_label_names_of_later_ones(checkpoint: Path, encoder: Path) -> None:
    model = read_detoxify(checkpoint, file_sha256(checkpoint), encoder, CPU)
    assert model.main_label == "toxicity"
    assert model.labels == ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tokenizer_without_a_limit_uses_that_of_the_encoder(shape: Shape, tmp_path: Path) -> None:
    """Detoxify itself would fail; a RoBERTa has fewer positions than position embeddings."""
    path = make_checkpoint(tmp_path, shape, ORIGINAL, len(ORIGINAL))
    texts = ["you are so kind . " * 30]
    expected = read_detoxify(path, file_sha256(path), tmp_path, CPU).score(texts)
    settings = tmp_path / "tokenizer_config.json"
    assert '"model_max_length": 24' in settings.read_text()
    settings.write_text(settings.read_text().replace('"model_max_length": 24', '"model_max_length": 100000'))
    assert read_detoxify(path, file_sha256(path), tmp_path, CPU).score(texts) == expected


def test_a_custom_checkpoint_is_loaded_from_its_settings(checkpoint: Path, encoder: Path) -> None:
    settings = ToxicityConfig(
        checkpoint=str(checkpoint), checkpoint_sha256=file_sha256(checkpoint), checkpoint_config=str(encoder)
    )
    inputs = {"checkpoint": checkpoint, "checkpoint_config": encoder}
    classifier = load_classifier(settings, inputs, CPU)
    assert score_texts(classifier, ["1"], ["you foolish person"])[0].keys() == set(classifier.labels)
    with pytest.raises(UserError, match="it was not opened"):
        load_classifier(settings.model_copy(update={"checkpoint_sha256": "0" * 64}), inputs, CPU)


def test_a_released_model_is_found_by_its_name(
    checkpoint: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of that name is downloaded, and its encoder's files at the pinned commit."""
    requested: list[tuple[str, ...]] = []

    def download(url: str, sha256: str) -> Path:
        requested.append((url, sha256))
        return checkpoint

    def snapshot(repository: str, *, revision: str, **_: object) -> str:
        requested.append((repository, revision))
        return str(encoder)

    release = RELEASES["unbiased-small"]._replace(sha256=file_sha256(checkpoint)[:8])
    monkeypatch.setitem(RELEASES, "unbiased-small", release)
    monkeypatch.setattr(detoxify_model, "download_checkpoint", download)
    monkeypatch.setattr(detoxify_model, "snapshot_download", snapshot)
    load_classifier(ToxicityConfig(detoxify_model="unbiased-small"), {}, CPU)
    assert requested == [(MODEL_URLS["unbiased-small"], release.sha256), release[1:]]


def test_damaged_weights_stop_the_run_with_the_prompt_and_the_label(encoder: Path, tmp_path: Path) -> None:
    """Only the fourth label is damaged."""
    content = torch.load(encoder / "toxic.ckpt", weights_only=True)
    content["state_dict"]["classifier.bias"][3] = math.nan
    path = tmp_path / "toxic.ckpt"
    torch.save(content, path)
    classifier = read_detoxify(path, file_sha256(path), encoder, CPU)
    with pytest.raises(UserError, match="text of prompt p-1: its score threat is nan, not a probability"):
        score_texts(classifier, ["p-0", "p-1"], ["", "you person"])


@pytest.mark.parametrize(("labels", "outputs"), [(["insult", "threat"], 2), (UNBIASED, 6)])
def test_impossible_labels_are_rejected(labels: list[str], outputs: int, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "bert", labels, outputs)
    with pytest.raises(UserError, match=f"has {outputs} outputs for the labels"):
        read_detoxify(path, file_sha256(path), tmp_path, CPU)


def test_an_encoder_of_another_type_is_rejected(checkpoint: Path, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, "roberta", ORIGINAL, len(ORIGINAL))
    with pytest.raises(UserError, match=r"trained as BertForSequenceClassification, but .* RobertaForSequence"):
        read_detoxify(checkpoint, file_sha256(checkpoint), tmp_path, CPU)
    with pytest.raises(UserError, match=r"config\.json: missing; give"):
        read_detoxify(checkpoint, file_sha256(checkpoint), tmp_path / "nothing", CPU)


def test_scores_do_not_depend_on_batches(checkpoint: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = read_detoxify(checkpoint, file_sha256(checkpoint), encoder, CPU)
    one_batch = classifier.score(TEXTS)
    monkeypatch.setattr(detoxify_model, "TOKENS_PER_BATCH", 1)
    monkeypatch.setattr(detoxify_model, "TEXTS_AT_ONCE", 2)
    many_batches = classifier.score(TEXTS)
    for label in classifier.labels:
        assert many_batches[label] == pytest.approx(one_batch[label], abs=1e-6)


def test_batches_contain_every_row_once_within_the_token_limit() -> None:
    lengths = [3, 9, 1, 4, 4, 9, 2, 30]
    batches = batches_by_length(lengths, 18)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches[:3] == [[7], [1, 5], [3, 4, 0, 6]]  # 30 alone, 2 x 9 = 18, 4 x 4 = 16
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 18 for batch in batches)


def test_a_changed_byte_is_rejected(checkpoint: Path, encoder: Path, tmp_path: Path) -> None:
    changed = bytearray(checkpoint.read_bytes())
    changed[len(changed) // 2] ^= 1
    path = tmp_path / "toxic.ckpt"
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"sha256 is .* it was not opened"):
        read_detoxify(path, file_sha256(checkpoint), encoder, CPU)


class RunsCode:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def test_code_in_a_checkpoint_is_rejected(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toxic.ckpt"
    torch.save({"config": RunsCode(), "state_dict": {}}, path)
    with pytest.raises(UserError, match="not a Detoxify checkpoint of plain data"):
        read_detoxify(path, file_sha256(path), encoder, CPU)
    assert not Path("executed").exists()


def test_a_missing_tensor_is_rejected(checkpoint: Path, encoder: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["classifier.bias"]
    path = tmp_path / "toxic.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"classifier\.bias"):
        read_detoxify(path, file_sha256(path), encoder, CPU)


def test_a_failed_download_names_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=r"put the file at .*toxic-1234\.ckpt, or .*profanity-check"):
        download_checkpoint("https://example.org/v1/toxic-1234.ckpt", "1234")


def test_a_cached_checkpoint_is_not_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    cached = tmp_path / "checkpoints" / "toxic-1234.ckpt"
    cached.parent.mkdir()
    cached.write_bytes(b"weights")
    assert download_checkpoint("https://example.org/v1/toxic-1234.ckpt", "1234") == cached


def test_pinned_hashes_match_the_file_names() -> None:
    assert RELEASES.keys() == MODEL_URLS.keys()
    for name, release in RELEASES.items():
        assert MODEL_URLS[name].endswith(f"-{release.sha256[:8]}.ckpt")
        assert len(release.sha256) in (8, 64)
        assert len(release.revision) == 40
