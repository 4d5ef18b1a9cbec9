"""What stands between the labelling page and the rest of the web: host, origin, size, tokens, headers."""

from __future__ import annotations

import hmac
import json
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 65_536
"""Bytes of a request's body; a long comment is an eighth of it."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
READING = ("GET", "HEAD")


class Tokens:
    """Signed names of annotators: what a link and a cookie hold, and what a changing request must repeat."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._serializer = URLSafeSerializer(secret, salt="annotator")

    def sign(self, annotator: str) -> str:
        """Token of an annotator, fit for an address."""
        return str(self._serializer.dumps(annotator))

    def read(self, token: str) -> str | None:
        """The annotator whose token it is; None where we did not sign it."""
        try:
            annotator = self._serializer.loads(token)
        except BadSignature:
            return None
        return annotator if isinstance(annotator, str) else None

    def request_token(self, annotator: str) -> str:
        """What the page sends with every answer and another site cannot know."""
        return hmac.new(self._secret, f"request\0{annotator}".encode(), "sha256").hexdigest()

    def is_request_token(self, annotator: str, given: str) -> bool:
        """Whether `given` is the annotator's request token."""
        return hmac.compare_digest(self.request_token(annotator).encode(), given.encode("utf-8", "replace"))


class Guard:
    """ASGI middleware: refuses what no page of ours sends, and adds the headers that tie the browser's hands.

    A host that is none of `hosts` is refused (DNS rebinding); empty `hosts` takes any, for addresses where everybody
    needs a token.  A request that changes something must come from a page of this origin.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                guarded = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *guarded]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._problem(scope["method"], headers)
        body = b""
        more = problem is None
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                problem, more = (413, f"a request has at most {MAX_BODY} bytes"), False
        if problem is not None:
            await refuse(send_guarded, *problem)
            return

        delivered = False

        async def receive_body() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send_guarded)

    def _problem(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts and host not in self._hosts:
            return 421, "this address is not the page's own"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"a request has at most {MAX_BODY} bytes"
        if method not in READING and urlsplit(headers.get("origin", "")).netloc != host:
            return 403, "the request does not come from the page itself"
        return None


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer with a status and its reason, and end the connection, whose body may still be on its way."""
    content = json.dumps({"detail": reason}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*start, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": content})
