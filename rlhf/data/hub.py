"""Data sets from the Hugging Face hub, at a pinned commit."""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from rlhf.errors import UserError, user_message


def download_dataset(repository: str, revision: str, patterns: list[str], *, field: str) -> Path:
    """Folder with the files of the data set that match `patterns`; what was downloaded before is not fetched again.

    Raises UserError where it cannot be had; `field` is the setting that would take a local path instead.
    """
    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (OSError, httpx.HTTPError, HFValidationError) as error:
        if user_message(error):  # a full disk is not the hub's fault
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot download {repository} at {revision} from the Hugging Face hub ({reason}); "
            f"check the connection, or set {field} to a local copy"
        ) from error
