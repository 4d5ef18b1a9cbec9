"""Nothing that a browser or a worker can load reveals which model wrote which answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rlhf.labeling import manifest
from rlhf.labeling.blinding import Model, answer_shown_left, model_shown_as_a, order_key
from rlhf.labeling.ground_truth_job import write_package
from rlhf.labeling.manifest import MANIFEST_FILE, PromptResponses
from rlhf.labeling.session import LabelingSession
from tests.support.page_client import Visitor, labeling_task, plain_pairs, visiting, without_key

PAIRS = plain_pairs(40)
REVEALING = ("sft", "rlhf", "ppo", "reward", "seed", "test-0", "fingerprint", "model", "answer_a", "answer_b")


def all_responses(visitor: Visitor) -> dict[str, bytes]:
    """Every response that a browser gets while somebody answers, with its headers."""
    responses = {path: visitor.http.get(path) for path in ("/", "/page.js", "/page.css", "/api/pairs", "/nothing")}
    for number, pair in enumerate(visitor.pairs()["pairs"]):
        responses[f"answer {number}"] = visitor.answer(pair["id"], ("left", "tie", "right")[number % 3])
    responses["after"] = visitor.http.get("/api/pairs")
    return {
        name: repr(sorted(response.headers.items())).encode() + response.content for name, response in responses.items()
    }


def test_exchanging_the_models_changes_no_response(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the texts of A and B are the same, so is every byte, no matter which model wrote which."""

    def flipped(secret: str, prompt_id: str) -> Model:
        return "rlhf" if model_shown_as_a(secret, prompt_id) == "sft" else "sft"

    exchanged = [PromptResponses(pair.id, pair.prompt, sft=pair.rlhf, rlhf=pair.sft) for pair in PAIRS]
    before = labeling_task(tmp_path / "before", PAIRS)
    monkeypatch.setattr(manifest, "model_shown_as_a", flipped)
    after = labeling_task(tmp_path / "after", exchanged)
    (tmp_path / "labels").mkdir()
    (tmp_path / "others").mkdir()
    for folder in ("labels", "others"):
        (tmp_path / folder / "page.signing").write_bytes(b"s" * 32)
    with visiting(before, tmp_path / "labels") as visitor:
        first = all_responses(visitor)
    with visiting(after, tmp_path / "others") as visitor:
        assert all_responses(visitor) == first
    assert (before / "key.jsonl").read_bytes() != (after / "key.jsonl").read_bytes()


def test_the_page_works_without_the_key(tmp_path: Path) -> None:
    """Therefore no response, nor the time it takes, can depend on the key."""
    pairs = without_key(labeling_task(tmp_path / "pairs", PAIRS))
    with visiting(pairs, tmp_path / "labels") as visitor:
        assert all(response for response in all_responses(visitor).values())
    (tmp_path / "package").mkdir()
    assert len(write_package(pairs, tmp_path / "package")) == 3


def test_the_page_opens_only_the_manifest_and_its_own_folder(tmp_path: Path) -> None:
    pairs, labels = labeling_task(tmp_path / "pairs", PAIRS), tmp_path / "labels"
    opened: list[str] = []
    recording = True

    def record(event: str, arguments: tuple[object, ...]) -> None:
        if recording and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(record)  # it cannot be removed, only disabled
    with visiting(pairs, labels) as visitor:
        all_responses(visitor)
    recording = False
    opened_here = [path for path in opened if path.startswith(str(tmp_path))]
    assert str(pairs / MANIFEST_FILE) in opened_here
    assert {path for path in opened_here if not path.startswith(str(labels))} == {str(pairs / MANIFEST_FILE)}


def test_no_response_names_a_model_or_a_prompt(tmp_path: Path) -> None:
    with visiting(labeling_task(tmp_path / "pairs", PAIRS), tmp_path / "labels") as visitor:
        for name, response in all_responses(visitor).items():
            for word in REVEALING:
                assert word not in response.decode().lower(), (name, word)


def test_no_file_for_workers_names_a_model_or_a_prompt(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", PAIRS)
    files = write_package(pairs, tmp_path / "package")
    assert sorted(path.name for path in files) == ["INSTRUCTIONS.md", "manifest.jsonl", "template.liquid.html"]
    for path in files:
        for word in REVEALING[:7]:
            assert word not in path.read_text().lower(), (path.name, word)


def test_sides_and_order_are_fair_and_differ_between_annotators() -> None:
    """1,000 fair coins: 500 +- 4 standard deviations of 15.8."""
    secret, pair_ids = b"secret", [f"item-{n}" for n in range(1000)]
    ada, grace = ([answer_shown_left(secret, name, pair_id) for pair_id in pair_ids] for name in ("Ada", "Grace"))
    assert 437 <= ada.count("a") <= 563
    assert 437 <= sum(first == second for first, second in zip(ada, grace, strict=True)) <= 563
    assert ada == [answer_shown_left(secret, "Ada", pair_id) for pair_id in pair_ids]
    assert ada != [answer_shown_left(b"other", "Ada", pair_id) for pair_id in pair_ids]
    keys = [{pair_id: order_key(secret, name, pair_id) for pair_id in pair_ids} for name in ("Ada", "Grace")]
    orders = [sorted(pair_ids, key=annotator_keys.__getitem__) for annotator_keys in keys]
    assert orders[0] != orders[1]
    position = {pair_id: index for index, pair_id in enumerate(orders[0])}
    early = sum(answer_shown_left(secret, "Ada", pair_id) == "a" for pair_id in pair_ids if position[pair_id] < 500)
    assert 205 <= early <= 295  # the side does not depend on the position: 250 +- 4 * 11.2


def test_the_side_reveals_nothing_about_the_model(tmp_path: Path) -> None:
    """Over 400 pairs and two annotators RLHF is left about half of the time: 400 +- 4 * 14.1."""
    pairs = plain_pairs(400)
    session = LabelingSession(labeling_task(tmp_path / "pairs", pairs), tmp_path / "labels")
    key = {entry["id"]: entry for entry in map(json.loads, (tmp_path / "pairs/key.jsonl").read_text().splitlines())}
    left = [key[pair_id][session.left(name, pair_id)] for name in ("Ada", "Grace") for pair_id in session.pairs]
    session.close()
    assert 343 <= left.count("rlhf") <= 457


def test_an_internal_error_reveals_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with visiting(labeling_task(tmp_path / "pairs", PAIRS), tmp_path / "labels") as visitor:
        monkeypatch.setattr(visitor.session, "answer", lambda *_, **__: 1 / 0)
        quiet = TestClient(visitor.http.app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
        quiet.cookies.update(visitor.http.cookies)
        visitor.http = quiet
        response = visitor.answer(next(iter(visitor.session.pairs)), "left")
    assert response.status_code == 500
    assert response.text == "Internal Server Error"
