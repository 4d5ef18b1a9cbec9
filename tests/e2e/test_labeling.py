"""Two people label 100 pairs in Chromium by keyboard, despite failures; the import must count what they pressed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
import uvicorn

from rlhf.data.invisible import escape_invisible
from rlhf.data.text import valid_unicode
from rlhf.labeling.manifest import PromptResponses
from rlhf.labeling.middleware import AnnotatorTokens
from rlhf.labeling.server import create_app
from rlhf.labeling.session import LabelingSession
from rlhf.runs.published import FinishedRun
from tests.support.cli import CommandLine, free_port
from tests.support.finished_run import finished_run
from tests.support.page_client import AWKWARD, labeling_task

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

pytestmark = pytest.mark.slow
PAIRS = 100
MODELS = {"sft_responses": "sft", "rlhf_responses": "rlhf"}
"""Words in the fake answers that name their model, so that the expected counts need no key."""


@dataclass
class Server:
    """`rlhf label serve` as a user starts it, always on the same port."""

    run: FinishedRun
    port: int
    process: subprocess.Popen[str] | None = None
    links: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the server and read the links that it prints."""
        command = ["label", "serve", "--workspace", str(self.run.folder.parent), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("rlhf")), *command, "--annotator", "Ada", "--annotator", "Grace"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert "100 pairs" in self.process.stdout.readline()
        for _ in range(2):
            name, _, link = self.process.stdout.readline().strip().partition(": ")
            self.links[name] = link

    def kill(self) -> None:
        """Kill it without warning."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(20) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finished_run(tmp_path_factory.mktemp("labeling"), prompts=PAIRS)


@pytest.fixture(scope="module")
def server(run: FinishedRun) -> Iterator[Server]:
    server = Server(run, free_port())
    server.start()
    yield server
    server.stop()


@dataclass
class Person:
    """An annotator at a keyboard, and the answers that they intend to give."""

    name: str
    context: BrowserContext
    page: Page
    link: str
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    intended: dict[str, str] = field(default_factory=dict)
    """Model preferred overall, or tie, by the title of the pair."""
    page_errors: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Open the link in a new tab and start or continue."""
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.page_errors.append(str(error)))
        self.page.goto(self.link)
        self.page.locator("#count:not(:empty)").wait_for()
        if self.page.locator("#start").is_visible():
            self.page.keyboard.press("Enter") if self.page.locator("#start:focus").count() else self.page.click(
                "#start"
            )

    @property
    def title(self) -> str:
        """Heading of the current pair, or of the final view."""
        return str(self.page.locator("main:not([hidden]) h1").text_content())

    def press(self) -> None:
        """Answer the three questions of the current pair: two at random, the last as intended."""
        title = self.title
        sides = [str(self.page.locator(f"#{side}-answer .text").text_content()) for side in ("left", "right")]
        authors = [next((model for word, model in MODELS.items() if word in text), None) for text in sides]
        key = self.draw.choice("123") if None not in authors else "2"
        self.intended[title] = {"1": authors[0], "2": "tie", "3": authors[1]}[key] or ""
        for digit in (self.draw.choice("123"), self.draw.choice("123"), key):
            self.page.keyboard.press(digit)

    def answer(self) -> None:
        """Answer the current pair and wait for the next view."""
        before = self.title
        self.press()
        self.page.wait_for_function(
            "title => document.querySelector('main:not([hidden]) h1').textContent !== title", arg=before
        )

    def answer_until(self, done: int) -> None:
        """Answer until `done` pairs are answered."""
        while len(self.intended) < done:
            self.answer()
        assert self.page.locator("#count").text_content() == f"{done} of {PAIRS}"


def person(browser: Browser, server: Server, name: str, seed: int) -> Person:
    context = browser.new_context()
    context.set_default_timeout(15_000)
    person = Person(name, context, context.new_page(), server.links[name], random.Random(seed))
    person.open()
    return person


def test_no_answer_is_lost_or_doubled(run: FinishedRun, server: Server, browser: Browser) -> None:
    ada, grace = person(browser, server, "Ada", 1), person(browser, server, "Grace", 2)

    ada.answer_until(15)
    ada.page.reload()
    ada.page.locator("#count:not(:empty)").wait_for()
    assert ada.title == "Pair 16 of 100"
    ada.answer_until(30)
    ada.page.close()
    ada.open()
    assert ada.title == "Pair 31 of 100"
    ada.answer_until(40)

    server.kill()
    ada.press()
    ada.page.locator("#status.problem", has_text="Not saved").wait_for()
    assert ada.title == "Pair 41 of 100"
    server.start()
    ada.page.keyboard.press("Enter")
    ada.page.locator("#pair h1", has_text="Pair 42 of 100").wait_for()

    grace.answer_until(10)

    def lose_response(route: Route) -> None:
        route.fetch()
        route.abort()

    grace.page.route("**/api/answers", lose_response)
    grace.press()
    grace.page.locator("#status.problem", has_text="Not saved").wait_for()
    grace.page.unroute("**/api/answers")
    grace.page.keyboard.press("Enter")
    grace.page.locator("#pair h1", has_text="Pair 12 of 100").wait_for()
    for _ in range(2):  # two answers are undone and answered again
        grace.page.keyboard.press("u")
        grace.page.locator("#status", has_text="undone").wait_for()
    assert grace.title == "Pair 10 of 100"
    grace.answer()
    grace.answer()
    grace.page.keyboard.press("1")
    grace.page.keyboard.press("u")
    grace.page.keyboard.press("c")
    grace.page.keyboard.type("Keys 1, 2, 3 and u are words here")
    grace.page.keyboard.press("Escape")

    for someone in (ada, grace):
        someone.answer_until(PAIRS)
        assert someone.title == "All pairs are compared"
        assert someone.page_errors == []
        assert someone.page.title() == "Compare answers"  # a script in an answer would have changed it
        someone.context.close()

    rlhf = CommandLine(run.folder.parent, run.folder)
    outcome = rlhf("label", "import", "--workspace", str(rlhf.workspace))
    assert outcome.code == 0, outcome.error
    people = rlhf.results("fake")["human_evaluation"]
    assert (people["status"], people["labeled"]) == ("complete", PAIRS)
    expected = Counter(
        (counts["rlhf"], counts["tie"], counts["sft"])
        for counts in (Counter(someone.intended.values()) for someone in (ada, grace))
    )
    counted = [person["answers"]["overall"] for person in people["annotators"]]
    assert Counter((row["wins"], row["ties"], row["losses"]) for row in counted) == expected
    answers = people["questions"][2]["answers"]
    assert sum(answers.values()) == 2 * PAIRS
    imported = json.loads((run.folder / "human_evaluation.json").read_text())["judgements"]
    assert sum(row["comment"] == "Keys 1, 2, 3 and u are words here" for row in imported) == 1
    assert all(row["seconds"] < 60 for row in imported)
    assert max(row["seconds"] for row in imported) > 0
    assert not re.search(r"\b(Ada|Grace)\b", (run.folder / "human_evaluation.json").read_text())


def test_mouse_phone_and_screen_reader(server: Server, browser: Browser) -> None:
    """Sign-in by name and buttons only, on a phone: everything has a label, and nothing is wider than the screen."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}")
    page.get_by_label("Your name").fill("Zoë")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("heading", name="How to compare").wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_role("heading", name="Pair 1 of 100").wait_for()
    assert page.evaluate("document.activeElement.id") == "title"
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    save = page.get_by_role("button", name="Save and next")
    assert save.is_disabled()
    for question in ("Which is more helpful?", "Which is less harmful?", "Which is better overall?"):
        page.get_by_role("group", name=question).get_by_role("radio", name="Tie").check()
    save.click()
    page.get_by_role("heading", name="Pair 2 of 100").wait_for()
    assert page.get_by_role("status").text_content() == "Saved."
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("heading", name="Pair 1 of 100").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Your name").wait_for()
    context.close()


def test_awkward_text_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    """Scripts, Liquid, direction marks, 10,000 characters, an empty answer, broken Unicode: shown, never run."""
    pairs = [PromptResponses(name, f"\n\nHuman: {text}\n\nAssistant:", text, " fine") for name, text in AWKWARD.items()]
    session = LabelingSession(labeling_task(tmp_path / "pairs", pairs), tmp_path / "labels")
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(session):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(session, hosts=frozenset({address}))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        context = browser.new_context(viewport={"width": 390, "height": 844})
        ada = Person(
            "Ada", context, context.new_page(), f"http://{address}/open/{AnnotatorTokens(session.secret).sign('Ada')}"
        )
        requested: list[str] = []
        context.on("request", lambda request: requested.append(request.url))
        ada.open()
        shown = set()
        for _ in pairs:
            shown |= {text for text in ada.page.locator(".answers .text").all_text_contents() if text != "fine"}
            assert ada.page.evaluate("document.documentElement.scrollWidth") == 390
            assert ada.page.locator("main script, main img").count() == 0
            ada.answer()
        assert shown == {escape_invisible(valid_unicode(text.strip())) or "empty answer" for text in AWKWARD.values()}
        assert ada.page.title() == "Compare answers"
        assert ada.page_errors == []
        assert all(url.startswith((f"http://{address}/", "data:")) for url in requested)
        context.close()
        server.should_exit = True
        thread.join(10)
