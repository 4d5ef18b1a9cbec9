"""Ask the labelling page without a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from rlhf.labeling.manifest import KEY_FILE, Pair, blind, write_comparison
from rlhf.labeling.middleware import Tokens
from rlhf.labeling.server import create_app
from rlhf.labeling.session import Labels

ADDRESS = "http://127.0.0.1:8765"
HOSTS = frozenset({"127.0.0.1:8765"})


def comparison(folder: Path, pairs: list[Pair], seed: str = "coin") -> Path:
    """A folder with manifest and key of these pairs."""
    folder.mkdir(parents=True)
    write_comparison(folder, *blind(pairs, seed))
    return folder


def plain_pairs(count: int) -> list[Pair]:
    """Pairs whose texts do not say who wrote them."""
    return [
        Pair(f"test-{n:03d}", f"\n\nHuman: Question {n}?\n\nAssistant:", f" One {n}.", f" Two {n}.")
        for n in range(count)
    ]


@dataclass
class Visitor:
    """Somebody with a browser."""

    http: TestClient
    labels: Labels
    name: str = "Ada"

    def pairs(self) -> dict[str, Any]:
        """What the page is told."""
        response = self.http.get("/api/pairs")
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        return content

    def answer(self, item: str, side: str | None, *, revision: int = 1, **more: Any) -> Any:
        """Send an answer with the same side for every question; None takes it back."""
        headers = {
            "origin": ADDRESS,
            "content-type": "application/json",
            "x-request-token": Tokens(self.labels.secret).request_token(self.name),
        }
        choices = None if side is None else dict.fromkeys(("helpfulness", "harmlessness", "overall"), side)
        body = {"item": item, "revision": revision, "choices": choices, "comment": "", "seconds": 4.0, **more}
        return self.http.post("/api/answers", content=json.dumps(body), headers=headers)


@contextmanager
def visiting(pairs: Path, folder: Path, name: str | None = "Ada", *, names_allowed: bool = True) -> Iterator[Visitor]:
    """A visitor of the page on these pairs, signed in under `name`."""
    with closing(Labels(pairs, folder)) as labels:
        app = create_app(labels, hosts=HOSTS, names_allowed=names_allowed)
        http = TestClient(app, base_url=ADDRESS, follow_redirects=False)
        if name is not None:
            http.cookies.set("annotator", Tokens(labels.secret).sign(name))
        yield Visitor(http, labels, name or "")


def without_key(folder: Path) -> Path:
    """The same comparison where nobody can read the key."""
    (folder / KEY_FILE).unlink()
    return folder
