"""Detoxify's classifiers, from its released checkpoints.

Differs from `detoxify.Detoxify`: the checkpoint is checked against a pinned sha256 and read with `weights_only=True`
(Detoxify unpickles it without restrictions), configuration and tokenizer come from a pinned commit, every tensor must
fit, and texts are sorted by length and scored in batches of bounded size.  Scores and label names are the same.

Source: unitaryai/detoxify@d537644, detoxify/detoxify.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import torch
import transformers
from detoxify.detoxify import MODEL_URLS
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError, brief, user_message
from rlhf.evaluation.toxicity.continuations import TOXICITY
from rlhf.models.checks import require_matching_vocabulary
from rlhf.models.config_file import read_config, require_size
from rlhf.models.tokenization import context_length
from rlhf.storage.files import file_sha256

TOKENS_PER_BATCH = 2048
"""Padded tokens per batch.  Larger batches are not faster on a CPU because they exceed its caches."""
TEXTS_AT_ONCE = 2048
"""Texts that are tokenized and sorted together.  The tokenizer needs at least a hundred bytes per token."""
MAX_OUTPUTS = 1000
"""Most outputs of a checkpoint; the released ones have up to 16."""
LABEL_NAMES = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
"""Label names of the first checkpoint, and those of later ones for the same labels."""
OFFLINE = "--set toxicity.classifier=profanity-check, or your own toxicity.checkpoint, needs no download"


class Release(NamedTuple):
    """A released checkpoint and its encoder."""

    sha256: str
    """sha256 of the checkpoint in hex; only its first 8 digits if no more are published."""
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
"""By Detoxify's names.  Their file names end with the first 8 digits of the sha256, which Detoxify checks during the
download; we check all known digits whenever a file is read."""
ENCODER_FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "s*.model"]
"""Configuration and tokenizer in an encoder's repository; `s*.model` are SentencePiece vocabularies."""


class DetoxifyModel:
    """A transformer classifier with an independent sigmoid per label."""

    main_label = TOXICITY

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._model = model
        self._tokenizer = tokenizer
        context = context_tokens(model)
        assert context is not None
        self._max_tokens = min(tokenizer.model_max_length, context)

    @torch.inference_mode()
    def score(self, texts: list[str]) -> dict[str, list[float]]:
        """Probabilities by label, in the order of `texts`; tokens beyond the encoder's context are ignored."""
        parts = [self._score(texts[start : start + TEXTS_AT_ONCE]) for start in range(0, len(texts), TEXTS_AT_ONCE)]
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
    """Batches of indices of `lengths`, longest first; a batch has at most `tokens_per_batch` tokens after padding.

    A row that is longer on its own is a batch of one.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
        batches[-1].append(index)
    return batches


def load_detoxify(name: str, device: torch.device) -> DetoxifyModel:
    """Load the released model `name`, downloaded on first use.  Raises UserError if that fails or a hash differs."""
    release = RELEASES[name]
    checkpoint = download_checkpoint(MODEL_URLS[name], release.sha256)
    try:
        encoder = snapshot_download(release.repository, revision=release.revision, allow_patterns=ENCODER_FILES)
    except OSError as error:
        raise UserError(
            f"toxicity.classifier detoxify: cannot download the tokenizer {release.repository} ({error}); {OFFLINE}"
        ) from error
    return read_detoxify(checkpoint, release.sha256, Path(encoder), device)


def download_checkpoint(url: str, sha256: str) -> Path:
    """Path of the checkpoint in torch.hub's cache; downloads it if it is missing."""
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
    """Load a Detoxify checkpoint, with the configuration and tokenizer in the folder `encoder`.

    The first outputs are the labels.  Some checkpoints have further outputs, which predict the group of people that a
    text mentions; Detoxify does not report them either.

    Raises UserError if the checkpoint's sha256 does not start with `sha256`, or if the checkpoint contains more than
    plain data or does not fit the encoder.
    """
    actual = file_sha256(checkpoint)
    if not actual.startswith(sha256):
        raise UserError(
            f"{checkpoint}: sha256 is {actual}, expected {sha256}; it was not opened; delete it and run again, "
            "or correct toxicity.checkpoint_sha256 if this is your own file"
        )
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        settings, state = content["config"], content["state_dict"]
        architecture = settings["arch"]["args"]
        name, outputs = architecture["model_name"], int(architecture["num_classes"])
        labels = tuple(LABEL_NAMES.get(label, label) for label in settings["dataset"]["args"]["classes"])
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise ValueError("its state_dict has values that are no tensors")
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(
            f"{checkpoint}: not a Detoxify checkpoint of plain data ({brief(error)}); name another toxicity.checkpoint"
        ) from error
    if TOXICITY not in labels or not len(labels) <= outputs <= MAX_OUTPUTS:
        raise UserError(
            f"{checkpoint}: has {outputs} outputs for the labels {', '.join(labels)}; outputs must not be fewer than "
            f"labels and at most {MAX_OUTPUTS}, and one label must be {TOXICITY}"
        )
    kind = transformers.AutoModelForSequenceClassification
    config = read_config(encoder, num_labels=outputs, id2label=None, label2id=None)
    require_size(kind, config, encoder, sum(tensor.nbytes for tensor in state.values()))
    model = kind.from_config(config, trust_remote_code=False)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(
            f"{encoder}: no tokenizer that transformers can load ({brief(error)}); "
            "copy that of the encoder that the checkpoint was trained from into this folder"
        ) from error
    if type(model).__name__ != name:
        raise UserError(f"{checkpoint}: trained as {name}, but {encoder} configures a {type(model).__name__}")
    require_matching_vocabulary(encoder, model, tokenizer)
    _load_state(model, state, checkpoint)
    return DetoxifyModel(model.to(device).eval(), tokenizer, labels)


def _load_state(model: PreTrainedModel, state: dict[str, Tensor], checkpoint: Path) -> None:
    """Load all tensors; position ids, which old versions of transformers saved with the weights, are dropped."""
    weights = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{checkpoint}: its tensors do not fit {type(model).__name__} ({brief(error)})") from error


def context_tokens(model: PreTrainedModel) -> int | None:
    """Number of tokens that the model has positions for; None if it has no limit.

    RoBERTa's positions start after the one for padding.
    """
    length = context_length(model.config)
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding: int | None = getattr(positions, "padding_idx", None)
    return length if length is None or padding is None else length - padding - 1
