"""Nothing that a browser or a worker can load says which model wrote which answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rlhf.labeling import manifest
from rlhf.labeling.blinding import Model, place_in_order, toss_coin, toss_side
from rlhf.labeling.ground_truth_job import write_package
from rlhf.labeling.manifest import MANIFEST_FILE, Pair
from rlhf.labeling.session import Labels
from tests.support.page_client import Visitor, comparison, plain_pairs, visiting, without_key

PAIRS = plain_pairs(40)
TELLING = ("sft", "rlhf", "ppo", "reward", "seed", "test-0", "fingerprint", "model", "answer_a", "answer_b")


def everything(visitor: Visitor) -> dict[str, bytes]:
    """Every response that a browser gets, headers and all, while somebody answers."""
    found = {path: visitor.http.get(path) for path in ("/", "/page.js", "/page.css", "/api/pairs", "/nothing")}
    for number, pair in enumerate(visitor.pairs()["pairs"]):
        found[f"answer {number}"] = visitor.answer(pair["item"], ("left", "tie", "right")[number % 3])
    found["after"] = visitor.http.get("/api/pairs")
    return {name: repr(sorted(got.headers.items())).encode() + got.content for name, got in found.items()}


def test_exchanging_the_models_changes_no_response(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the same texts as A and B every byte and their order are the same, whoever wrote them."""

    def flipped(secret: str, prompt_id: str) -> Model:
        return "rlhf" if toss_coin(secret, prompt_id) == "sft" else "sft"

    exchanged = [Pair(pair.id, pair.prompt, sft=pair.rlhf, rlhf=pair.sft) for pair in PAIRS]
    before = comparison(tmp_path / "before", PAIRS)
    monkeypatch.setattr(manifest, "toss_coin", flipped)
    after = comparison(tmp_path / "after", exchanged)
    (tmp_path / "labels").mkdir()
    (tmp_path / "others").mkdir()
    for folder in ("labels", "others"):
        (tmp_path / folder / "page.signing").write_bytes(b"s" * 32)
    with visiting(before, tmp_path / "labels") as visitor:
        first = everything(visitor)
    with visiting(after, tmp_path / "others") as visitor:
        assert everything(visitor) == first
    assert (before / "key.jsonl").read_bytes() != (after / "key.jsonl").read_bytes()


def test_the_page_works_where_there_is_no_key(tmp_path: Path) -> None:
    """So no response, and not the time that one takes, can depend on it."""
    pairs = without_key(comparison(tmp_path / "pairs", PAIRS))
    with visiting(pairs, tmp_path / "labels") as visitor:
        assert all(response for response in everything(visitor).values())
    (tmp_path / "package").mkdir()
    assert len(write_package(pairs, tmp_path / "package")) == 3


def test_the_page_opens_the_manifest_and_its_own_folder_alone(tmp_path: Path) -> None:
    pairs, labels = comparison(tmp_path / "pairs", PAIRS), tmp_path / "labels"
    opened: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(listen)  # it cannot be removed: `listening` makes it deaf
    with visiting(pairs, labels) as visitor:
        everything(visitor)
    listening = False
    ours = [path for path in opened if path.startswith(str(tmp_path))]
    assert str(pairs / MANIFEST_FILE) in ours
    assert {path for path in ours if not path.startswith(str(labels))} == {str(pairs / MANIFEST_FILE)}


def test_no_response_names_a_model_or_a_prompt(tmp_path: Path) -> None:
    with visiting(comparison(tmp_path / "pairs", PAIRS), tmp_path / "labels") as visitor:
        for name, response in everything(visitor).items():
            for word in TELLING:
                assert word not in response.decode().lower(), (name, word)


def test_nothing_for_workers_names_a_model_or_a_prompt(tmp_path: Path) -> None:
    pairs = comparison(tmp_path / "pairs", PAIRS)
    files = write_package(pairs, tmp_path / "package")
    assert sorted(path.name for path in files) == ["INSTRUCTIONS.md", "manifest.jsonl", "template.liquid.html"]
    for path in files:
        for word in TELLING[:7]:
            assert word not in path.read_text().lower(), (path.name, word)


def test_sides_and_order_are_fair_and_differ_between_annotators() -> None:
    """1,000 fair coins: 500 +- 4 standard deviations of 15.8."""
    secret, items = b"secret", [f"item-{n}" for n in range(1000)]
    ada, grace = ([toss_side(secret, name, item) for item in items] for name in ("Ada", "Grace"))
    assert 437 <= ada.count("a") <= 563
    assert 437 <= sum(one == other for one, other in zip(ada, grace, strict=True)) <= 563
    assert ada == [toss_side(secret, "Ada", item) for item in items]
    assert ada != [toss_side(b"other", "Ada", item) for item in items]
    places = [{item: place_in_order(secret, name, item) for item in items} for name in ("Ada", "Grace")]
    orders = [sorted(items, key=of.__getitem__) for of in places]
    assert orders[0] != orders[1]
    place = {item: rank for rank, item in enumerate(orders[0])}
    early = sum(toss_side(secret, "Ada", item) == "a" for item in items if place[item] < 500)
    assert 205 <= early <= 295  # the side does not follow from the place: 250 +- 4 * 11.2


def test_the_side_tells_nothing_of_the_model(tmp_path: Path) -> None:
    """Over 400 pairs and two annotators RLHF stands left about half of the time: 400 +- 4 * 14.1."""
    pairs = plain_pairs(400)
    labels = Labels(comparison(tmp_path / "pairs", pairs), tmp_path / "labels")
    key = {line["item"]: line for line in map(json.loads, (tmp_path / "pairs/key.jsonl").read_text().splitlines())}
    left = [key[item][labels.left(name, item)] for name in ("Ada", "Grace") for item in labels.items]
    labels.close()
    assert 343 <= left.count("rlhf") <= 457


def test_an_error_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with visiting(comparison(tmp_path / "pairs", PAIRS), tmp_path / "labels") as visitor:
        monkeypatch.setattr(visitor.labels, "answer", lambda *_, **__: 1 / 0)
        quiet = TestClient(visitor.http.app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
        quiet.cookies.update(visitor.http.cookies)
        visitor.http = quiet
        response = visitor.answer(next(iter(visitor.labels.items)), "left")
    assert response.status_code == 500
    assert response.text == "Internal Server Error"
