"""An OpenAI-compatible server on this machine.  Its language model is a rule that the test chooses."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Rule = Callable[[str, str], str | None]
"""The reply to a question about two responses, in the order in which they are shown."""
Fault = int | Literal["disconnect", "drip", "huge", "not JSON", "other JSON"]
"""A status instead of a reply, or a damaged reply."""
SHOWN = re.compile(r"\[(\w+) response ([AB]) begins\]\n(.*?)\n\[\1 response \2 ends\]", re.DOTALL)
DRIPS, DRIP_SECONDS = 50, 0.1


def prefers_more(word: str) -> Rule:
    """A rule that prefers the response in which `word` occurs more often."""

    def rule(a: str, b: str) -> str:
        return "A" if a.count(word) > b.count(word) else "B" if a.count(word) < b.count(word) else "C"

    return rule


@dataclass
class LlmServer:
    """What the server did, and what it is to do."""

    rule: Rule
    url: str = ""
    """Base address, without `/v1`."""
    faults: list[Fault] = field(default_factory=list)
    """Faults of the next requests, one each."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of all its responses."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of all requests."""
    authorizations: list[str | None] = field(default_factory=list)
    """Of all requests: the header with the API key."""
    at_once: int = 0
    """Requests that it is working on."""
    most_at_once: int = 0

    @property
    def questions(self) -> list[tuple[str, str]]:
        """The two responses of each request, in the order in which they are shown."""
        return [shown_responses(str(body["messages"][0]["content"])) for body in self.bodies]


def shown_responses(question: str) -> tuple[str, str]:
    """The texts in `question` that are shown as A and as B."""
    (_, first, a), (_, second, b) = SHOWN.findall(question)
    assert (first, second) == ("A", "B")
    return a, b


@contextmanager
def llm_server(rule: Rule) -> Iterator[LlmServer]:
    """Run a server that follows `rule`."""
    server, lock = LlmServer(rule), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                server.bodies.append(body)
                server.authorizations.append(self.headers["Authorization"])
                fault = server.faults.pop(0) if server.faults else None
            try:
                found = self.path == "/v1/chat/completions"
                with suppress(ConnectionError):  # the client hung up
                    self.reply(fault or (None if found else 404), body)
            finally:
                with lock:
                    server.at_once -= 1

        def reply(self, fault: Fault | None, body: dict[str, Any]) -> None:
            if fault == "disconnect":
                self.close_connection = True
                return
            self.send_response(fault if isinstance(fault, int) else 200)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if fault == "drip":
                self.drip()
            self.wfile.write(self.content(fault, body))

        def drip(self) -> None:
            """Send a blank now and then until the client hangs up, at most DRIPS times."""
            for _ in range(DRIPS):
                self.wfile.write(b" ")
                time.sleep(DRIP_SECONDS)

        def content(self, fault: Fault | None, body: dict[str, Any]) -> bytes:
            if isinstance(fault, int):  # a server may repeat what it received
                return json.dumps({"error": {"message": f"refused {self.headers['Authorization']}"}}).encode()
            if fault == "not JSON":
                return b"<html>"
            if fault == "other JSON":
                return b'{"choices": []}'
            responses = shown_responses(body["messages"][0]["content"])
            reply = "A" * 1_000_001 if fault == "huge" else server.rule(*responses)
            return json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Keep the tests' output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
