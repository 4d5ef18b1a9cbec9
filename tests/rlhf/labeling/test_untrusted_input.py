"""Whatever a file or a browser contains: the documented error and nothing else, in bounded time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from rlhf.errors import UserError
from rlhf.labeling.ground_truth_output import OUTPUT_MANIFEST, OutputWriter
from rlhf.labeling.ground_truth_reader import read_label_output
from rlhf.labeling.journal import Entry, Journal
from rlhf.labeling.judgements import Choices
from rlhf.labeling.manifest import BlindedPair, read_blinded_pairs
from rlhf.labeling.middleware import AnnotatorTokens, SecurityMiddleware
from rlhf.labeling.server import create_app
from rlhf.labeling.session import LabelingSession
from tests.support.finished_run import judgement
from tests.support.page_client import HOSTS, labeling_task, plain_pairs

bounded = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.text(st.characters(codec=None), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CHOICE = st.sampled_from(["a", "b", "tie", {"a": True}, {"label": "b"}]) | JSON


def damaged(lines: list[bytes]) -> st.SearchStrategy[bytes]:
    """The lines in any number and order, cut anywhere, with any bytes between them."""
    parts = st.sampled_from(lines).flatmap(
        lambda line: st.tuples(st.integers(0, len(line)), st.booleans()).map(
            lambda cut: line if cut[1] else line[: cut[0]]
        )
    )
    return st.lists(parts | st.binary(max_size=20) | st.just(b"\n"), max_size=8).map(b"".join)


ENTRIES = [
    Entry(
        pair_id=pair_id,
        revision=1,
        choices=Choices(helpfulness="a", harmlessness="b", overall="tie"),
        left="a",
        seconds=1.0,
        comment='{"pair_id":',
        submitted_at="2026-01-02T03:04:05Z",
    )
    for pair_id in "xyz"
]
LINES = [entry.model_dump_json(ensure_ascii=True).encode() + b"\n" for entry in ENTRIES]


@bounded
@given(damaged([b'{"annotator": "Ada"}\n', *LINES]))
def test_every_intact_line_of_a_journal_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "abc.jsonl"
    path.write_bytes(content)
    intact = {entry.pair_id for entry, line in zip(ENTRIES, LINES, strict=True) if line in content}
    journal = Journal(path, "abc", "Ada")
    assert set(journal.latest()) == intact
    journal.add(ENTRIES[0].model_copy(update={"pair_id": "new"}))
    assert set(Journal(path, "abc").latest()) == intact | {"new"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labeling_task(tmp_path_factory.mktemp("task") / "pairs", plain_pairs(2))


@pytest.fixture(scope="module")
def pairs(task: Path) -> list[BlindedPair]:
    return read_blinded_pairs(task)


def imported_or_refused(output: Path, pairs: list[BlindedPair]) -> None:
    """Read the output; whatever is wrong in it is one printable line or a UserError."""
    try:
        answers = read_label_output(str(output), pairs, "task")
    except UserError:
        return
    assert all(problem.isprintable() for problem in answers.problems)
    assert len(answers.missing) == len(pairs) - len({answer.pair_id for answer in answers.judgements})


@bounded
@given(st.data())
def test_an_output_manifest_of_any_content_is_read_or_refused(
    tmp_path: Path, pairs: list[BlindedPair], data: st.DataObject
) -> None:
    OutputWriter(tmp_path, pairs).write([judgement(pairs[0].id)])
    manifest = tmp_path / OUTPUT_MANIFEST
    lines = manifest.read_bytes().splitlines(keepends=True)
    first = json.loads(lines[0])
    references = st.sampled_from(["../x", "/etc/passwd", "s3://b/annotations/x", "a" * 300, "."]) | JSON
    manifest.write_bytes(data.draw(damaged(lines)))
    imported_or_refused(manifest, pairs)
    reference = data.draw(references)
    manifest.write_text(json.dumps({**first, "preference-metadata": {"worker-response-ref": reference}}))
    imported_or_refused(manifest, pairs)
    manifest.write_text(json.dumps(data.draw(JSON)))
    imported_or_refused(manifest, pairs)


@bounded
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "answerContent": st.dictionaries(
                st.sampled_from(["helpfulness", "harmlessness", "overall", "left", "comment"]), CHOICE, max_size=5
            )
            | JSON,
            "workerId": TEXTS | JSON,
            "timeSpentInSeconds": JSON,
            "submissionTime": JSON,
        },
    )
    | JSON,
    st.binary(max_size=20),
)
def test_a_worker_response_of_any_content_is_read_or_refused(
    tmp_path: Path, pairs: list[BlindedPair], answer: Any, tail: bytes
) -> None:
    OutputWriter(tmp_path, pairs).write([judgement(pairs[0].id)])
    [response] = tmp_path.rglob("response.json")
    for answers in ([answer], answer):
        response.write_text(json.dumps({"answers": answers}))
        imported_or_refused(tmp_path, pairs)
    response.write_bytes(response.read_bytes()[: len(tail)] + tail)
    imported_or_refused(tmp_path, pairs)


@pytest.fixture(scope="module")
def session(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelingSession]:
    with closing(LabelingSession(task, tmp_path_factory.mktemp("labels"))) as session:
        yield session


async def status_of(app: SecurityMiddleware, scope: dict[str, Any], body: bytes) -> int:
    """The status with which the application responds to a request."""
    sent: list[Message] = []
    parts: list[Message] = [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:]},
    ]

    async def receive() -> Message:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status


NAMES = st.sampled_from(
    [b"host", b"origin", b"cookie", b"content-length", b"content-type", b"x-request-token", b"expect", b"range"]
)
VALUES = st.binary(max_size=30) | st.sampled_from(
    [b"http://[", b"[", b"\xb2", b"+5", b"9" * 5000, b"annotator=.x.y", b"annotator=\xff", b"text/json;charset=\xff"]
)
PATHS = (
    "/",
    "/page.js",
    "/page.js/",
    "/open/",
    "/open/a.b",
    "/sign-in",
    "/sign-out",
    "/api/pairs",
    "/api/answers",
    "//",
)


def request(path: str, name: bytes, value: bytes) -> dict[str, Any]:
    """A request with one header more than the page sends."""
    headers = [(name, value)]
    return {"method": "POST", "path": path, "headers": headers, "body": b"", "is_own": True, "is_public": True}


@bounded
@example(**request("/api/answers", b"origin", b"http://["))
@example(**request("/api/answers", b"content-length", b"\xb2"))
@example(**request("/api/answers", b"content-length", b"9" * 5000))
@example(**(request("/page.js/", b"host", b"[") | {"method": "GET"}))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "TRACE", "x"]),
    path=st.sampled_from(PATHS) | st.text(max_size=10).map(lambda text: f"/{text}"),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    body=st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 2_000),
    is_own=st.booleans(),
    is_public=st.booleans(),
)
def test_no_request_is_an_error_of_the_server(
    session: LabelingSession,
    *,
    method: str,
    path: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    is_own: bool,
    is_public: bool,
) -> None:
    app = create_app(session, hosts=frozenset() if is_public else HOSTS, annotators=frozenset({"Ada"}))
    tokens = AnnotatorTokens(session.secret)
    [host] = HOSTS
    own = [
        (b"host", host.encode()),
        (b"origin", f"http://{host}".encode()),
        (b"cookie", f"annotator={tokens.sign('Ada')}".encode()),
        (b"x-request-token", tokens.request_token("Ada").encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": body[:10],
        "headers": (own if is_own else []) + headers,
        "server": ("127.0.0.1", 8765),
        "client": ("127.0.0.1", 1),
    }
    assert asyncio.run(status_of(app, scope, body)) < 500
