"""The labeling page's HTTP server.

An answer is on disk before its response is sent.  The page shows answers as left and right, the stored answers name A
and B, and only the key, which this module never opens, names the models.
"""

from __future__ import annotations

import socket
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rlhf.data.dialogues import split_turns
from rlhf.data.invisible import escape_invisible, one_line
from rlhf.data.text import valid_unicode
from rlhf.errors import UserError, brief, user_message
from rlhf.labeling.connections import limited_server
from rlhf.labeling.journal import Entry, RevisionError
from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Choice, Choices
from rlhf.labeling.manifest import BlindedPair
from rlhf.labeling.middleware import AnnotatorTokens, SecurityMiddleware
from rlhf.labeling.session import LabelingSession
from rlhf.results.human_evaluation import QUESTIONS, Question

STATIC = Path(__file__).parent / "static"
STATIC_FILES = ("page.html", "page.css", "page.js", "sign_in.html")
NEEDS_LINK = "<!doctype html><title>Compare answers</title><p>Please open the link that you were sent."
COOKIE = "annotator"
COOKIE_SECONDS = 90 * 86_400
MAX_NAME = 64
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WILDCARDS = (str(IPv4Address(0)), "::")
"""Addresses that a server can listen on but a browser cannot open."""
Side = Literal["left", "tie", "right"]

router = APIRouter()


@dataclass(frozen=True)
class LabelingPage:
    """What the request handlers need; stored in the application's state."""

    session: LabelingSession
    tokens: AnnotatorTokens
    files: dict[str, str]
    """Content of the static files by name."""
    names_allowed: bool
    """Whether people may sign in with any name, without a signed link."""


async def _page_of(request: Request) -> LabelingPage:
    page: LabelingPage = request.app.state.page
    return page


Page = Annotated[LabelingPage, Depends(_page_of)]


def _signed_in(page: Page, annotator: Annotated[str | None, Cookie()] = None) -> str:
    name = page.tokens.read(annotator) if annotator else None
    if name is None:
        raise HTTPException(401, "sign in first")
    return name


def _sent_by_page(
    page: Page, name: Annotated[str, Depends(_signed_in)], x_request_token: Annotated[str, Header()] = ""
) -> str:
    if not page.tokens.is_request_token(name, x_request_token):
        raise HTTPException(403, "the page is out of date; reload it")
    return name


def _replace_lone_surrogates(text: object) -> object:
    """A text field that is cut at its limit may end in half of a surrogate pair; the answer is accepted anyway."""
    return valid_unicode(text) if isinstance(text, str) else text


class Answer(BaseModel):
    """What the page sends for one pair; without choices it undoes the answer."""

    model_config = ConfigDict(extra="forbid")

    pair_id: str = Field(max_length=64)
    revision: int = Field(ge=1)
    choices: dict[Question, Side] | None
    comment: Annotated[str, BeforeValidator(_replace_lone_surrogates)] = Field(default="", max_length=MAX_COMMENT)
    seconds: float = Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)


def create_app(
    session: LabelingSession, *, hosts: frozenset[str], annotators: frozenset[str] | None = None
) -> SecurityMiddleware:
    """The labeling page as an ASGI application.

    If `annotators` are given, only they can use it, by a signed link; otherwise everybody can sign in with a name.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    files = {name: (STATIC / name).read_text("utf-8") for name in STATIC_FILES}
    tokens = AnnotatorTokens(session.secret, annotators)
    app.state.page = LabelingPage(session, tokens, files, names_allowed=annotators is None)
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, _reject_invalid)
    app.add_exception_handler(OSError, _reject_unsaved)
    return SecurityMiddleware(app, hosts)


async def _reject_invalid(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "this request does not have the form that the page sends"}, 422)


async def _reject_unsaved(_request: Request, error: Exception) -> JSONResponse:
    """The disk is full or fails.  The owner sees the reason, the annotator that the answer is not saved."""
    print(f"error: {user_message(error) or brief(error)}", file=sys.stderr, flush=True)
    return JSONResponse({"detail": "the server cannot write to its disk; tell the person who sent you the link"}, 507)


@router.get("/")
def show_page(page: Page, annotator: Annotated[str | None, Cookie()] = None) -> Response:
    """The labeling page for annotators who are signed in; otherwise the sign-in page or a request to use the link."""
    if annotator and page.tokens.read(annotator):
        return HTMLResponse(page.files["page.html"])
    if page.names_allowed:
        return HTMLResponse(page.files["sign_in.html"])
    return HTMLResponse(NEEDS_LINK, 401)


@router.get("/page.css")
def show_style(page: Page) -> Response:
    """The style sheet."""
    return Response(page.files["page.css"], media_type="text/css")


@router.get("/page.js")
def show_script(page: Page) -> Response:
    """The script."""
    return Response(page.files["page.js"], media_type="text/javascript")


@router.get("/open/{token}")
def open_link(page: Page, token: str) -> Response:
    """Sign in with a link that `serve` printed."""
    name = page.tokens.read(token)
    if name is None:
        raise HTTPException(403, "this link is not valid; ask for a new one")
    return _sign_in(page, name)


@router.post("/sign-in")
async def sign_in(page: Page, request: Request) -> Response:
    """Sign in with a name."""
    if not page.names_allowed:
        raise HTTPException(403, "please open the link that you were sent")
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    try:
        return _sign_in(page, annotator_name(form.get("name", [""])[0]))
    except UserError as error:
        raise HTTPException(422, str(error)) from error


@router.post("/sign-out")
def sign_out() -> Response:
    """Delete the cookie."""
    response = RedirectResponse("/", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/api/pairs")
def list_pairs(page: Page, name: Annotated[str, Depends(_signed_in)]) -> JSONResponse:
    """All pairs in the annotator's order, with the state of their answers."""
    latest = page.session.journal(name).latest()
    return JSONResponse(
        {
            "annotator": escape_invisible(name),
            "token": page.tokens.request_token(name),
            "names_allowed": page.names_allowed,
            "pairs": [
                {**_pair_content(page.session, name, pair), **_answer_state(latest.get(pair.id))}
                for pair in page.session.pairs_for(name)
            ],
        }
    )


@router.post("/api/answers")
def save_answer(page: Page, answer: Answer, name: Annotated[str, Depends(_sent_by_page)]) -> JSONResponse:
    """Save or undo an answer; returns the pair's state once it is on disk."""
    session = page.session
    if answer.pair_id not in session.pairs:
        raise HTTPException(404, "there is no such pair")
    if answer.choices is not None and set(answer.choices) != set(QUESTIONS):
        raise HTTPException(422, f"an answer has {', '.join(QUESTIONS)}")
    try:
        entry = session.answer(
            name,
            answer.pair_id,
            answer.revision,
            _choices(answer.choices, session.left(name, answer.pair_id)),
            seconds=answer.seconds,
            comment=answer.comment,
        )
    except RevisionError as error:
        raise HTTPException(409, "this pair was answered in another window; reload") from error
    return JSONResponse(_answer_state(entry))


def annotator_name(text: str) -> str:
    """A name in its normal form, without outer or repeated spaces.  Raises UserError if it is not a valid name."""
    name = " ".join(unicodedata.normalize("NFC", valid_unicode(text)).split())
    if not name or len(name) > MAX_NAME or escape_invisible(name) != name:
        raise UserError(f"a name has 1 to {MAX_NAME} visible characters, not {one_line(text, MAX_NAME)!r}")
    return name


def _sign_in(page: LabelingPage, name: str) -> Response:
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(COOKIE, page.tokens.sign(name), max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
    return response


def _pair_content(session: LabelingSession, name: str, pair: BlindedPair) -> dict[str, object]:
    """Id, dialogue and both answers of a pair; the answers by the side on which this annotator sees them."""
    side_a, side_b = ("left", "right") if session.left(name, pair.id) == "a" else ("right", "left")
    return {
        "id": pair.id,
        "turns": [[turn.speaker, escape_invisible(turn.text)] for turn in split_turns(pair.source)],
        side_a: escape_invisible(pair.answer_a.strip()),
        side_b: escape_invisible(pair.answer_b.strip()),
    }


def _choices(sides: dict[Question, Side] | None, left: Literal["a", "b"]) -> Choices | None:
    """The choices as A and B instead of left and right."""
    if sides is None:
        return None
    right: Choice = "b" if left == "a" else "a"
    choice_of: dict[Side, Choice] = {"left": left, "tie": "tie", "right": right}
    return Choices(**{question: choice_of[side] for question, side in sides.items()})


def _answer_state(entry: Entry | None) -> dict[str, object]:
    """What the page needs to know about an answer; it never says which of A and B was on which side."""
    if entry is None:
        return {"revision": 0, "done": False, "comment": "", "seconds": 0}
    return {
        "revision": entry.revision,
        "done": entry.choices is not None,
        "comment": entry.comment,
        "seconds": entry.seconds,
    }


def serve(session: LabelingSession, host: str, port: int, annotators: Sequence[str]) -> None:
    """Serve the page until interrupted; prints its address and a link for each of `annotators`.

    If other machines can reach the page, the links of everybody else are invalid, also those of an earlier start.
    Raises UserError if the address is not available, or if other machines can reach it but nobody has a link.
    """
    is_loopback = host in LOOPBACK
    if not is_loopback and not annotators:
        raise UserError(f"--host {host} is open to other machines; name who gets a link with --annotator NAME")
    with closing(_listen(host, port)) as listener:
        port = listener.getsockname()[1]
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")} if is_loopback else set()
        names = [annotator_name(name) for name in annotators]
        app = create_app(session, hosts=frozenset(hosts), annotators=None if is_loopback else frozenset(names))
        shown_host = socket.gethostname() if host in WILDCARDS else f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{port}"
        tokens = AnnotatorTokens(session.secret)
        print(f"labeling page: {address}  ({len(session.pairs)} pairs; stop with Ctrl-C)", flush=True)
        for name in names:
            print(f"  {name}: {address}/open/{tokens.sign(name)}", flush=True)
        limited_server(app).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host") from error
