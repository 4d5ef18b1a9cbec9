"""A prefix in S3: read, write, list and remove small objects; errors that a user can fix become one line.

boto3 finds credentials, region and AWS_ENDPOINT_URL.  Everything written is encrypted and never public.
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
"""Attempts to transfer a body that arrives corrupted or cut off."""
REQUEST_ATTEMPTS = 8
"""Attempts of boto3 itself to send a request, with waits of up to 20 s."""
DELETE_BATCH = 1000
MAX_SMALL_BYTES = 2**28
"""Largest object that is read into memory at once; reports and manifests have a few MB."""
KMS_KEY = "RLHF_KMS_KEY"
"""Environment variable: KMS key that encrypts objects; if unset, S3's own key does (AES256)."""

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
RETRYABLE = (IncompleteReadError, ResponseStreamingError, HTTPClientError, ConnectionError)
"""Errors of a body that was cut off; boto3 repeats requests, but not these."""
ACCESS_DENIED = ("AccessDenied", "403", "AllAccessDisabled", "KMS.AccessDeniedException")
REQUIRED_PERMISSIONS = (
    "the role needs s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:AbortMultipartUpload here, and permission to use the KMS key if there is one"
)
CHECKSUM_MISMATCH = ("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
"""Error codes: S3 received other bytes than were sent."""

ResultT = TypeVar("ResultT")


class TooLargeError(UserError):
    """An object is larger than any that this program writes under its name."""


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket; keys are relative to it."""

    uri: str

    @cached_property
    def name(self) -> str:
        """Name of the bucket itself."""
        return self._location[0]

    @cached_property
    def _location(self) -> tuple[str, str]:
        return parse_uri(self.uri)

    @cached_property
    def client(self) -> Any:
        """boto3's client; safe to use from several threads."""
        settings = Config(
            max_pool_connections=THREADS,
            retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
            connect_timeout=20,
            read_timeout=60,
            request_checksum_calculation="when_required",  # requests that carry data name its sha256
            response_checksum_validation="when_required",  # downloads are hashed by us
        )
        with self.as_user_errors():
            return boto3.session.Session().client("s3", config=settings)

    def key(self, key: str) -> str:
        """Key within the bucket."""
        return "/".join(part for part in (self._location[1], key) if part)

    def object(self, key: str) -> dict[str, str]:
        """The object as arguments of boto3."""
        return {"Bucket": self.name, "Key": self.key(key)}

    @contextmanager
    def as_user_errors(self) -> Iterator[None]:
        """Turn AWS errors that the user can fix into UserError."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            message = user_hint(error, self.name)
            if message is None:
                raise
            raise UserError(f"{self.uri}: {message}") from error

    def read(self, key: str, max_bytes: int = MAX_SMALL_BYTES) -> bytes | None:
        """Content of a small object, or None if it does not exist.

        Raises TooLargeError, before anything is read, if it has more than `max_bytes`.
        """

        def get() -> bytes:
            reply = self.client.get_object(**self.object(key))
            if reply["ContentLength"] > max_bytes:
                reply["Body"].close()
                raise TooLargeError(
                    f"{self.uri}/{key}: {reply['ContentLength']} bytes, but at most {max_bytes} are read; remove it"
                )
            content: bytes = reply["Body"].read()
            return content

        with self.as_user_errors():
            try:
                return retry_transfer(get)
            except ClientError as error:
                if error_code(error) == "NoSuchKey":
                    return None
                raise

    def write(self, key: str, content: bytes) -> None:
        """Write a small object; concurrent readers get either the old content or the new."""
        with self.as_user_errors():
            self.put(key, content, hashlib.sha256(content).hexdigest())

    def put(self, key: str, content: bytes, sha256: str) -> None:
        """Write an object; S3 compares the received bytes with `sha256`, in hex."""
        retry_transfer(
            lambda: self.client.put_object(
                **self.object(key), Body=content, **checksum(sha256), **object_attributes(sha256)
            )
        )

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; missing ones count as removed."""
        names = [{"Key": self.key(key)} for key in keys]
        with self.as_user_errors():
            for start in range(0, len(names), DELETE_BATCH):
                batch = {"Objects": names[start : start + DELETE_BATCH], "Quiet": True}
                reply = self.client.delete_objects(Bucket=self.name, Delete=batch, ChecksumAlgorithm="SHA256")
                for failure in reply.get("Errors", []):
                    raise UserError(
                        f"{self.uri}: cannot remove {failure['Key']} ({failure['Code']}); allow s3:DeleteObject"
                    )

    def sizes(self, prefix: str) -> dict[str, int]:
        """Size in bytes of every object below `prefix/`, by its name relative to it."""
        start = f"{self.key(prefix)}/".lstrip("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
        with self.as_user_errors():
            return {
                entry["Key"].removeprefix(start): entry["Size"] for page in pages for entry in page.get("Contents", [])
            }

    def folders(self) -> list[str]:
        """Names of the prefixes directly below this one, sorted."""
        start = f"{self.key('')}/".lstrip("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start, Delimiter="/")
        with self.as_user_errors():
            return [
                entry["Prefix"].removeprefix(start).rstrip("/")
                for page in pages
                for entry in page.get("CommonPrefixes", [])
            ]

    def abort_uploads(self, prefix: str) -> None:
        """Abort multipart uploads below `prefix/` that never completed: their parts would be stored and billed."""
        start = f"{self.key(prefix)}/"
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=start)
        with self.as_user_errors():
            for page in pages:
                for upload in page.get("Uploads", []):
                    abort(self.client, {"Bucket": self.name, "Key": upload["Key"]}, upload["UploadId"])


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`.

    Raises UserError if `uri` is not one.
    """
    bucket, _, prefix = uri.removeprefix(S3).strip("/").partition("/")
    if not uri.startswith(S3) or not bucket:
        raise UserError(f"{uri}: not an S3 URI; write s3://bucket/prefix")
    return bucket, prefix


def object_attributes(sha256: str) -> dict[str, Any]:
    """Arguments of every new object: its sha256 as metadata, and encryption."""
    key = os.environ.get(KMS_KEY)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {"ServerSideEncryption": "AES256"}
    return {"Metadata": {"sha256": sha256}, **encryption}


def checksum(sha256: str) -> dict[str, str]:
    """Arguments by which S3 compares the received bytes with a sha256 in hex."""
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()}


def abort(client: Any, location: dict[str, str], upload: str) -> None:
    """Abort a multipart upload; one that has already ended is left alone."""
    try:
        client.abort_multipart_upload(**location, UploadId=upload)
    except ClientError as error:
        if error_code(error) != "NoSuchUpload":
            raise


def retry_transfer(act: Callable[[], ResultT]) -> ResultT:
    """Call `act`, retrying up to ATTEMPTS times if a transfer is corrupted or cut off; returns its result."""
    for attempt in range(ATTEMPTS):
        back_off(attempt)
        try:
            return act()
        except RETRYABLE:
            if attempt == ATTEMPTS - 1:
                raise
        except ClientError as error:
            if error_code(error) not in CHECKSUM_MISMATCH or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def back_off(attempt: int) -> None:
    """Wait before a retry: up to 0.5 s, 1 s, 2 s, ...; not before the first attempt."""
    if attempt:
        time.sleep(random.uniform(0.5, 1) * 0.5 * 2 ** (attempt - 1))


def error_code(error: ClientError) -> str:
    """Error code of S3, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code", ""))


def user_hint(error: Exception, bucket: str) -> str | None:
    """One line for the user if the error is one that they can fix, else None."""
    if isinstance(error, NO_CREDENTIALS):
        return f"no AWS credentials ({error}); set AWS_PROFILE or AWS_ACCESS_KEY_ID, or give this machine a role"
    if isinstance(error, HTTPClientError | NoConnectionError):
        return f"S3 does not answer ({error}); check the network, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
    return _hint_for_status(error, bucket) if isinstance(error, ClientError) else None


def _hint_for_status(error: ClientError, bucket: str) -> str | None:
    code, status = error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    hints = {
        "NoSuchBucket": f"there is no bucket {bucket}; create it or use another one",
        **dict.fromkeys(BAD_CREDENTIALS, f"AWS does not accept the credentials ({code}); sign in again"),
        **dict.fromkeys(ACCESS_DENIED, f"access denied ({error.operation_name}); {REQUIRED_PERMISSIONS}"),
        **dict.fromkeys(
            CHECKSUM_MISMATCH, "S3 received other bytes than the manifest says; check the disk, then run again"
        ),
    }
    return hints.get(code) or (f"S3 is unavailable ({error}); try again later" if status >= 500 else None)
