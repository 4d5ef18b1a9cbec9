"""The labelling page: what a browser may ask, and what it is told.

An answer is on the disk before its response is sent.  The page knows left and right, the labels know A and B, and
only the key, which is never opened here, knows the models.

Annotations are evaluated here, because FastAPI reads those of the handlers, which name functions beside them.
"""

import socket
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs

import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rlhf.data.dialogues import split_turns
from rlhf.data.text import valid_unicode, visible
from rlhf.errors import UserError
from rlhf.labeling.journal import Entry, RevisionError
from rlhf.labeling.judgements import MAX_COMMENT, MAX_SECONDS, Choice, Choices
from rlhf.labeling.middleware import Guard, Tokens
from rlhf.labeling.session import Labels
from rlhf.results.human_evaluation import QUESTIONS, Question

STATIC = Path(__file__).parent / "static"
COOKIE = "annotator"
MAX_NAME = 64
LOOPBACK = ("127.0.0.1", "::1", "localhost")
WILDCARDS = (str(IPv4Address(0)), "::")
"""Addresses to listen on that nobody can open."""
Side = Literal["left", "tie", "right"]


def _mend(text: object) -> object:
    """Half of a surrogate pair may come from a text field that cuts at its limit; it costs nobody the answer."""
    return valid_unicode(text) if isinstance(text, str) else text


class Answer(BaseModel):
    """What the page sends for one pair; without choices it takes the answer back."""

    model_config = ConfigDict(extra="forbid")

    item: str = Field(max_length=64)
    revision: int = Field(ge=1)
    choices: dict[Question, Side] | None
    comment: Annotated[str, BeforeValidator(_mend)] = Field(default="", max_length=MAX_COMMENT)
    seconds: float = Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)


def annotator_name(text: str) -> str:
    """A name in one spelling: outer and repeated spaces do not count.  Raises UserError where it is no name."""
    name = " ".join(unicodedata.normalize("NFC", valid_unicode(text)).split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise UserError(f"a name has 1 to {MAX_NAME} printable characters, not {text[:MAX_NAME]!r}")
    return name


def create_app(labels: Labels, *, hosts: frozenset[str], names_allowed: bool) -> Guard:
    """The page as an ASGI application; without `names_allowed` only a signed link lets anybody in."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    tokens = Tokens(labels.secret)
    files = {name: (STATIC / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js", "sign_in.html")}

    def signed_in(annotator: Annotated[str | None, Cookie()] = None) -> str:
        name = tokens.read(annotator) if annotator else None
        if name is None:
            raise HTTPException(401, "sign in first")
        return name

    def from_page(name: Annotated[str, Depends(signed_in)], x_request_token: Annotated[str, Header()] = "") -> str:
        if not tokens.is_request_token(name, x_request_token):
            raise HTTPException(403, "the page is out of date; reload it")
        return name

    def enter(name: str) -> Response:
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(COOKIE, tokens.sign(name), max_age=90 * 86_400, httponly=True, samesite="strict")
        return response

    @app.get("/")
    def page(annotator: Annotated[str | None, Cookie()] = None) -> Response:
        if annotator and tokens.read(annotator):
            return HTMLResponse(files["page.html"])
        if names_allowed:
            return HTMLResponse(files["sign_in.html"])
        return HTMLResponse("<!doctype html><title>Labels</title><p>Open the link that you were given.", 401)

    @app.get("/page.css")
    def style() -> Response:
        return Response(files["page.css"], media_type="text/css")

    @app.get("/page.js")
    def script() -> Response:
        return Response(files["page.js"], media_type="text/javascript")

    @app.get("/open/{token}")
    def open_link(token: str) -> Response:
        name = tokens.read(token)
        if name is None:
            raise HTTPException(403, "this link is not one of ours; ask for a new one")
        return enter(name)

    @app.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        if not names_allowed:
            raise HTTPException(403, "open the link that you were given")
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        try:
            return enter(annotator_name(form.get("name", [""])[0]))
        except UserError as error:
            raise HTTPException(422, str(error)) from None

    @app.post("/sign-out")
    def sign_out() -> Response:
        response = RedirectResponse("/", status_code=303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    @app.get("/api/pairs")
    def pairs(name: Annotated[str, Depends(signed_in)]) -> JSONResponse:
        latest = labels.journal(name).latest()
        return JSONResponse(
            {
                "annotator": visible(name),
                "token": tokens.request_token(name),
                "names_allowed": names_allowed,
                "pairs": [
                    {
                        "item": item.item,
                        "turns": [[turn.speaker, visible(turn.text)] for turn in split_turns(item.source)],
                        **dict(
                            zip(_sides(labels, name, item.item), _answers(item.answer_a, item.answer_b), strict=True)
                        ),
                        **_state(latest.get(item.item)),
                    }
                    for item in labels.in_order(name)
                ],
            }
        )

    @app.post("/api/answers")
    def answer(given: Answer, name: Annotated[str, Depends(from_page)]) -> JSONResponse:
        if given.item not in labels.items:
            raise HTTPException(404, "there is no such pair")
        if given.choices is not None and set(given.choices) != set(QUESTIONS):
            raise HTTPException(422, f"an answer has {', '.join(QUESTIONS)}")
        try:
            kept = labels.answer(
                name,
                given.item,
                given.revision,
                _choices(given.choices, labels.left(name, given.item)),
                seconds=given.seconds,
                comment=given.comment,
            )
        except RevisionError:
            raise HTTPException(409, "another window answered this pair; reload") from None
        return JSONResponse(_state(kept))

    @app.exception_handler(RequestValidationError)
    def invalid(_request: object, _error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "the request has another form than the page's"}, 422)

    return Guard(app, hosts)


def _sides(labels: Labels, name: str, item: str) -> tuple[str, str]:
    """Names of the places of A and B."""
    return ("left", "right") if labels.left(name, item) == "a" else ("right", "left")


def _answers(*texts: str) -> list[str]:
    return [visible(text.strip()) for text in texts]


def _choices(given: dict[Question, Side] | None, left: Literal["a", "b"]) -> Choices | None:
    if given is None:
        return None
    right: Choice = "b" if left == "a" else "a"
    meaning: dict[Side, Choice] = {"left": left, "tie": "tie", "right": right}
    return Choices(**{question: meaning[side] for question, side in given.items()})


def _state(entry: Entry | None) -> dict[str, object]:
    """What the page must know of an answer; never which of A and B stood where."""
    if entry is None:
        return {"revision": 0, "done": False, "comment": "", "seconds": 0}
    return {
        "revision": entry.revision,
        "done": entry.choices is not None,
        "comment": entry.comment,
        "seconds": entry.seconds,
    }


def serve(labels: Labels, host: str, port: int, annotators: Sequence[str]) -> None:
    """Serve the page until interrupted; prints its address and a link for each of `annotators`.

    Raises UserError where the address cannot be had, or where others could reach it and nobody has a link.
    """
    is_loopback = host in LOOPBACK
    if not is_loopback and not annotators:
        raise UserError(f"--host {host} lets other machines in; name who gets a link with --annotator NAME")
    with closing(_listen(host, port)) as listener:
        port = listener.getsockname()[1]
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")} if is_loopback else set()
        app = create_app(labels, hosts=frozenset(hosts), names_allowed=is_loopback)
        reached_as = socket.gethostname() if host in WILDCARDS else f"[{host}]" if ":" in host else host
        address = f"http://{reached_as}:{port}"
        tokens = Tokens(labels.secret)
        print(f"labelling page: {address}  ({len(labels.items)} pairs; stop with Ctrl-C)", flush=True)
        for name in annotators:
            print(f"  {name}: {address}/open/{tokens.sign(annotator_name(name))}", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host") from None
