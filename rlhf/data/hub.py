"""Data sets and models from the Hugging Face hub, at a pinned commit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from huggingface_hub import snapshot_download

from rlhf.errors import UserError, brief, user_message

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Patterns of weights in a model repository; the first that matches a file is used."""
NOT_WEIGHTS = ("*.json", "*.txt", "tokenizer*", "*.model")
"""Patterns of the other files of a model: configuration and tokenizer."""


def download(
    kind: Literal["dataset", "model"],
    repository: str,
    revision: str,
    patterns: list[str],
    *,
    setting: str,
    ignore: list[str] | None = None,
) -> Path:
    """Folder with the files of a repository that match `patterns`, but not `ignore`; cached files are not downloaded.

    Raises UserError if the download fails; its message offers `setting` to name a local copy instead.
    """
    try:
        return Path(
            snapshot_download(
                repository, repo_type=kind, revision=revision, allow_patterns=patterns, ignore_patterns=ignore
            )
        )
    except Exception as error:  # also ValueError, for a file name in the hub's list that leads out of the folder
        if user_message(error):  # such as a full disk, which is no fault of the hub
            raise
        raise UserError(
            f"cannot download {repository} at {revision} from the Hugging Face hub ({brief(error)}); "
            f"check the connection, or set {setting} to a local copy"
        ) from error


def download_model(repository: str, revision: str) -> Path:
    """Folder with a model: safetensors if the repository has them, else the pickle.

    Raises UserError if the download fails.
    """
    folder = Path()
    for weights in WEIGHTS:
        patterns = [*NOT_WEIGHTS, weights]
        folder = download("model", repository, revision, patterns, setting="model.path", ignore=["*/*"])
        if any(folder.glob(weights)):
            break
    return folder
