"""The labeling page in a process of its own, with limits that a test can wait for."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf.labeling import connections, middleware
from rlhf.labeling.manifest import PromptResponses
from rlhf.labeling.server import serve
from rlhf.labeling.session import LabelingSession
from tests.support.page_client import labeling_task
from tests.support.paths import ROOT

REQUEST_SECONDS, BODY_SECONDS, RESPONSE_SECONDS = 1.0, 1.0, 2.0
OPEN_FILES = 256
"""Limit of the process, which it cannot raise."""


@dataclass
class PageProcess:
    """A running page."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    """What it writes to standard error."""

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection that waits at most 10 seconds; with a small `receive_buffer`, the server notices early that
        nobody reads.
        """
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def ask(self, request: bytes) -> bytes:
        """All bytes that the server sends until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def head(self, method: str = "GET", path: str = "/", *headers: str) -> bytes:
        """The head of a request that the page itself would send, with more headers."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_to_end(connection: socket.socket) -> bytes:
    """What arrives until the other side closes the connection."""
    content = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            content += part
    return content


@contextmanager
def page_process(folder: Path, pairs: list[PromptResponses]) -> Iterator[PageProcess]:
    """Run the page for these pairs; files go to `folder`."""
    labeling_task(folder / "pairs", pairs)
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.page_process", str(folder / "pairs"), str(folder / "labels")],
            stdout=subprocess.PIPE,
            stderr=stream,
            cwd=ROOT,
        )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[2]
        yield PageProcess(process, int(address.rpartition(b":")[2]), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES // 2, OPEN_FILES))
    connections.REQUEST_SECONDS, connections.RESPONSE_SECONDS = REQUEST_SECONDS, RESPONSE_SECONDS
    middleware.BODY_SECONDS = BODY_SECONDS
    with closing(LabelingSession(Path(sys.argv[1]), Path(sys.argv[2]))) as session, suppress(KeyboardInterrupt):
        serve(session, "127.0.0.1", 0, ["Ada"])
