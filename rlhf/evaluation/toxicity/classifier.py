"""Toxicity classifiers: their interface, loading and checked scores.

To add one, write a module for it and add a case to `load_classifier`.
"""

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
    """Scores texts: one probability, 0 to 1, per label and text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores; one of them is `main_label`."""

    @property
    def main_label(self) -> str:
        """The score that the report compares: `toxicity` or `profanity`."""

    def score(self, texts: list[str]) -> dict[str, list[float]]:
        """Probabilities by label, in the order of `texts`."""


def load_classifier(settings: ToxicityConfig, inputs: Mapping[str, Path], device: torch.device) -> Classifier:
    """Load the classifier that the settings name.  Raises UserError if it is unavailable or a file's hash is wrong.

    `inputs` contains the stage's `checkpoint` and `checkpoint_config` if they are set.
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

    Blank texts score 0 by definition: they contain nothing toxic, and a classifier would return the prior of its
    training data.  Raises UserError with the id if a score is not a probability.
    """
    nonblank = [index for index, text in enumerate(texts) if text.strip()]
    rows = [dict.fromkeys(classifier.labels, 0.0) for _ in texts]
    scores = classifier.score([texts[index] for index in nonblank]) if nonblank else {}
    for label, values in scores.items():
        for index, value in zip(nonblank, values, strict=True):
            if not 0.0 <= value <= 1.0:  # also false for NaN
                raise UserError(
                    f"text of prompt {ids[index]}: its score {label} is {value}, not a probability between 0 and 1; "
                    "the classifier's weights are damaged; delete its files and run again"
                )
            rows[index][label] = value
    return rows
