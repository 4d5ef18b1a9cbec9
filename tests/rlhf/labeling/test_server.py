"""The labelling page asked by HTTP: who gets in, what is refused, what is on disk when it says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.labeling.manifest import Pair
from rlhf.labeling.middleware import MAX_BODY, Tokens
from rlhf.labeling.server import annotator_name, serve
from rlhf.labeling.session import Labels, LabelsInUseError
from tests.support.page_client import ADDRESS, Visitor, comparison, plain_pairs, visiting

AWKWARD = {
    "script": " <script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
    "liquid": " {{ task.input.answer_b }}{% include 'secrets' %}{{ 7 | times: 7 }}",
    "direction": " safe \u202egnp.exe\u2066 \u200f",
    "long": " " + "word " * 2000,
    "empty": "",
    "broken": " half \ud83d a pair \x00 and \x1b[31m",
}


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(comparison(tmp_path / "pairs", plain_pairs(6)), tmp_path / "labels") as found:
        yield found


def saved(visitor: Visitor) -> list[dict[str, object]]:
    """Every line of every journal."""
    lines = [
        json.loads(line)
        for path in sorted((visitor.labels.output.parent / "answers").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if "item" in line]


def test_left_and_right_become_a_and_b(visitor: Visitor) -> None:
    for pair in visitor.pairs()["pairs"]:
        item = visitor.labels.items[pair["item"]]
        texts = {"a": item.answer_a.strip(), "b": item.answer_b.strip()}
        assert {pair["left"], pair["right"]} == set(texts.values())
        assert visitor.answer(item.item, "left").json() == {
            "revision": 1,
            "done": True,
            "comment": "",
            "seconds": 4.0,
        }
        choices = saved(visitor)[-1]["choices"]
        assert isinstance(choices, dict)
        assert {texts[choice] for choice in choices.values()} == {pair["left"]}


def test_reopening_goes_on_where_one_stopped(tmp_path: Path) -> None:
    pairs = comparison(tmp_path / "pairs", plain_pairs(6))
    with visiting(pairs, tmp_path / "labels") as visitor:
        first, second = (pair["item"] for pair in visitor.pairs()["pairs"][:2])
        visitor.answer(first, "tie", comment="so-so \ud83d")
        visitor.answer(second, "left")
        visitor.answer(second, None, revision=2)
    with visiting(pairs, tmp_path / "labels") as visitor:
        again = visitor.pairs()["pairs"]
        assert [pair["item"] for pair in again[:2]] == [first, second]
        assert [pair["done"] for pair in again] == [True] + [False] * 5
        assert (again[0]["comment"], again[1]["revision"]) == ("so-so \ufffd", 2)
        assert visitor.answer(second, "right", revision=3).status_code == 200
    with visiting(pairs, tmp_path / "labels", "Grace") as other:
        assert not any(pair["done"] for pair in other.pairs()["pairs"])


def test_the_same_answer_twice_is_one_and_another_one_is_refused(visitor: Visitor) -> None:
    item = visitor.pairs()["pairs"][0]["item"]
    assert visitor.answer(item, "left").json() == visitor.answer(item, "left").json()
    assert visitor.answer(item, "right").status_code == 409
    assert visitor.answer(item, "right", revision=7).status_code == 409
    assert len(saved(visitor)) == 1


def test_the_output_follows_every_answer(visitor: Visitor) -> None:
    item = visitor.pairs()["pairs"][0]["item"]
    manifest = visitor.labels.output / "manifests/output/output.manifest"

    def references() -> list[str]:
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        return [line["preference-metadata"]["worker-response-ref"] for line in lines if "preference-metadata" in line]

    assert references() == []
    visitor.answer(item, "tie")
    [reference] = references()
    [answer] = json.loads((visitor.labels.output / reference).read_text())["answers"]
    assert answer["answerContent"]["overall"] == "tie"
    assert answer["timeSpentInSeconds"] == 4.0
    assert answer["acceptanceTime"] < answer["submissionTime"]
    assert "Ada" not in json.dumps(answer)
    visitor.answer(item, None, revision=2)
    assert references() == []
    assert not (visitor.labels.output / reference).exists()


def test_awkward_text_is_sent_as_text(tmp_path: Path) -> None:
    pairs = [Pair(name, f"\n\nHuman: {text}\n\nAssistant:", text, " fine") for name, text in AWKWARD.items()]
    with visiting(comparison(tmp_path / "pairs", pairs), tmp_path / "labels") as visitor:
        response = visitor.http.get("/api/pairs")
        assert response.headers["content-type"] == "application/json"
        told = [text for pair in response.json()["pairs"] for text in (pair["left"], pair["right"])]
        assert AWKWARD["script"].strip() in told
        assert AWKWARD["liquid"].strip() in told
        assert "safe ⟨U+202E⟩gnp.exe⟨U+2066⟩ ⟨U+200F⟩" in told
        assert AWKWARD["long"].strip() in told
        assert "" in told
        assert "half \ufffd a pair ⟨U+0000⟩ and ⟨U+001B⟩[31m" in told
        for pair in response.json()["pairs"]:
            assert visitor.answer(pair["item"], "right").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/page.js/../../labels.py",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.signing",
        "/key.jsonl",
        "/manifest.jsonl",
        "/static/../key.jsonl",
        "/docs",
        "/openapi.json",
    ],
)
def test_there_are_no_other_files(visitor: Visitor, path: str) -> None:
    assert visitor.http.get(path).status_code == 404


def test_a_wrong_token_lets_nobody_in(visitor: Visitor) -> None:
    visitor.http.cookies.clear()
    forged = Tokens(b"another secret").sign("Ada")
    for token in (forged, forged[:-1], "Ada", ""):
        assert visitor.http.get(f"/open/{token}").status_code in (403, 404)
        visitor.http.cookies.set("annotator", token)
        assert visitor.http.get("/api/pairs").status_code == 401
        visitor.http.cookies.clear()
    response = visitor.http.get(f"/open/{Tokens(visitor.labels.secret).sign('Grace')}")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "SameSite=strict" in response.headers["set-cookie"]
    assert visitor.http.get("/api/pairs").json()["annotator"] == "Grace"


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1:9999", "http://localhost:8765"]
)
def test_another_site_s_form_is_refused(visitor: Visitor, origin: str | None) -> None:
    item = visitor.pairs()["pairs"][0]["item"]
    body = {"item": item, "revision": 1, "choices": None, "comment": "", "seconds": 1.0}
    headers = {"x-request-token": Tokens(visitor.labels.secret).request_token("Ada")}
    if origin is not None:
        headers["origin"] = origin
    for path in ("/api/answers", "/sign-in", "/sign-out"):
        assert visitor.http.post(path, json=body, headers=headers).status_code == 403
    assert saved(visitor) == []


def test_an_answer_needs_its_annotator_s_request_token(visitor: Visitor) -> None:
    item = visitor.pairs()["pairs"][0]["item"]
    body = {"item": item, "revision": 1, "choices": None, "comment": "", "seconds": 1.0}
    for token in ("", "é", Tokens(visitor.labels.secret).request_token("Grace")):
        headers = {b"origin": ADDRESS.encode(), b"x-request-token": token.encode("latin-1")}
        assert visitor.http.post("/api/answers", json=body, headers=headers).status_code == 403
    assert saved(visitor) == []


def test_a_foreign_host_name_is_refused(visitor: Visitor) -> None:
    for host in ("evil.example", "evil.example:8765", "127.0.0.1", ""):
        assert visitor.http.get("/api/pairs", headers={"host": host}).status_code == 421


def test_a_large_body_is_refused(visitor: Visitor) -> None:
    ten_megabytes = b"x" * 10_000_000
    headers = {"origin": ADDRESS, "content-type": "application/json"}
    assert visitor.http.post("/api/answers", content=ten_megabytes, headers=headers).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * (MAX_BODY // 2)

    assert visitor.http.post("/api/answers", content=chunks(), headers=headers).status_code == 413


def test_made_up_answers_are_refused(visitor: Visitor) -> None:
    item = visitor.pairs()["pairs"][0]["item"]
    assert visitor.answer("0123456789ab", "left").status_code == 404
    assert visitor.answer("../../key", "left").status_code == 404
    assert visitor.answer(item, "both").status_code == 422
    for wrong in (
        {"choices": {"overall": "left"}},
        {"comment": "x" * 2001},
        {"seconds": -1},
        {"seconds": 1e9},
        {"revision": 0},
        {"extra": 1},
    ):
        assert visitor.answer(item, "left", **wrong).status_code == 422
    assert saved(visitor) == []


def test_responses_tie_the_browser_s_hands(visitor: Visitor) -> None:
    for path in ("/", "/page.js", "/page.css", "/api/pairs", "/nothing"):
        headers = visitor.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    page = visitor.http.get("/").text + visitor.http.get("/page.js").text + visitor.http.get("/page.css").text
    assert "//" not in page.replace("// ", "")
    for way in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="):
        assert way not in page


def test_names_sign_in_on_loopback_alone(tmp_path: Path) -> None:
    pairs = comparison(tmp_path / "pairs", plain_pairs(2))
    headers = {"origin": ADDRESS, "content-type": "application/x-www-form-urlencoded"}
    with visiting(pairs, tmp_path / "labels", None) as visitor:
        assert 'action="/sign-in"' in visitor.http.get("/").text
        assert visitor.http.post("/sign-in", content="name=++Zo%C3%AB+", headers=headers).status_code == 303
        assert visitor.http.get("/api/pairs").json()["annotator"] == "Zoë"
        for name in ("", "%00", "a" * 65, "a%0Ab%1B"):
            assert visitor.http.post("/sign-in", content=f"name={name}", headers=headers).status_code == 422
    with visiting(pairs, tmp_path / "labels", None, names_allowed=False) as visitor:
        assert visitor.http.get("/").status_code == 401
        assert visitor.http.post("/sign-in", content="name=Zoe", headers=headers).status_code == 403


def test_beyond_loopback_somebody_needs_a_link(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1 lets other machines in; name who gets a link"):
        serve(Labels(comparison(tmp_path / "pairs", plain_pairs(1)), tmp_path / "labels"), "192.0.2.1", 0, ())


@pytest.mark.usefixtures("visitor")
def test_two_pages_do_not_share_the_labels(tmp_path: Path) -> None:
    with pytest.raises(LabelsInUseError, match="is open in another labelling page"):
        Labels(tmp_path / "pairs", tmp_path / "labels")


def test_a_name_has_one_spelling() -> None:
    assert annotator_name("  Zoe\u0308   Z ") == "Zo\u00eb Z"
    with pytest.raises(UserError, match="1 to 64 printable"):
        annotator_name("a\u202eb")


def test_the_secret_is_its_owner_s(visitor: Visitor) -> None:
    secret = visitor.labels.output.parent / "page.signing"
    assert len(secret.read_bytes()) == 32
    if sys.platform != "win32":
        assert secret.stat().st_mode & 0o077 == 0
