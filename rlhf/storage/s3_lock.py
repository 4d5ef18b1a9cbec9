"""A lock in S3: an object that one machine at a time creates, renews while it works and removes at the end.

S3 writes an object only if there is none (If-None-Match), or only over the version that was read (If-Match), so two
machines never get the same lock.  A machine that dies stops renewing; after EXPIRY_SECONDS of S3's own clock another
one takes over.  Stores that refuse conditional writes give no lock: then the machine that publishes first wins.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from rlhf.errors import UserError
from rlhf.storage.s3 import Bucket, error_code, object_attributes

EXPIRY_SECONDS = 60.0
"""Age from which a lock that was not renewed counts as abandoned."""
RENEW_SECONDS = 10.0
"""Time between two renewals."""
POLL_SECONDS = 2.0
"""Time between two attempts to get a lock."""
HELD = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""Error codes: another machine has written the object meanwhile."""
UNSUPPORTED = ("NotImplemented", "501")
"""Error codes of stores without conditional writes."""


@contextmanager
def lock(bucket: Bucket, key: str, owner: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock `key` inside the `with` block, however long other machines hold it before.

    `owner` names this machine's cache: a lock that it left behind is taken over at once, so the caller must hold a
    lock of its own among the processes of this machine.  `on_wait` is called again and again while others hold the
    lock; what it raises ends the wait.
    """
    body = f"{owner}\n{uuid4().hex}".encode()
    with bucket.as_user_errors():
        tag = _acquire(bucket, key, owner, body, on_wait)
    if tag is None:
        yield
        return
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(bucket, key, body, tag, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(UserError):  # the lock expires by itself
            if bucket.read(key) == body:
                bucket.remove([key])


def is_held(bucket: Bucket, key: str) -> bool:
    """Whether a machine holds the lock `key` and has renewed it lately."""
    with bucket.as_user_errors():
        current = _current(bucket, key)
    return current is not None and current.age_seconds <= EXPIRY_SECONDS


def _acquire(bucket: Bucket, key: str, owner: str, body: bytes, on_wait: Callable[[], None]) -> str | None:
    """Write the lock; returns its version, or None if the store knows no conditional writes."""
    condition = {"IfNoneMatch": "*"}
    while True:
        try:
            return _put(bucket, key, body, condition)
        except ClientError as error:
            if error_code(error) in UNSUPPORTED:
                return None
            if error_code(error) not in (*HELD, "NoSuchKey"):
                raise
        current = _current(bucket, key)
        if current is None:
            condition = {"IfNoneMatch": "*"}
        elif current.owner == owner or current.age_seconds > EXPIRY_SECONDS:
            condition = {"IfMatch": current.tag}
        else:
            on_wait()
            time.sleep(POLL_SECONDS)
            condition = {"IfNoneMatch": "*"}


def _renew(bucket: Bucket, key: str, body: bytes, tag: str, ended: threading.Event) -> None:
    """Write the lock again and again until the holder has ended or another machine has taken over."""
    while not ended.wait(RENEW_SECONDS):
        try:
            tag = _put(bucket, key, body, {"IfMatch": tag})
        except ClientError as error:
            if error_code(error) in (*HELD, "NoSuchKey"):
                return
        except BotoCoreError:  # no connection: the next attempt may have one
            continue


class _Lock:
    """A lock as it is in S3."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self.tag: str = reply["ETag"]
        self.owner = reply["Body"].read(1000).partition(b"\n")[0].decode(errors="replace")
        date = reply["ResponseMetadata"]["HTTPHeaders"].get("date")  # some stores send none
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        self.age_seconds: float = (now - reply["LastModified"]).total_seconds()


def _current(bucket: Bucket, key: str) -> _Lock | None:
    try:
        return _Lock(bucket.client.get_object(**bucket.object(key)))
    except ClientError as error:
        if error_code(error) == "NoSuchKey":
            return None
        raise


def _put(bucket: Bucket, key: str, body: bytes, condition: dict[str, str]) -> str:
    attributes = object_attributes(hashlib.sha256(body).hexdigest())
    reply = bucket.client.put_object(**bucket.object(key), Body=body, **attributes, **condition)
    tag: str = reply["ETag"]
    return tag
