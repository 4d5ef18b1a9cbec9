"""Use the labeling page without a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from rlhf.labeling.manifest import KEY_FILE, PromptResponses, blind, write_labeling_task
from rlhf.labeling.middleware import AnnotatorTokens
from rlhf.labeling.server import create_app
from rlhf.labeling.session import LabelingSession

ADDRESS = "http://127.0.0.1:8765"
HOSTS = frozenset({"127.0.0.1:8765"})


def labeling_task(folder: Path, pairs: list[PromptResponses], seed: str = "coin") -> Path:
    """A folder with manifest and key of these pairs."""
    folder.mkdir(parents=True)
    write_labeling_task(folder, *blind(pairs, seed))
    return folder


def plain_pairs(count: int) -> list[PromptResponses]:
    """Pairs whose texts do not reveal which model wrote them."""
    return [
        PromptResponses(f"test-{n:03d}", f"\n\nHuman: Question {n}?\n\nAssistant:", f" One {n}.", f" Two {n}.")
        for n in range(count)
    ]


@dataclass
class Visitor:
    """An annotator's HTTP client."""

    http: TestClient
    session: LabelingSession
    name: str = "Ada"

    def pairs(self) -> dict[str, Any]:
        """The server's response for the page: all pairs and their state."""
        response = self.http.get("/api/pairs")
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        return content

    def answer(self, pair_id: str, side: str | None, *, revision: int = 1, **more: Any) -> Any:
        """Send an answer with the same side for every question; None undoes it."""
        headers = {
            "origin": ADDRESS,
            "content-type": "application/json",
            "x-request-token": AnnotatorTokens(self.session.secret).request_token(self.name),
        }
        choices = None if side is None else dict.fromkeys(("helpfulness", "harmlessness", "overall"), side)
        body = {"pair_id": pair_id, "revision": revision, "choices": choices, "comment": "", "seconds": 4.0, **more}
        return self.http.post("/api/answers", content=json.dumps(body), headers=headers)


@contextmanager
def visiting(
    pairs: Path, folder: Path, name: str | None = "Ada", *, annotators: frozenset[str] | None = None
) -> Iterator[Visitor]:
    """A visitor of the page for these pairs, signed in as `name`."""
    with closing(LabelingSession(pairs, folder)) as session:
        app = create_app(session, hosts=HOSTS, annotators=annotators)
        http = TestClient(app, base_url=ADDRESS, follow_redirects=False)
        if name is not None:
            http.cookies.set("annotator", AnnotatorTokens(session.secret).sign(name))
        yield Visitor(http, session, name or "")


def without_key(folder: Path) -> Path:
    """The same labeling task, with its key deleted."""
    (folder / KEY_FILE).unlink()
    return folder


AWKWARD = {
    "script": " <script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
    "liquid": " {{ task.input.answer_b }}{% include 'secrets' %}{{ 7 | times: 7 }}",
    "direction": " safe \u202egnp.exe\u2066 \u200f",
    "long": " " + "word " * 2000,
    "empty": "",
    "hidden": " pay\u00adpal\U000e0041\u115f\u2800 👩\u200d🔬",
    "broken": " half \ud83d a pair \x00 and \x1b[31m",
}
