"""alt-profanity-check: a linear classifier over words that is part of its package, for runs without a network.

Importing the package unpickles its two model files, which can run code, so their hashes are verified before the import.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Protocol

from rlhf.errors import UserError
from rlhf.evaluation.toxicity.continuations import PROFANITY
from rlhf.storage.files import file_sha256

PACKAGE = "profanity_check"
PICKLES = {
    "model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
    "vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
}
"""sha256 of the files in the package's data folder, alt-profanity-check 1.9.1."""


class _Predict(Protocol):
    def __call__(self, texts: list[str]) -> list[float]: ...


class ProfanityCheck:
    """Scores the probability that a text is profane or offensive.  A toxic text without such words can score low."""

    labels = (PROFANITY,)
    main_label = PROFANITY

    def __init__(self, predict: _Predict) -> None:
        self._predict = predict

    def score(self, texts: list[str]) -> dict[str, list[float]]:
        """Probabilities in the order of `texts`, which must not be empty."""
        return {PROFANITY: [float(probability) for probability in self._predict(texts)]}


def load_profanity_check() -> ProfanityCheck:
    """Verify the package's pickles and load the classifier.  Raises UserError if a hash differs."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("toxicity.classifier profanity-check needs a package; pip install alt-profanity-check==1.9.1")
    require_known_pickles(Path(spec.origin).parent / "data")
    return ProfanityCheck(importlib.import_module(PACKAGE).predict_prob)


def require_known_pickles(folder: Path) -> None:
    """Raise UserError unless every pickle in `folder` has the pinned sha256."""
    for name, expected in PICKLES.items():
        path = folder / name
        actual = file_sha256(path) if path.is_file() else "missing"
        if actual != expected:
            raise UserError(
                f"{path}: sha256 is {actual}, expected {expected}; it is a pickle and was not opened; "
                "pip install --force-reinstall alt-profanity-check==1.9.1"
            )
