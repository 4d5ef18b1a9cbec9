"""One machine at a time holds a lock in S3; one that died holds none for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rlhf.storage import s3_lock
from rlhf.storage.s3 import Bucket
from rlhf.storage.s3_lock import lock
from tests.support.s3_server import shared_workspace

KEY = "leases/artifacts-train-f1.json"


class StoppedError(Exception):
    """The wait was interrupted."""


def give_up() -> None:
    raise StoppedError


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with shared_workspace() as workspace:
        yield workspace


@pytest.fixture
def bucket(uri: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(s3_lock, "POLL_SECONDS", 0.02)
    bucket = Bucket(uri)
    bucket.remove([KEY])
    return bucket


def test_the_second_machine_waits_until_the_first_has_ended(bucket: Bucket) -> None:
    waits: list[str] = []
    first = ExitStack()
    first.enter_context(lock(bucket, KEY, "one", give_up))

    def on_wait() -> None:
        waits.append("wait")
        if len(waits) == 3:
            waits.append("first ends")
            first.close()

    with lock(bucket, KEY, "two", on_wait):
        assert waits[:4] == ["wait", "wait", "wait", "first ends"]
    assert bucket.sizes("leases") == {}


def test_a_wait_can_be_interrupted(bucket: Bucket) -> None:
    with lock(bucket, KEY, "one", give_up):
        with pytest.raises(StoppedError), lock(bucket, KEY, "two", give_up):
            raise AssertionError("both hold the lock")
        content = bucket.read(KEY)
        assert content is not None
        assert content.startswith(b"one\n")


def test_the_lock_of_a_dead_process_of_the_same_machine_is_taken_over_at_once(bucket: Bucket) -> None:
    bucket.write(KEY, b"one\ndead")
    with lock(bucket, KEY, "one", give_up):
        content = bucket.read(KEY)
        assert content is not None
        assert content.startswith(b"one\n")
        assert content != b"one\ndead"


def test_a_lock_that_is_not_renewed_expires_and_one_that_is_does_not(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_lock, "EXPIRY_SECONDS", 2.0)  # S3 tells the time in whole seconds
    monkeypatch.setattr(s3_lock, "RENEW_SECONDS", 0.3)
    deadline = time.monotonic() + 3.5

    def until_the_deadline() -> None:
        if time.monotonic() > deadline:
            raise StoppedError

    with (
        lock(bucket, KEY, "one", give_up),
        pytest.raises(StoppedError),
        lock(bucket, KEY, "two", until_the_deadline),
    ):
        raise AssertionError("a lock that is renewed was taken over")
    bucket.write(KEY, b"one\ndead")
    deadline = time.monotonic() + 30
    with lock(bucket, KEY, "two", until_the_deadline):
        pass


def test_who_lost_the_lock_does_not_remove_that_of_the_next(bucket: Bucket) -> None:
    with lock(bucket, KEY, "one", give_up):
        bucket.write(KEY, b"two\nafter the first was suspended for long")
    assert bucket.read(KEY) == b"two\nafter the first was suspended for long"


def test_of_many_machines_one_at_a_time_holds_the_lock(bucket: Bucket) -> None:
    holders, most = [0], [0]
    counter = threading.Lock()

    def machine(name: str) -> None:
        with lock(bucket, KEY, name, lambda: None):
            with counter:
                holders[0] += 1
                most[0] = max(most[0], holders[0])
            time.sleep(0.02)
            with counter:
                holders[0] -= 1

    threads = [threading.Thread(target=machine, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], holders[0]) == (1, 0)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"one", b"x" * 10_000])
def test_any_content_of_a_lock_is_waited_for(bucket: Bucket, content: bytes) -> None:
    bucket.write(KEY, content)
    with pytest.raises(StoppedError), lock(bucket, KEY, "two", give_up):
        raise AssertionError("taken over")
