"""Connections of the labeling page, to a server in a process: nobody keeps the others out or the server from ending."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlhf.labeling.manifest import PromptResponses
from tests.support.page_client import plain_pairs
from tests.support.page_process import (
    BODY_SECONDS,
    OPEN_FILES,
    REQUEST_SECONDS,
    RESPONSE_SECONDS,
    PageProcess,
    page_process,
    read_to_end,
)

IDLE = 3 * OPEN_FILES
SLACK_SECONDS = 5.0
"""What a busy machine may add."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    long = [PromptResponses(pair.id, pair.prompt, "a" * 45_000, "b" * 45_000) for pair in plain_pairs(150)]
    with page_process(tmp_path_factory.mktemp("page"), long) as page:
        yield page


@pytest.fixture
def page(running: PageProcess) -> Iterator[PageProcess]:
    """The page; a test must leave it alive, and must not make it log anything."""
    logged = running.log.read_bytes()
    yield running
    assert running.process.poll() is None
    assert running.log.read_bytes() == logged


def serves(page: PageProcess) -> bool:
    """Whether somebody else is served at once."""
    started = time.monotonic()
    response = page.ask(page.head("GET", "/page.css", "Connection: close"))
    return response.startswith(b"HTTP/1.1 200 ") and time.monotonic() - started < SLACK_SECONDS


def test_more_idle_connections_than_files_keep_nobody_out(page: PageProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * IDLE)), hard))
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(page.connect())
        assert serves(page)
        for _ in range(IDLE):
            stack.enter_context(page.connect()).sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert serves(page)


@pytest.mark.parametrize("first", [b"", b"one request before"])
def test_a_head_that_arrives_byte_by_byte_is_given_up(page: PageProcess, first: bytes) -> None:
    with page.connect() as connection:
        if first:
            connection.sendall(page.head("GET", "/page.css"))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        started = time.monotonic()
        try:
            for byte in page.head("GET", "/" + "x" * 200):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() - started < REQUEST_SECONDS + SLACK_SECONDS
    assert serves(page)


@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_arrive_is_given_up(page: PageProcess, length: str) -> None:
    head = page.head("POST", "/sign-in", f"Origin: http://127.0.0.1:{page.port}", length)
    started = time.monotonic()
    response = page.ask(head)
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in response
    assert time.monotonic() - started < BODY_SECONDS + SLACK_SECONDS


def signed_in(page: PageProcess) -> str:
    """The header with the cookie of somebody who signed in with a name."""
    response = page.ask(
        page.head("POST", "/sign-in", f"Origin: http://127.0.0.1:{page.port}", "Content-Length: 8", "Connection: close")
        + b"name=Ada"
    )
    return "Cookie: " + response.partition(b"set-cookie: ")[2].partition(b";")[0].decode()


def test_a_response_that_nobody_reads_is_given_up(page: PageProcess) -> None:
    cookie = signed_in(page)
    with page.connect(receive_buffer=4096) as connection:
        connection.sendall(page.head("GET", "/api/pairs", cookie))
        time.sleep(2 * RESPONSE_SECONDS)
        assert len(read_to_end(connection)) < 10_000_000  # all pairs are 13.5 MB
    assert serves(page)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Origin: http://["], 403),
        (["Origin: null"], 403),
        (["Origin: http://"], 403),
        (["Origin: http://127.0.0.1:{port}@evil.example"], 403),
        (["Origin: http://evil.example/127.0.0.1:{port}"], 403),
        (["Origin: http://127.0.0.1:{port}", "Cookie: annotator=\xff\xfe; =; ;;annotator"], 401),
        (["Origin: http://127.0.0.1:{port}", "Cookie: annotator=.eJwr.x.y"], 401),
        (["Origin: http://127.0.0.1:{port}", "Content-Length: +5"], 400),
        (["Origin: http://127.0.0.1:{port}", "Content-Length: -1"], 400),
        (["Origin: http://127.0.0.1:{port}", "Content-Length: \xb2"], 400),
        (["Origin: http://127.0.0.1:{port}", "Content-Length: 1_0"], 400),
        (["Origin: http://127.0.0.1:{port}", "Content-Length: " + "9" * 5000], 400),
        (["Origin: http://127.0.0.1:{port}", "Content-Length: 5", "Content-Length: 6"], 400),
        (["Origin: http://127.0.0.1:{port}", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip"], 400),
        (["Origin: http://127.0.0.1:{port}", "Transfer-Encoding: chunked", "Content-Length: 100000"], 413),
        (["Host: evil.example"], 400),
        (["Upgrade: websocket", "Connection: Upgrade"], 403),
    ],
)
def test_malformed_headers_are_rejected(page: PageProcess, lines: list[str], status: int) -> None:
    headers = [line.replace("{port}", str(page.port)) for line in lines]
    response = page.ask(page.head("POST", "/api/answers", *headers, "Connection: close"))
    assert response.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 421),
        (b"GET /page.js/ HTTP/1.1\r\nHost: \x80\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 421),
        (b"\0" * 100 + b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
        (b"GET http://evil.example/ HTTP/9.9\r\nHost: x\r\n\r\n", 421),
    ],
)
def test_malformed_requests_are_rejected(page: PageProcess, request_: bytes, status: int) -> None:
    assert page.ask(request_).startswith(f"HTTP/1.1 {status} ".encode())


def test_ctrl_c_ends_the_page_despite_unfinished_requests(tmp_path: Path) -> None:
    long = [PromptResponses(pair.id, pair.prompt, "a" * 45_000, "b" * 45_000) for pair in plain_pairs(150)]
    with page_process(tmp_path, long) as page, ExitStack() as stack:
        cookie = signed_in(page)
        idle, posting, half_head, reading = (stack.enter_context(page.connect(4096)) for _ in range(4))
        posting.sendall(
            page.head("POST", "/sign-in", f"Origin: http://127.0.0.1:{page.port}", "Content-Length: 9") + b"name="
        )
        half_head.sendall(b"GET / HT")
        reading.sendall(page.head("GET", "/api/pairs", cookie))
        assert idle.fileno() > 0
        time.sleep(0.5)
        started = time.monotonic()
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(30) == 0
        assert time.monotonic() - started < 5
        assert page.log.read_bytes() == b""
