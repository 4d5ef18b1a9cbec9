"""A disk fills up in the middle of an answer: what was confirmed stays, and people go on when there is room again."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from rlhf.evaluation.llm_judge import journal as llm_journal
from rlhf.evaluation.llm_judge.question import judge_pair
from rlhf.labeling.journal import Entry, Journal
from rlhf.labeling.judgements import Choices
from rlhf.labeling.session import LabelingSession
from rlhf.runs.label_import import import_labels
from tests.support.finished_run import finished_run

PAIRS = 30
COMMENT = "c" * 1900
"""Long enough for most answers to need a new page of the disk."""
SMALL_DISK = 'mount -t tmpfs -o size=1m labels "$0" && exec "$@"'
"""Script that runs a command with a small disk of its own at its first argument."""
TIES = Choices(helpfulness="tie", harmlessness="tie", overall="tie")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the kernel refuse every byte behind the first `size` of a file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def entry(pair_id: str) -> Entry:
    return Entry(pair_id=pair_id, revision=1, choices=TIES, left="a", seconds=1.0, submitted_at="2026-01-02T03:04:05Z")


def test_half_an_answer_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "abc.jsonl"
    journal = Journal(path, "abc", "Ada")
    journal.add(entry("x"))
    complete = path.read_bytes()
    with files_of_at_most(len(complete) + 40), pytest.raises(OSError, match="File too large"):
        journal.add(entry("y"))
    assert path.read_bytes() == complete
    journal.add(entry("y"))
    reopened = Journal(path, "abc")
    assert (set(reopened.latest()), reopened.problems) == ({"x", "y"}, [])


def test_half_a_name_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "abc.jsonl"
    with files_of_at_most(5), pytest.raises(OSError, match="File too large"):
        Journal(path, "abc", "Ada")
    Journal(path, "abc", "Ada").add(entry("x"))
    reopened = Journal(path, "abc")
    assert (reopened.name, set(reopened.latest()), reopened.problems) == ("Ada", {"x"}, [])


def test_half_a_judgement_leaves_nothing_behind(tmp_path: Path) -> None:
    rows = [judge_pair(f"p{number}", "A", "B") for number in range(3)]
    ids = [row.id for row in rows]
    journal = llm_journal.Journal(tmp_path, ids)
    journal.append(rows[:1])
    complete = journal.path.read_bytes()
    with files_of_at_most(len(complete) + 20), pytest.raises(OSError, match="File too large"):
        journal.append(rows[1:2])
    assert journal.path.read_bytes() == complete
    journal.append(rows[2:])
    assert list(llm_journal.Journal(tmp_path, ids).judgements) == ["p0", "p2"]


class Annotator:
    """Ada's browser, and what the page has confirmed to her."""

    def __init__(self, link: str) -> None:
        self.http = httpx.Client(base_url=re.sub("/open/.*", "", link), follow_redirects=True, timeout=30)
        assert self.http.get(link).status_code == 200
        self.pairs = self.http.get("/api/pairs").json()
        self.confirmed: set[str] = set()

    def answer(self, pair: dict[str, str], comment: str) -> httpx.Response:
        """Send an answer as the page does."""
        choices = dict.fromkeys(("helpfulness", "harmlessness", "overall"), "tie")
        response = self.http.post(
            "/api/answers",
            headers={"origin": str(self.http.base_url).rstrip("/"), "x-request-token": self.pairs["token"]},
            json={"pair_id": pair["id"], "revision": 1, "choices": choices, "comment": comment, "seconds": 1.0},
        )
        if response.status_code == 200:
            self.confirmed.add(pair["id"])
        return response


@pytest.mark.slow
def test_a_page_on_a_full_disk_goes_on_when_it_is_free(tmp_path: Path) -> None:
    run = finished_run(tmp_path, prompts=PAIRS)
    disk = run.labels.parent
    disk.mkdir()
    if subprocess.run(["unshare", "-Urm", "sh", "-c", SMALL_DISK, disk, "true"], check=False).returncode != 0:
        pytest.skip("this machine does not let its users mount a disk in memory")
    rlhf = Path(sys.executable).with_name("rlhf")
    command = [str(rlhf), "label", "serve", "--workspace", str(run.folder.parent), "--port", "0", "--annotator", "Ada"]
    page = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", SMALL_DISK, str(disk), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert page.stdout is not None
    try:
        assert f"{PAIRS} pairs" in page.stdout.readline()
        ada = Annotator(page.stdout.readline().split(": ")[1].strip())
        inside = Path(f"/proc/{page.pid}/root") / disk.relative_to("/")
        pairs = ada.pairs["pairs"]
        assert [ada.answer(pair, COMMENT).status_code for pair in pairs[:5]] == [200] * 5
        fill(inside / "filler")
        full = [ada.answer(pair, COMMENT) for pair in pairs[5:12]]
        assert {response.status_code for response in full} == {507}
        assert full[0].json()["detail"].startswith("the server cannot write to its disk")
        (inside / "filler").unlink()
        assert [ada.answer(pair, "").status_code for pair in pairs[8:]] == [200] * (PAIRS - 8)
        shutil.copytree(inside, tmp_path / "copy")
        page.send_signal(signal.SIGINT)
        _, log = page.communicate(timeout=30)
    finally:
        page.kill()
    assert "Traceback" not in log
    assert "error: cannot write" in log
    shutil.copytree(tmp_path / "copy", disk, dirs_exist_ok=True)
    with closing(LabelingSession(run.pairs, run.labels)) as session:
        assert session.problems == []
    [path] = (run.labels / "answers").iterdir()
    assert set(Journal(path, path.stem).latest()) >= ada.confirmed
    assert len(ada.confirmed) == PAIRS - 3
    imported = import_labels(run, None, partial=True)
    assert PAIRS - 3 <= imported.evaluation.labeled < PAIRS  # an answer was cut in the middle


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    room = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
    path.write_bytes(b"\0" * room)
    with pytest.raises(OSError, match="No space left"):
        path.with_name("more").write_bytes(b"\0")
    path.with_name("more").unlink()
