"""The labeling page over HTTP: sign-in, rejected requests, and answers that are on disk when confirmed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.labeling.manifest import PromptResponses
from rlhf.labeling.middleware import MAX_BODY, AnnotatorTokens
from rlhf.labeling.server import annotator_name, serve
from rlhf.labeling.session import LabelingSession, SessionInUseError
from tests.support.page_client import ADDRESS, AWKWARD, Visitor, labeling_task, plain_pairs, visiting


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    with visiting(labeling_task(tmp_path / "pairs", plain_pairs(6)), tmp_path / "labels") as visitor:
        yield visitor


def saved(visitor: Visitor) -> list[dict[str, object]]:
    """Every line of every journal."""
    lines = [
        json.loads(line)
        for path in sorted((visitor.session.output.parent / "answers").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [line for line in lines if "pair_id" in line]


def test_left_and_right_become_a_and_b(visitor: Visitor) -> None:
    for pair in visitor.pairs()["pairs"]:
        blinded = visitor.session.pairs[pair["id"]]
        texts = {"a": blinded.answer_a.strip(), "b": blinded.answer_b.strip()}
        assert {pair["left"], pair["right"]} == set(texts.values())
        assert visitor.answer(blinded.id, "left").json() == {
            "revision": 1,
            "done": True,
            "comment": "",
            "seconds": 4.0,
        }
        choices = saved(visitor)[-1]["choices"]
        assert isinstance(choices, dict)
        assert {texts[choice] for choice in choices.values()} == {pair["left"]}


def test_a_reopened_page_resumes_at_the_first_open_pair(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(6))
    with visiting(pairs, tmp_path / "labels") as visitor:
        first, second = (pair["id"] for pair in visitor.pairs()["pairs"][:2])
        visitor.answer(first, "tie", comment="so-so \ud83d")
        visitor.answer(second, "left")
        visitor.answer(second, None, revision=2)
    with visiting(pairs, tmp_path / "labels") as visitor:
        reopened = visitor.pairs()["pairs"]
        assert [pair["id"] for pair in reopened[:2]] == [first, second]
        assert [pair["done"] for pair in reopened] == [True] + [False] * 5
        assert (reopened[0]["comment"], reopened[1]["revision"]) == ("so-so \ufffd", 2)
        assert visitor.answer(second, "right", revision=3).status_code == 200
    with visiting(pairs, tmp_path / "labels", "Grace") as other:
        assert not any(pair["done"] for pair in other.pairs()["pairs"])


def test_a_repeated_answer_counts_once_and_a_conflicting_one_is_rejected(visitor: Visitor) -> None:
    pair_id = visitor.pairs()["pairs"][0]["id"]
    assert visitor.answer(pair_id, "left").json() == visitor.answer(pair_id, "left").json()
    assert visitor.answer(pair_id, "right").status_code == 409
    assert visitor.answer(pair_id, "right", revision=7).status_code == 409
    assert len(saved(visitor)) == 1


def test_the_output_is_updated_with_every_answer(visitor: Visitor) -> None:
    pair_id = visitor.pairs()["pairs"][0]["id"]
    manifest = visitor.session.output / "manifests/output/output.manifest"

    def references() -> list[str]:
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        return [line["preference-metadata"]["worker-response-ref"] for line in lines if "preference-metadata" in line]

    assert references() == []
    visitor.answer(pair_id, "tie")
    [reference] = references()
    [answer] = json.loads((visitor.session.output / reference).read_text())["answers"]
    assert answer["answerContent"]["overall"] == "tie"
    assert answer["timeSpentInSeconds"] == 4.0
    assert answer["acceptanceTime"] < answer["submissionTime"]
    assert "Ada" not in json.dumps(answer)
    visitor.answer(pair_id, None, revision=2)
    assert references() == []
    assert not (visitor.session.output / reference).exists()


def test_awkward_text_is_sent_as_text(tmp_path: Path) -> None:
    pairs = [PromptResponses(name, f"\n\nHuman: {text}\n\nAssistant:", text, " fine") for name, text in AWKWARD.items()]
    with visiting(labeling_task(tmp_path / "pairs", pairs), tmp_path / "labels") as visitor:
        response = visitor.http.get("/api/pairs")
        assert response.headers["content-type"] == "application/json"
        texts = [text for pair in response.json()["pairs"] for text in (pair["left"], pair["right"])]
        assert AWKWARD["script"].strip() in texts
        assert AWKWARD["liquid"].strip() in texts
        assert "safe ⟨U+202E⟩gnp.exe⟨U+2066⟩ ⟨U+200F⟩" in texts
        assert "pay⟨U+00AD⟩pal⟨U+E0041⟩⟨U+115F⟩⟨U+2800⟩ 👩\u200d🔬" in texts
        assert AWKWARD["long"].strip() in texts
        assert "" in texts
        assert "half \ufffd a pair ⟨U+0000⟩ and ⟨U+001B⟩[31m" in texts
        for pair in response.json()["pairs"]:
            assert visitor.answer(pair["id"], "right").status_code == 200


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
def test_no_other_files_are_served(visitor: Visitor, path: str) -> None:
    assert visitor.http.get(path).status_code == 404


def test_an_invalid_token_does_not_sign_in(visitor: Visitor) -> None:
    visitor.http.cookies.clear()
    forged = AnnotatorTokens(b"another secret").sign("Ada")
    for token in (forged, forged[:-1], "Ada", ""):
        assert visitor.http.get(f"/open/{token}").status_code in (403, 404)
        visitor.http.cookies.set("annotator", token)
        assert visitor.http.get("/api/pairs").status_code == 401
        visitor.http.cookies.clear()
    response = visitor.http.get(f"/open/{AnnotatorTokens(visitor.session.secret).sign('Grace')}")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "SameSite=strict" in response.headers["set-cookie"]
    assert visitor.http.get("/api/pairs").json()["annotator"] == "Grace"


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1:9999", "http://localhost:8765"]
)
def test_a_form_of_another_site_is_rejected(visitor: Visitor, origin: str | None) -> None:
    pair_id = visitor.pairs()["pairs"][0]["id"]
    body = {"pair_id": pair_id, "revision": 1, "choices": None, "comment": "", "seconds": 1.0}
    headers = {"x-request-token": AnnotatorTokens(visitor.session.secret).request_token("Ada")}
    if origin is not None:
        headers["origin"] = origin
    for path in ("/api/answers", "/sign-in", "/sign-out"):
        assert visitor.http.post(path, json=body, headers=headers).status_code == 403
    assert saved(visitor) == []


def test_an_answer_needs_the_request_token_of_its_annotator(visitor: Visitor) -> None:
    pair_id = visitor.pairs()["pairs"][0]["id"]
    body = {"pair_id": pair_id, "revision": 1, "choices": None, "comment": "", "seconds": 1.0}
    for token in ("", "é", AnnotatorTokens(visitor.session.secret).request_token("Grace")):
        headers = {b"origin": ADDRESS.encode(), b"x-request-token": token.encode("latin-1")}
        assert visitor.http.post("/api/answers", json=body, headers=headers).status_code == 403
    assert saved(visitor) == []


def test_another_host_name_is_rejected(visitor: Visitor) -> None:
    for host in ("evil.example", "evil.example:8765", "127.0.0.1", ""):
        assert visitor.http.get("/api/pairs", headers={"host": host}).status_code == 421


def test_a_large_body_is_rejected(visitor: Visitor) -> None:
    ten_megabytes = b"x" * 10_000_000
    headers = {"origin": ADDRESS, "content-type": "application/json"}
    assert visitor.http.post("/api/answers", content=ten_megabytes, headers=headers).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * (MAX_BODY // 2)

    assert visitor.http.post("/api/answers", content=chunks(), headers=headers).status_code == 413


def test_invalid_answers_are_rejected(visitor: Visitor) -> None:
    pair_id = visitor.pairs()["pairs"][0]["id"]
    assert visitor.answer("0123456789ab", "left").status_code == 404
    assert visitor.answer("../../key", "left").status_code == 404
    assert visitor.answer(pair_id, "both").status_code == 422
    for wrong in (
        {"choices": {"overall": "left"}},
        {"comment": "x" * 2001},
        {"seconds": -1},
        {"seconds": 1e9},
        {"revision": 0},
        {"extra": 1},
    ):
        assert visitor.answer(pair_id, "left", **wrong).status_code == 422
    headers = {
        "origin": ADDRESS,
        "content-type": "application/json",
        "x-request-token": AnnotatorTokens(visitor.session.secret).request_token("Ada"),
    }
    for body in ("[" * 60_000, '{"revision": ' + "9" * 60_000 + "}", '{"pair_id": "\\ud83d"}'):
        assert visitor.http.post("/api/answers", content=body, headers=headers).status_code in (400, 422)
    assert saved(visitor) == []


def test_responses_have_strict_security_headers(visitor: Visitor) -> None:
    for path in ("/", "/page.js", "/page.css", "/api/pairs", "/nothing"):
        headers = visitor.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    page = visitor.http.get("/").text + visitor.http.get("/page.js").text + visitor.http.get("/page.css").text
    assert "//" not in page.replace("// ", "")
    for unsafe in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="):
        assert unsafe not in page


def test_names_may_sign_in_on_loopback_only(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(2))
    headers = {"origin": ADDRESS, "content-type": "application/x-www-form-urlencoded"}
    with visiting(pairs, tmp_path / "labels", None) as visitor:
        assert 'action="/sign-in"' in visitor.http.get("/").text
        assert visitor.http.post("/sign-in", content="name=++Zo%C3%AB+", headers=headers).status_code == 303
        assert visitor.http.get("/api/pairs").json()["annotator"] == "Zoë"
        for name in ("", "%00", "a" * 65, "a%0Ab%1B"):
            assert visitor.http.post("/sign-in", content=f"name={name}", headers=headers).status_code == 422
    with visiting(pairs, tmp_path / "labels", None, annotators=frozenset({"Ada"})) as visitor:
        assert visitor.http.get("/").status_code == 401
        assert visitor.http.post("/sign-in", content="name=Zoe", headers=headers).status_code == 403


def test_a_link_is_withdrawn_by_a_start_without_its_name(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(2))
    headers = {"origin": ADDRESS, "content-type": "application/json"}
    for annotators, status in ((frozenset({"Ada", "Zoe"}), 200), (frozenset({"Zoe"}), 401)):
        with visiting(pairs, tmp_path / "labels", "Ada", annotators=annotators) as visitor:
            pair_id = next(iter(visitor.session.pairs))
            assert visitor.http.get("/api/pairs").status_code == status
            assert visitor.http.get("/").status_code == status
            assert visitor.answer(pair_id, "tie").status_code == status
            visitor.http.cookies.clear()
            link = f"/open/{AnnotatorTokens(visitor.session.secret).sign('Ada')}"
            assert visitor.http.get(link).status_code == (303 if status == 200 else 403)
            assert visitor.http.post("/sign-in", content="name=Ada", headers=headers).status_code == 403
    assert len(saved(visitor)) == 1


def test_the_answers_of_damaged_journals_are_shown_and_go_on(tmp_path: Path) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(3))
    with visiting(pairs, tmp_path / "labels") as visitor:
        first, second, third = (pair["id"] for pair in visitor.pairs()["pairs"])
        visitor.answer(first, "left")
        visitor.answer(second, "left")
        [path] = (tmp_path / "labels/answers").iterdir()
    header, one, two = path.read_bytes().splitlines(keepends=True)
    foreign = two.replace(second.encode(), b"0123456789ab")
    path.write_bytes(header[:9] + one + two[:30] + two + foreign + one[:50])
    (path.parent / "0000000000000000.jsonl").write_bytes(b"")
    with visiting(pairs, tmp_path / "labels") as visitor:
        assert [problem.rpartition(".jsonl: ")[2] for problem in visitor.session.problems] == [
            "half a line at the end, which was never confirmed, is removed",
            "line 1 is damaged before the answer that it ends with",
            "line 2 is damaged before the answer that it ends with",
            "answers to unknown pairs, which are passed over: 1",
        ]
        assert [pair["done"] for pair in visitor.pairs()["pairs"]] == [True, True, False]
        assert visitor.answer(third, "left").status_code == 200
    with visiting(pairs, tmp_path / "labels") as visitor:
        assert [pair["done"] for pair in visitor.pairs()["pairs"]] == [True] * 3


def test_beyond_loopback_a_link_is_required(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1 is open to other machines; name who gets a link"):
        serve(
            LabelingSession(labeling_task(tmp_path / "pairs", plain_pairs(1)), tmp_path / "labels"), "192.0.2.1", 0, ()
        )


@pytest.mark.usefixtures("visitor")
def test_two_pages_cannot_open_the_same_answers(tmp_path: Path) -> None:
    with pytest.raises(SessionInUseError, match="is open in another labeling page"):
        LabelingSession(tmp_path / "pairs", tmp_path / "labels")


def test_names_are_normalized() -> None:
    assert annotator_name("  Zoe\u0308   Z ") == "Zo\u00eb Z"
    for name in ("a\u202eb", "Ada\u115f", "Ada\u00ad", "A\x1b[31m", "\u2800", ""):
        with pytest.raises(UserError, match="1 to 64 visible") as caught:
            annotator_name(name)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("secret", [b"", b"x" * 31])
def test_a_damaged_secret_signs_nothing(tmp_path: Path, secret: bytes) -> None:
    pairs = labeling_task(tmp_path / "pairs", plain_pairs(1))
    LabelingSession(pairs, tmp_path / "labels").close()
    path = tmp_path / "labels/page.signing"
    intact = path.read_bytes()
    path.write_bytes(secret)
    with pytest.raises(UserError, match=f"page.signing: {len(secret)} bytes, but a secret has 32") as caught:
        LabelingSession(pairs, tmp_path / "labels")
    path.write_bytes(intact)
    assert caught.traceback
    LabelingSession(pairs, tmp_path / "labels").close()  # the error above does not keep the answers locked


def test_the_secret_is_readable_by_its_owner_only(visitor: Visitor) -> None:
    secret = visitor.session.output.parent / "page.signing"
    assert len(secret.read_bytes()) == 32
    if sys.platform != "win32":
        assert secret.stat().st_mode & 0o077 == 0
