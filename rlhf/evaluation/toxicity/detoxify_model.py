"""Detoxify's classifiers, from its released checkpoints.

Differs from `detoxify.Detoxify`: the checkpoint is checked against a pinned sha256 and read with `weights_only=True`
(Detoxify unpickles it freely), configuration and tokenizer come from a pinned commit, every tensor must fit, and texts
are scored sorted by length in batches of bounded size.  The scores are the same, and so are the names of the labels.

Source: unitaryai/detoxify@d537644, detoxify/detoxify.py.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import torch
import transformers
from detoxify.detoxify import MODEL_URLS
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.evaluation.toxicity.continuations import TOXICITY
from rlhf.storage.files import file_sha256

TOKENS_PER_BATCH = 2048
"""Padded tokens that are scored at once.  More is no faster on a CPU, whose caches they no longer fit."""
TEXTS_AT_ONCE = 2048
"""Texts that are encoded, and sorted, at once: the tokenizer keeps a hundred bytes and more of every token."""
LABEL_NAMES = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
"""The first checkpoint's own label names, and what the later ones call them."""
OFFLINE = "--set toxicity.classifier=profanity-check, or a toxicity.checkpoint of your own, needs no download"


class Release(NamedTuple):
    """What a released checkpoint is made of."""

    sha256: str
    """Of the checkpoint, in hex; only its first 8 digits where nobody has published more."""
    repository: str
    """Hub repository of the encoder's configuration and tokenizer."""
    revision: str
    """Commit of `repository`."""


BERT = ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
ROBERTA = ("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b")
XLM_ROBERTA = ("FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089")
ALBERT = ("albert/albert-base-v2", "8e2f239c5f8a2c0f253781ca60135db913e5c80c")
RELEASES = {
    "original": Release("c1212f89ac23307ab33932ce29dc446a6e030fb3f384a500890bbe662b7b544a", *BERT),
    "unbiased": Release("c7548aa09468726af4cfdd0959912467784de4a076786913ada9f0f21b68f60d", *ROBERTA),
    "multilingual": Release("0b549669", *XLM_ROBERTA),
    "original-small": Release("0e1d6498", *ALBERT),
    "unbiased-small": Release("c8519128", *ALBERT),
}
"""By Detoxify's names.  The file names of all five end with the first 8 digits of their sha256, which Detoxify checks
while it downloads; we check what is known whenever a file is read."""
ENCODER_FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "s*.model"]
"""Configuration and tokenizer in the repository of an encoder; `s*.model` are the vocabularies of SentencePiece."""


class DetoxifyModel:
    """A transformer with an independent sigmoid per label."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = min(tokenizer.model_max_length, _context_tokens(model))

    @torch.inference_mode()
    def score(self, texts: list[str]) -> dict[str, list[float]]:
        """Probabilities by label, in the order of `texts`; what exceeds the encoder's window is not read."""
        parts = [self._score(texts[at : at + TEXTS_AT_ONCE]) for at in range(0, len(texts), TEXTS_AT_ONCE)]
        scores_NL = torch.cat([torch.zeros(0, len(self.labels)), *parts])
        return {label: scores_NL[:, column].tolist() for column, label in enumerate(self.labels)}

    def _score(self, texts: list[str]) -> Tensor:
        """Probabilities [N, labels]."""
        ids = self._tokenizer(texts, truncation=True, max_length=self._max_tokens).input_ids
        scores_NL = torch.zeros(len(texts), len(self.labels))
        for batch in batches_by_length([len(row) for row in ids], TOKENS_PER_BATCH):
            padded = self._tokenizer.pad({"input_ids": [ids[index] for index in batch]}, return_tensors="pt")
            logits_BL = self._model(**padded.to(self._model.device)).logits
            scores_NL[batch] = torch.sigmoid(logits_BL[:, : len(self.labels)].float()).cpu()
        return scores_NL


def batches_by_length(lengths: list[int], tokens_per_batch: int) -> list[list[int]]:
    """Indices of `lengths`, longest first, cut so that a batch padded to its longest row holds no more tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
        batches[-1].append(index)
    return batches


def load_detoxify(name: str, device: torch.device) -> DetoxifyModel:
    """The released model `name`, downloaded on first use.  Raises UserError where a file cannot be had or differs."""
    release = RELEASES[name]
    checkpoint = download_checkpoint(MODEL_URLS[name], release.sha256)
    try:
        encoder = snapshot_download(release.repository, revision=release.revision, allow_patterns=ENCODER_FILES)
    except OSError as error:
        raise UserError(
            f"toxicity.classifier detoxify: cannot get the tokenizer {release.repository} ({error}); {OFFLINE}"
        ) from error
    return read_detoxify(checkpoint, release.sha256, Path(encoder), device)


def download_checkpoint(url: str, sha256: str) -> Path:
    """Where the checkpoint lies in torch.hub's cache, after a download if it was not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"toxicity.classifier detoxify: cannot download {url} ({error}); put the file at {path}, or {OFFLINE}"
            ) from error
    return path


def read_detoxify(checkpoint: Path, sha256: str, encoder: Path, device: torch.device) -> DetoxifyModel:
    """The classifier in a Detoxify checkpoint, built on the configuration and tokenizer in the folder `encoder`.

    Its first outputs are its labels; those behind them, where there are more, guess which group of people a text is
    about, and Detoxify does not report them either.

    Raises UserError where the checkpoint has another sha256 (of which `sha256` may be the beginning), holds more than
    plain data or does not fit the encoder.
    """
    found = file_sha256(checkpoint)
    if not found.startswith(sha256):
        raise UserError(
            f"{checkpoint}: sha256 is {found}, expected {sha256}; it was not opened; delete it and run again, "
            "or set toxicity.checkpoint_sha256 if the file is your own and right"
        )
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        parts, state = content["config"], content["state_dict"]
        architecture = parts["arch"]["args"]
        name, outputs = architecture["model_name"], int(architecture["num_classes"])
        labels = tuple(LABEL_NAMES.get(label, label) for label in parts["dataset"]["args"]["classes"])
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{checkpoint}: not a Detoxify checkpoint of plain data ({error})") from error
    if TOXICITY not in labels or len(labels) > outputs:
        raise UserError(f"{checkpoint}: has {outputs} outputs for the labels {', '.join(labels)}; one is {TOXICITY}")
    try:
        config = transformers.AutoConfig.from_pretrained(encoder, num_labels=outputs, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, local_files_only=True)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{encoder}: no config.json and tokenizer that transformers can load ({error}); "
            "put those of the encoder that the checkpoint was trained from there"
        ) from error
    if type(model).__name__ != name:
        raise UserError(f"{checkpoint}: made for {name}, but {encoder} configures a {type(model).__name__}")
    _load_state(model, state, checkpoint)
    return DetoxifyModel(model.to(device).eval(), tokenizer, labels)


def _load_state(model: PreTrainedModel, state: dict[str, Tensor], checkpoint: Path) -> None:
    """Put every tensor in its place.  Position numbers, which old versions saved among the weights, are left out."""
    weights = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{checkpoint}: its tensors do not fit {type(model).__name__} ({error})") from error


def _context_tokens(model: PreTrainedModel) -> int:
    """Tokens that the encoder has positions for: RoBERTa's begin behind the one for padding."""
    positions: nn.Embedding = model.base_model.embeddings.position_embeddings
    return positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
