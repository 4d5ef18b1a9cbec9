"""alt-profanity-check: a linear classifier over words, shipped inside its package, for runs without a network.

Its two files are pickles that run as code on import, so they are hashed before anything of the package is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Protocol

from rlhf.errors import UserError
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
    """Probability that a text is profane or offensive, under the label `toxicity`."""

    labels = ("toxicity",)

    def __init__(self, predict: _Predict) -> None:
        self._predict = predict

    def score(self, texts: list[str]) -> dict[str, list[float]]:
        """Probabilities in the order of `texts`, of which there must be at least one."""
        return {"toxicity": [float(probability) for probability in self._predict(texts)]}


def load_profanity_check() -> ProfanityCheck:
    """The classifier, once its pickles are proved to be the known ones.  Raises UserError where they are not."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("toxicity.classifier profanity-check needs its package; pip install alt-profanity-check==1.9.1")
    require_known_pickles(Path(spec.origin).parent / "data")
    return ProfanityCheck(importlib.import_module(PACKAGE).predict_prob)


def require_known_pickles(folder: Path) -> None:
    """Raise UserError unless every pickle in `folder` has the pinned sha256."""
    for name, expected in PICKLES.items():
        path = folder / name
        found = file_sha256(path) if path.is_file() else "missing"
        if found != expected:
            raise UserError(
                f"{path}: sha256 is {found}, expected {expected}; it is a pickle and was not opened; "
                "pip install --force-reinstall alt-profanity-check==1.9.1"
            )
