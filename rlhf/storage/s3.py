"""A place in S3: small objects read and written whole, listed and removed; what a user can mend is told in one line.

Credentials, region and AWS_ENDPOINT_URL are found as boto3 finds them.  What is written is encrypted and never public.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from rlhf.errors import UserError

S3 = "s3://"
THREADS = 10
"""Requests at once."""
ATTEMPTS = 5
"""How often a body is asked for again that did not arrive as it should."""
REQUEST_ATTEMPTS = 8
"""How often boto3 itself sends a request, waiting up to 20 s in between."""
DELETE_BATCH = 1000
KMS_KEY = "RLHF_KMS_KEY"
"""Environment variable: the KMS key that encrypts what is written; without it S3's own key does (AES256)."""

NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
    TokenRetrievalError,
)
BAD_CREDENTIALS = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
)
BROKEN = (IncompleteReadError, ResponseStreamingError, HTTPClientError, ConnectionError)
"""A body that did not arrive as it should: boto3 repeats requests, but not these."""
DENIED = ("AccessDenied", "403", "AllAccessDisabled", "KMS.AccessDeniedException")
NEEDED = (
    "the role needs s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:AbortMultipartUpload here, and the use of its KMS key where there is one"
)
OTHER_BYTES = ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
"""S3 got other bytes than were sent."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket, by its uri; keys are relative to it."""

    uri: str

    @cached_property
    def name(self) -> str:
        """Name of the bucket itself."""
        return self._place[0]

    @cached_property
    def _place(self) -> tuple[str, str]:
        return parse_uri(self.uri)

    @cached_property
    def client(self) -> Any:
        """boto3's client, for as many threads as one likes."""
        settings = Config(
            max_pool_connections=THREADS,
            retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
            connect_timeout=20,
            read_timeout=60,
            request_checksum_calculation="when_required",  # a request that carries data names its sha256
            response_checksum_validation="when_required",  # what comes down is hashed by us
        )
        with self.errors_told():
            return boto3.session.Session().client("s3", config=settings)

    def key(self, key: str) -> str:
        """Key within the bucket."""
        return "/".join(part for part in (self._place[1], key) if part)

    def object(self, key: str) -> dict[str, str]:
        """The object as boto3 names it."""
        return {"Bucket": self.name, "Key": self.key(key)}

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """Raise UserError for what the user can mend."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            message = remedy(error, self.name)
            if message is None:
                raise
            raise UserError(f"{self.uri}: {message}") from error

    def read(self, key: str) -> bytes | None:
        """Content of a small object, or None where there is none."""

        def get() -> bytes:
            content: bytes = self.client.get_object(**self.object(key))["Body"].read()
            return content

        with self.errors_told():
            try:
                return insist(get)
            except ClientError as error:
                if error_code(error) == "NoSuchKey":
                    return None
                raise

    def write(self, key: str, content: bytes) -> None:
        """Put a small object in place: who reads meanwhile gets the old one or the new one."""
        with self.errors_told():
            self.put(key, content, hashlib.sha256(content).hexdigest())

    def put(self, key: str, content: bytes, sha256: str) -> None:
        """Write an object whose sha256, in hex, S3 compares with what arrives."""
        insist(
            lambda: self.client.put_object(**self.object(key), Body=content, **checksum(sha256), **attributes(sha256))
        )

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there count as removed."""
        names = [{"Key": self.key(key)} for key in keys]
        with self.errors_told():
            for start in range(0, len(names), DELETE_BATCH):
                batch = {"Objects": names[start : start + DELETE_BATCH], "Quiet": True}
                answer = self.client.delete_objects(Bucket=self.name, Delete=batch, ChecksumAlgorithm="SHA256")
                for failed in answer.get("Errors", []):
                    raise UserError(
                        f"{self.uri}: cannot remove {failed['Key']} ({failed['Code']}); allow s3:DeleteObject"
                    )

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below `prefix/`, by its name there."""
        start = f"{self.key(prefix)}/".lstrip("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
        with self.errors_told():
            return {
                found["Key"].removeprefix(start): found["Size"] for page in pages for found in page.get("Contents", [])
            }

    def folders(self) -> list[str]:
        """Names of the prefixes right below this one, in order."""
        start = f"{self.key('')}/".lstrip("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start, Delimiter="/")
        with self.errors_told():
            return [
                found["Prefix"].removeprefix(start).rstrip("/")
                for page in pages
                for found in page.get("CommonPrefixes", [])
            ]

    def abort_uploads(self, prefix: str) -> None:
        """Give up uploads in parts below `prefix/` that were never ended; their parts are kept and paid for."""
        start = f"{self.key(prefix)}/"
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=start)
        with self.errors_told():
            for page in pages:
                for begun in page.get("Uploads", []):
                    abort(self.client, {"Bucket": self.name, "Key": begun["Key"]}, begun["UploadId"])


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`.

    Raises UserError where it is none.
    """
    bucket, _, prefix = uri.removeprefix(S3).strip("/").partition("/")
    if not uri.startswith(S3) or not bucket:
        raise UserError(f"{uri}: no place in S3; write s3://bucket/prefix")
    return bucket, prefix


def attributes(sha256: str) -> dict[str, Any]:
    """What every object is given: its sha256 to be found again by, and encryption."""
    key = os.environ.get(KMS_KEY)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {"ServerSideEncryption": "AES256"}
    return {"Metadata": {"sha256": sha256}, **encryption}


def checksum(sha256: str) -> dict[str, str]:
    """A hash in hex as S3 is told it, to compare with what arrives."""
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()}


def abort(client: Any, place: dict[str, str], upload: str) -> None:
    """Give up an upload in parts, which may have ended already."""
    try:
        client.abort_multipart_upload(**place, UploadId=upload)
    except ClientError as error:
        if error_code(error) != "NoSuchUpload":
            raise


def insist(act: Callable[[], ResultT]) -> ResultT:
    """What `act` returns, after as many attempts as it takes where data is broken on its way."""
    for attempt in range(ATTEMPTS):
        back_off(attempt)
        try:
            return act()
        except BROKEN:
            if attempt == ATTEMPTS - 1:
                raise
        except ClientError as error:
            if error_code(error) not in OTHER_BYTES or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def back_off(attempt: int) -> None:
    """Wait before a repetition: up to 0.5 s, 1 s, 2 s, ...; not before the first attempt."""
    if attempt:
        time.sleep(random.uniform(0.5, 1) * 0.5 * 2 ** (attempt - 1))


def error_code(error: ClientError) -> str:
    """S3's own name of an error, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", ""))


def remedy(error: Exception, bucket: str) -> str | None:
    """One line for the user, where the error is theirs to mend."""
    if isinstance(error, NO_CREDENTIALS):
        return f"no AWS credentials ({error}); set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give this machine a role"
    if isinstance(error, HTTPClientError | NoConnectionError):
        return f"S3 does not answer ({error}); check the network, AWS_REGION and AWS_ENDPOINT_URL"
    return _refusal(error, bucket) if isinstance(error, ClientError) else None


def _refusal(error: ClientError, bucket: str) -> str | None:
    code, status = error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    told = {
        "NoSuchBucket": f"there is no bucket {bucket}; create it, or name another with --workspace",
        **dict.fromkeys(BAD_CREDENTIALS, f"AWS does not accept the credentials ({code}); sign in again"),
        **dict.fromkeys(DENIED, f"access denied ({error.operation_name}); {NEEDED}"),
        **dict.fromkeys(OTHER_BYTES, "S3 gets other bytes than the manifest says; check the disk, and run again"),
    }
    return told.get(code) or (f"S3 is out of order ({error}); try again later" if status >= 500 else None)
