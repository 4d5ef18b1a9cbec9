"""Where a label output is: on this machine or in S3.  Its manifest names the files with the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from botocore.exceptions import BotoCoreError, ClientError

from rlhf.data.invisible import one_line
from rlhf.errors import UserError
from rlhf.labeling.ground_truth_output import OUTPUT_MANIFEST
from rlhf.storage.s3 import S3, Bucket, parse_uri
from rlhf.storage.untrusted import path_inside, read_regular_file

MAX_MANIFEST_BYTES = 2**29
"""Largest output manifest; one of Ground Truth has at most 100,000 lines."""
MAX_RESPONSE_BYTES = 2**24
"""Largest file with the answers to one pair."""
ANNOTATIONS = "/annotations/"
"""Part of the keys of all files that a labeling job writes for its workers' answers."""


class LabelOutput(Protocol):
    """A label output on this machine or in S3."""

    def manifest(self) -> bytes:
        """The output manifest."""
        ...

    def read(self, reference: str) -> bytes:
        """The file that the manifest refers to.

        Raises UserError if it does not exist, is outside of the output, or cannot be a file with answers.
        """
        ...


class LocalOutput:
    """A label output on this machine; references are relative, or those of the bucket that it was copied from."""

    def __init__(self, path: Path) -> None:
        """Find the manifest.  Raises UserError if there is none, or several."""
        try:
            candidates = [path] if path.is_file() else [path / OUTPUT_MANIFEST, *path.glob(f"*/{OUTPUT_MANIFEST}")]
            manifests = [candidate for candidate in candidates if candidate.is_file()]
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{one_line(str(path))}: cannot be read ({one_line(str(error))})") from error
        if len(manifests) != 1:
            count = f"{len(manifests)} of" if manifests else "no"
            raise UserError(
                f"{one_line(str(path))}: {count} {OUTPUT_MANIFEST}; name the output manifest or the folder of one job"
            )
        self._manifest = manifests[0]
        in_layout = self._manifest.match(str(OUTPUT_MANIFEST))
        self._root = self._manifest.parents[2] if in_layout else self._manifest.parent

    def manifest(self) -> bytes:
        """The output manifest."""
        return read_regular_file(self._manifest, MAX_MANIFEST_BYTES)

    def read(self, reference: str) -> bytes:
        """The file that the manifest refers to, which must be inside of the output's folder."""
        is_copied = reference.startswith(S3) and ANNOTATIONS in reference
        relative = ANNOTATIONS[1:] + reference.rpartition(ANNOTATIONS)[2] if is_copied else reference
        return read_regular_file(path_inside(self._root, relative), MAX_RESPONSE_BYTES)


class S3Output:
    """A label output in S3."""

    def __init__(self, uri: str) -> None:
        name, key = parse_uri(uri)
        layout = OUTPUT_MANIFEST.as_posix()
        self._bucket = Bucket(f"{S3}{name}")
        self._key = key if key.endswith(".manifest") else f"{key}/{layout}".lstrip("/")
        self._root = self._key.removesuffix(layout)

    def manifest(self) -> bytes:
        """The output manifest."""
        return self._get(self._key, MAX_MANIFEST_BYTES)

    def read(self, reference: str) -> bytes:
        """The object that the manifest refers to, which must be in the same bucket."""
        own = f"{self._bucket.uri}/"
        if reference.startswith(S3) and not reference.startswith(own):
            raise UserError(f"{one_line(reference)} is outside of {own}")
        key = reference.removeprefix(own) if reference.startswith(S3) else self._root + reference
        return self._get(key, MAX_RESPONSE_BYTES)

    def _get(self, key: str, max_bytes: int) -> bytes:
        place = f"{self._bucket.uri}/{one_line(key)}"
        try:
            content = self._bucket.read(key, max_bytes)
        except (BotoCoreError, ClientError, UnicodeError) as error:
            raise UserError(f"{place}: {one_line(str(error))}") from error
        if content is None:
            raise UserError(f"{place}: no such object; name the output manifest or the job's folder")
        return content
