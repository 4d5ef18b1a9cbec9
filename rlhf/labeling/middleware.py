"""Security of the labeling page: checks of host, origin and body size, signed tokens, strict response headers."""

from __future__ import annotations

import asyncio
import hmac
import json
import re

from itsdangerous import BadData, URLSafeSerializer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 65_536
"""Largest request body in bytes, eight times that of an answer with a long comment."""
BODY_SECONDS = 20.0
"""Longest time that a request's body may take to arrive."""
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
TOO_LARGE = (413, f"a request has at most {MAX_BODY} bytes")
SAFE_METHODS = ("GET", "HEAD")
LENGTH = re.compile("[0-9]{1,10}")
"""A Content-Length, as far as it can be small enough; more lenient readers take other digits, too."""


class AnnotatorTokens:
    """Signed tokens of annotators: one for links and cookies, one that every answer must carry.

    If `annotators` are given, the tokens of all others are invalid.
    """

    def __init__(self, secret: bytes, annotators: frozenset[str] | None = None) -> None:
        self._secret = secret
        self._annotators = annotators
        self._serializer = URLSafeSerializer(secret, salt="annotator")

    def sign(self, annotator: str) -> str:
        """URL-safe token of an annotator."""
        return str(self._serializer.dumps(annotator))

    def read(self, token: str) -> str | None:
        """The annotator that the token was signed for, or None if it is invalid."""
        try:
            annotator = self._serializer.loads(token)
        except BadData:
            return None
        if not isinstance(annotator, str) or (self._annotators is not None and annotator not in self._annotators):
            return None
        return annotator

    def request_token(self, annotator: str) -> str:
        """Token that the page sends with every answer, and that another site cannot know."""
        return hmac.new(self._secret, f"request\0{annotator}".encode(), "sha256").hexdigest()

    def is_request_token(self, annotator: str, token: str) -> bool:
        """Whether `token` is the annotator's request token."""
        return hmac.compare_digest(self.request_token(annotator).encode(), token.encode("utf-8", "replace"))


class SecurityMiddleware:
    """ASGI middleware that rejects requests that our page would not send, and adds strict security headers.

    Host and port must be one of `hosts`, which prevents DNS rebinding; if `hosts` is empty, any host is accepted, for
    addresses at which everybody needs a token.  Requests that change something must come from the page's own origin.
    """

    # Starlette's TrustedHostMiddleware compares host names without the port, so it would accept any port.

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

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                security = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *security]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._find_problem(scope["method"], headers)
        body: bytes | None = b""
        if problem is None:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await _read_body(receive)
            except TimeoutError:
                problem = (408, f"a request arrives within {BODY_SECONDS:.0f} seconds")
            except _TooLargeError:
                problem = TOO_LARGE
        if problem is not None:
            await reject(send_with_headers, *problem)
            return
        if body is None:
            return

        delivered = False

        async def receive_body() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send_with_headers)

    def _find_problem(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """HTTP status and reason if the headers are not acceptable."""
        host = headers.get("host", "")
        if self._hosts and host not in self._hosts:
            return 421, "this address is not the page's own"
        length = headers.get("content-length", "0")
        if not LENGTH.fullmatch(length) or int(length) > MAX_BODY:
            return TOO_LARGE
        own_origins = (f"http://{host}", f"https://{host}")
        if method not in SAFE_METHODS and (not host or headers.get("origin") not in own_origins):
            return 403, "the request does not come from the page itself"
        return None


class _TooLargeError(Exception):
    """A body has more than MAX_BODY bytes."""


async def _read_body(receive: Receive) -> bytes | None:
    """The complete body of a request, or None if the browser hung up.  Raises _TooLargeError."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _TooLargeError
        if not message.get("more_body", False):
            return bytes(body)


async def reject(send: Send, status: int, reason: str) -> None:
    """Respond with a status and its reason, and close the connection, which may still be sending its body."""
    content = json.dumps({"detail": reason}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*start, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": content})
