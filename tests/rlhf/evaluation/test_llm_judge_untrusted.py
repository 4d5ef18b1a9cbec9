"""Whatever a judge's server sends or a journal contains: a reply, a judgement or one error, and nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlhf.config import LlmJudgeConfig
from rlhf.errors import UserError
from rlhf.evaluation.llm_judge import server as server_module
from rlhf.evaluation.llm_judge.journal import Journal
from rlhf.evaluation.llm_judge.question import judge_pair, read_reply
from rlhf.evaluation.llm_judge.server import ServerJudge
from rlhf.storage.artifacts import CHECKPOINTS

bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters(codec=None), max_size=5) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
REPLY = json.dumps({"choices": [{"message": {"content": "A"}}]}).encode()
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 43",
            b"Content-Length: +5",
            b"Content-Length: " + b"9" * 400,
            b"Transfer-Encoding: chunked",
            b"Content-Encoding: gzip",
            b"Content-Type: text/html; charset=\xff",
            b"Retry-After: " + b"9" * 400,
            b"Retry-After: \xb2",
            b"Location: http://[",
            b"Set-Cookie: \xff=;",
            b"no colon",
        ]
    ),
    max_size=3,
)


class AnyServer:
    """Sends `response`, which need not be HTTP, to everybody who connects."""

    def __init__(self) -> None:
        self.response = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65_536)
                    connection.sendall(self.response)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65_536)

    def close(self) -> None:
        """Stop it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[AnyServer]:
    server = AnyServer()
    yield server
    server.close()


@bounded
@given(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 429 x", b"HTTP/1.1 307 x", b"HTTP/1.1 101 x", b"HTTP/1.1 999 x"])
    | st.binary(max_size=20),
    HEADERS,
    st.just(REPLY) | st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()),
)
@example(b"HTTP/1.1 200 OK", [], b"[" * 100_000)
@example(b"HTTP/1.1 200 OK", [], b'{"choices": [{"message": {"content": "A"}}], "n": ' + b"9" * 5000 + b"}")
def test_any_response_is_a_reply_or_one_error(
    server: AnyServer, monkeypatch: pytest.MonkeyPatch, status: bytes, headers: list[bytes], body: bytes
) -> None:
    monkeypatch.setattr(server_module, "ATTEMPTS", 1)
    server.response = b"\r\n".join([status, *headers, b"", b""]) + body
    config = LlmJudgeConfig(url=f"http://127.0.0.1:{server.port}/v1", model="judge", requests_at_once=1)
    with ServerJudge(config, seed=5) as judge:
        assert outcome(judge).isprintable()


def outcome(judge: ServerJudge) -> str:
    """What the reply says, or the error."""
    try:
        return str(read_reply(judge.ask("A or B?")))
    except UserError as error:
        return str(error)


IDS = [f"p{number}" for number in range(3)]
ROWS = [judge_pair(name, "A", "B") for name in IDS]
LINES = [row.model_dump_json().encode() + b"\n" for row in ROWS]


@bounded
@given(st.lists(st.sampled_from(LINES) | st.sampled_from([line[:30] for line in LINES]) | st.binary(max_size=9)))
def test_any_journal_is_read_and_goes_on(tmp_path: Path, parts: list[bytes]) -> None:
    path = tmp_path / CHECKPOINTS / "llm_judgements.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(parts))
    lines = b"".join(parts).splitlines(keepends=True)
    journal = Journal(tmp_path, [*IDS, "new"])
    assert set(journal.judgements) == {row.id for row, line in zip(ROWS, LINES, strict=True) if line in lines}
    journal.append([judge_pair("new", "A", "B")])
    assert Journal(tmp_path, [*IDS, "new"]).judgements == journal.judgements
