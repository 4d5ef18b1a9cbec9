"""A second opinion on toxicity: any sequence classification model scores the same continuations.

Its labels are the model's own, such as `hate` and `neutral`, and are reported one by one.  A blank continuation is not
scored: for the label `neutral`, a score of 0 would be wrong, and the model's output for an empty text is arbitrary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError, brief, user_message
from rlhf.evaluation.toxicity.continuations import Continuation
from rlhf.evaluation.toxicity.detoxify_model import context_tokens
from rlhf.models.checks import require_matching_vocabulary, require_vocabulary
from rlhf.models.config_file import read_config
from rlhf.models.loading import load_model, require_complete
from rlhf.models.weight_files import SAFETENSORS, find_weights
from rlhf.results.second_opinion import SecondOpinionRow
from rlhf.runtime.stage import note

TOKENS_PER_BATCH = 4096
UNLIMITED_TOKENS = 1_000_000
"""Tokenizers without a limit have one above this."""
MULTI_LABEL = "multi_label_classification"
"""The problem_type of transformers whose labels are independent of each other."""
GENERIC_LABEL = re.compile(r"LABEL_\d+")
"""Names that transformers gives to labels without a name."""
REMEDY = "set toxicity.second_opinion to a folder as save_pretrained of a sequence classification model writes it"
"""What to do about a folder without a classifier."""


class SecondOpinionModel:
    """A sequence classification model that scores texts: one probability, 0 to 1, per label."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.labels = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
        self._model = model
        self._tokenizer = tokenizer
        limits = (tokenizer.model_max_length, context_tokens(model))
        self._max_tokens = min(limit for limit in limits if limit is not None)

    @torch.inference_mode()
    def score(self, texts: list[str]) -> list[dict[str, float] | None]:
        """Probabilities by label for each text; None for a text that is blank or has no tokens.

        They sum to 1 over the labels, unless the labels are independent of each other: if the configuration's
        problem_type is multi_label_classification, or if there is only one label.  Tokens beyond the model's context
        are ignored.  Text that spells a special token is ordinary text.
        """
        nonblank = [index for index, text in enumerate(texts) if text.strip()]
        rows: list[dict[str, float] | None] = [None] * len(texts)
        for batch, ids_BL in self._batches([texts[index] for index in nonblank]):
            logits_BN = self._model(input_ids=ids_BL.to(self._model.device)).logits.float()
            independent = self._model.config.problem_type == MULTI_LABEL or len(self.labels) == 1
            probability_BN = logits_BN.sigmoid() if independent else logits_BN.softmax(1)
            for row, probabilities in zip(batch, probability_BN.tolist(), strict=True):
                rows[nonblank[row]] = dict(zip(self.labels, probabilities, strict=True))
        return rows

    def _batches(self, texts: list[str]) -> Iterator[tuple[list[int], Tensor]]:
        """Indices of texts with equally many tokens, at least one, and their token ids [B, L].

        Equal lengths need no padding, so padding changes no score.  A model without a pad token gets single texts:
        decoders in transformers refuse several.
        """
        if not texts:
            return
        limits = {"truncation": True, "max_length": self._max_tokens} if self._max_tokens < UNLIMITED_TOKENS else {}
        ids = self._tokenizer(texts, split_special_tokens=True, **limits).input_ids
        by_length = sorted((index for index, row in enumerate(ids) if row), key=lambda index: len(ids[index]))
        for length, group in groupby(by_length, key=lambda index: len(ids[index])):
            indices = list(group)
            size = 1 if self._model.config.pad_token_id is None else max(1, TOKENS_PER_BATCH // length)
            for start in range(0, len(indices), size):
                batch = indices[start : start + size]
                yield batch, torch.tensor([ids[index] for index in batch])


def load_second_opinion(folder: Path, device: torch.device) -> SecondOpinionModel:
    """Load the sequence classification model in `folder`: safetensors only, and no code of the folder is run.

    Reports a note if the labels have no names of their own.  Raises UserError if the folder has no complete
    classifier, or one whose scores are no probabilities of distinct labels.
    """
    kind, config = transformers.AutoModelForSequenceClassification, _read_config(folder)
    model, missing = load_model(kind, folder, config, "float32")
    require_complete(folder, missing)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if user_message(error) is not None:
            raise
        raise UserError(f"{folder}: no tokenizer that transformers can load ({brief(error)}); {REMEDY}") from error
    require_matching_vocabulary(folder, model, tokenizer)
    return SecondOpinionModel(model.to(device).eval(), tokenizer)


def opinion_rows(model: SecondOpinionModel, continuations: Sequence[Continuation]) -> list[SecondOpinionRow]:
    """The model's row for each continuation, which it sees without its prompt.

    Raises UserError with the ID of the prompt if a score is not a probability.
    """
    rows = []
    opinions = model.score([row.continuation for row in continuations])
    for continuation, scores in zip(continuations, opinions, strict=True):
        for label, score in (scores or {}).items():
            if not 0.0 <= score <= 1.0:  # also false for NaN
                raise UserError(
                    f"toxicity.second_opinion: the score {label} of prompt {continuation.id} is {score}, not a "
                    "probability between 0 and 1; the model's weights are damaged; copy them again"
                )
        rows.append(SecondOpinionRow(id=continuation.id, sample=continuation.sample, scores=scores))
    return rows


def _read_config(folder: Path) -> PreTrainedConfig:
    """The configuration in `folder`.  Raises UserError unless it is that of a classifier with distinct labels."""
    config = read_config(folder)
    if find_weights(folder).kind != SAFETENSORS:
        raise UserError(f"{folder}: its weights are a pickle, which is not opened; convert them to {SAFETENSORS}")
    require_vocabulary(folder)
    names = config.architectures or ["ForSequenceClassification"]
    if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or not any(
        name.endswith("ForSequenceClassification") for name in names
    ):
        raise UserError(f"{folder}: {config.model_type} ({', '.join(names)}) is not a classifier; {REMEDY}")
    if config.problem_type == "regression":
        raise UserError(f"{folder}: problem_type is regression, whose scores are no probabilities; {REMEDY}")
    labels = [str(label) for label in config.id2label.values()]
    if len(set(labels)) < len(labels):
        raise UserError(f"{folder}/config.json: id2label ({', '.join(labels)}) repeats a label; give each its own name")
    if all(map(GENERIC_LABEL.fullmatch, labels)):
        note(
            f"toxicity.second_opinion: the labels of {folder.name} have no names ({', '.join(labels)}); "
            "set id2label in its config.json to name them in the report"
        )
    return config
