"""The offline classifier, and the verification of its pickles before they are loaded."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import profanity_check
import pytest

from rlhf.errors import UserError
from rlhf.evaluation.toxicity.profanity_model import load_profanity_check, require_known_pickles
from tests.support.paths import ROOT, SHARED

DATA = Path(profanity_check.__file__).parent / "data"


def test_an_insult_scores_high_and_a_greeting_low() -> None:
    classifier = load_profanity_check()
    assert classifier.labels == (classifier.main_label,) == ("profanity",)
    scores = classifier.score(["Have a lovely day.", "you stupid idiot"])["profanity"]
    assert scores[0] < 0.1
    assert scores[1] > 0.9


def test_a_changed_byte_is_rejected(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA, tmp_path / "data")
    require_known_pickles(folder)
    changed = bytearray((folder / "model.joblib").read_bytes())
    changed[100] ^= 1
    (folder / "model.joblib").write_bytes(changed)
    with pytest.raises(UserError, match=r"model\.joblib: sha256 is .* it is a pickle and was not opened"):
        require_known_pickles(folder)


def test_a_package_with_other_files_is_never_imported(tmp_path: Path) -> None:
    """A package of the same name that is first on the path is rejected before any of its code runs."""
    package = tmp_path / "profanity_check"
    shutil.copytree(DATA, package / "data")
    (package / "data" / "vectorizer.joblib").write_bytes(b"something else")
    (package / "__init__.py").write_text("print('imported')")
    program = (
        "from rlhf.evaluation.toxicity.profanity_model import load_profanity_check\n"
        "try:\n    load_profanity_check()\nexcept Exception as error:\n    print(type(error).__name__)"
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert result.stdout.split() == ["UserError"]


@pytest.mark.slow
def test_agrees_with_perspective_on_real_texts() -> None:
    """AUC of at least 0.85 against the stored Perspective scores (toxic from 0.5), prompts and continuations."""
    path = SHARED / "data/real-toxicity-prompts/rtp-2500.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no RealToxicityPrompts at {path}; set RLHF_SHARED")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    parts = [row[part] for row in rows for part in ("prompt", "continuation") if row[part]["toxicity"] is not None]
    scores = load_profanity_check().score([part["text"] for part in parts])["profanity"]
    toxic = [score for score, part in zip(scores, parts, strict=True) if part["toxicity"] >= 0.5]
    harmless = [score for score, part in zip(scores, parts, strict=True) if part["toxicity"] < 0.5]
    wins = sum((t > h) + (t == h) / 2 for t in toxic for h in harmless)
    area = wins / (len(toxic) * len(harmless))
    print(f"AUC {area:.3f} over {len(parts)} texts")
    assert area >= 0.85
