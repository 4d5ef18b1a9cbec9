"""S3 on this machine: moto's server, and a proxy in front of it that injects faults."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from unittest import mock
from uuid import uuid4

import boto3
from moto.server import ThreadedMotoServer

from rlhf.storage.s3_store import open_s3_store

Fault = Literal["reset", "403", "500", "503", "truncated", "wrong byte", "hang"]
CODES = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}
HOP_BY_HOP = ("transfer-encoding", "connection", "server", "date")


@contextmanager
def s3_server(*buckets: str) -> Iterator[str]:
    """Run a server with these buckets for all clients of this process and its children; yields its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with clients_of(address):
        for bucket in buckets:
            boto3.client("s3").create_bucket(Bucket=bucket)
        try:
            yield address
        finally:
            server.stop()


@contextmanager
def shared_workspace() -> Iterator[str]:
    """Run a server of its own; yields the URI of an empty prefix, whose store is forgotten after the `with` block."""
    bucket = f"bucket-{uuid4().hex}"
    with s3_server(bucket):
        yield f"s3://{bucket}/team/rlhf"
    open_s3_store.cache_clear()


@contextmanager
def clients_of(address: str) -> Iterator[None]:
    """Direct clients of this process and its children to this address, with dummy credentials and no user settings."""
    settings = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with mock.patch.dict(os.environ, settings):
        yield


@dataclass
class Faults:
    """Faults to inject; `plan` returns the fault of a request, given its method and its path with query."""

    plan: Callable[[str, str], Fault | None] = lambda _method, _path: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request so far."""
    injected: int = 0
    """Number of faults so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def times(self, fault: Fault, count: int, matches: Callable[[str, str], bool]) -> None:
        """Inject this fault into the first `count` requests that match."""
        remaining = [count]

        def plan(method: str, path: str) -> Fault | None:
            if remaining[0] and matches(method, path):
                remaining[0] -= 1
                return fault
            return None

        self.plan = plan

    def inject(self, method: str, path: str) -> Fault | None:
        """Record a request; returns its fault."""
        with self.lock:
            self.requests.append((method, path))
            fault = self.plan(method, path)
            self.injected += fault is not None
            return fault


@contextmanager
def faulty(address: str) -> Iterator[Faults]:
    """Run a proxy in front of the server at `address`, and direct clients to it; yields its faults."""
    faults = Faults()
    host, _, port = address.removeprefix("http://").partition(":")

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = faults.inject(self.command, self.path)
            if fault == "hang":
                threading.Event().wait(30)
            if fault == "reset":
                self.reset()
                return
            if fault in CODES:
                self.reply(int(fault), {}, f"<Error><Code>{CODES[fault]}</Code></Error>".encode())
                return
            upstream = http.client.HTTPConnection(host, int(port), timeout=60)
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            response = upstream.getresponse()
            content = response.read()
            upstream.close()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP}
            if fault == "wrong byte" and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            self.reply(response.status, headers, content, truncated=fault == "truncated")

        def reply(self, status: int, headers: dict[str, str], content: bytes, *, truncated: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if truncated else content)
            if truncated:
                self.close_connection = True

        def reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Proxy, f"do_{method}", Proxy.handle_any)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with clients_of(f"http://127.0.0.1:{server.server_address[1]}"):
            yield faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
