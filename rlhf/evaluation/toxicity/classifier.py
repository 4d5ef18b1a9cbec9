"""What the scoring stage asks of a classifier.  A third one is one more file and one more line in `load_classifier`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from rlhf.config import ToxicityConfig
from rlhf.errors import UserError
from rlhf.evaluation.toxicity.detoxify_model import load_detoxify, read_detoxify
from rlhf.evaluation.toxicity.profanity_model import load_profanity_check


class Classifier(Protocol):
    """Scores of texts: one probability, 0 to 1, per label and text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores, `toxicity` among them."""

    def score(self, texts: list[str]) -> dict[str, list[float]]:
        """Probabilities by label, in the order of `texts`."""


def load_classifier(settings: ToxicityConfig, inputs: Mapping[str, Path], device: torch.device) -> Classifier:
    """The classifier that `settings` name, its files checked against known hashes.  Raises UserError.

    `inputs` has the stage's `checkpoint` and `checkpoint_config` where the settings name them.
    """
    match settings.classifier:
        case "detoxify" if settings.checkpoint_sha256 is not None:
            checkpoint, encoder = inputs["checkpoint"], inputs["checkpoint_config"]
            return read_detoxify(checkpoint, settings.checkpoint_sha256, encoder, device)
        case "detoxify":
            return load_detoxify(settings.detoxify_model, device)
        case "profanity-check":
            return load_profanity_check()


def score_texts(classifier: Classifier, ids: list[str], texts: list[str]) -> list[dict[str, float]]:
    """Scores by label for each text.

    A text without a visible character scores 0 by rule: there is nothing in it that could be toxic, and a classifier
    would answer with the prior of its training set.  Raises UserError with the id where a score is no probability.
    """
    written = [index for index, text in enumerate(texts) if text.strip()]
    rows = [dict.fromkeys(classifier.labels, 0.0) for _ in texts]
    scores = classifier.score([texts[index] for index in written]) if written else {}
    for label, values in scores.items():
        for index, value in zip(written, values, strict=True):
            if not 0.0 <= value <= 1.0:  # NaN is neither
                raise UserError(
                    f"toxicity of prompt {ids[index]}: {label} is {value}, not a probability between 0 and 1; "
                    "the classifier's weights are damaged, delete its files and run again"
                )
            rows[index][label] = value
    return rows
