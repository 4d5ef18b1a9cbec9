"""Asks a language model on an OpenAI-compatible server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Self

import httpx
from pydantic import BaseModel, Field, ValidationError

from rlhf.config import LlmJudgeConfig
from rlhf.errors import UserError, brief
from rlhf.evaluation.llm_judge.question import Pair, ask_in_both_orders, judge_pair, read_reply
from rlhf.results.llm_judge import LlmJudgement

MAX_TOKENS = 8
"""Longest reply, in tokens: room for `**Answer:** A`."""
MAX_BYTES = 1_000_000
"""Largest body of a server's response that is read."""
CONNECT_SECONDS, REPLY_SECONDS = 10.0, 120.0
ATTEMPTS = 6
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 1.0, 60.0
"""Time between two attempts; it doubles each time, unless the server says how long to wait."""
HIGHEST_PORT = 65_535
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message


class _Reply(BaseModel):
    """The part of an OpenAI chat completion that is used."""

    choices: list[_Choice] = Field(min_length=1)


class _TemporaryError(Exception):
    """A failure that may pass; `seconds` is how long the server asks to wait."""

    def __init__(self, problem: str, seconds: float | None = None) -> None:
        super().__init__(problem)
        self.seconds = seconds


class ServerJudge:
    """A language model on a server.  A context manager, which closes the connections.

    The API key is sent to the server and is in no message: nothing that the server says is quoted but its status.
    """

    def __init__(self, settings: LlmJudgeConfig, seed: int) -> None:
        """Take the key from the environment variable that the settings name.  Raises UserError if it is malformed."""
        self.settings, self.seed = settings, seed
        self.address = _completions_address(str(settings.url))
        self._stopped = threading.Event()
        key = os.environ.get(settings.api_key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"the environment variable {settings.api_key_variable} (judge.llm.api_key_variable) contains "
                "characters that no API key has; set it to the key alone"
            )
        self.sends_key_openly = bool(key) and self.address.scheme == "http" and self.address.host not in LOOPBACK
        """Whether others on the network can read the key."""
        self._client = httpx.Client(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(REPLY_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=settings.requests_at_once),
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._client.close()

    def judge(self, pairs: Sequence[Pair], finished: Callable[[LlmJudgement], None]) -> None:
        """Ask about `pairs` in parallel; calls `finished` with each judgement, from one thread at a time.

        After an error no other pair is begun, and those in progress are finished before it is raised.
        """
        lock = threading.Lock()

        def judge_one(pair: Pair) -> None:
            if self._stopped.is_set():
                return
            try:
                rlhf_first, sft_first = (read_reply(self.ask(text)) for text in ask_in_both_orders(pair, self.seed))
                with lock:
                    finished(judge_pair(pair.id, rlhf_first, sft_first))
            except BaseException:
                self._stopped.set()
                raise

        with ThreadPoolExecutor(self.settings.requests_at_once) as pool:
            try:
                for future in as_completed([pool.submit(judge_one, pair) for pair in pairs]):
                    future.result()
            finally:
                self._stopped.set()

    def ask(self, question: str) -> str:
        """The reply to a question; empty if the model said nothing.

        Raises UserError if the server refuses the question, or if it fails ATTEMPTS times.
        """
        delay = FIRST_DELAY_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._post(question)
            except _TemporaryError as error:
                wait_seconds = min(delay if error.seconds is None else error.seconds, LONGEST_DELAY_SECONDS)
                if attempt == ATTEMPTS or self._stopped.wait(wait_seconds):
                    raise UserError(
                        f"{self.address}: {error} ({attempt} attempts); check that the server of judge.llm.url runs "
                        "and can be reached, or lower judge.llm.requests_at_once; finished pairs are not asked again"
                    ) from error
                delay *= 2
        raise AssertionError("the last attempt returns or raises")

    def _post(self, question: str) -> str:
        """One attempt."""
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "seed": self.seed,
        }
        try:
            with self._client.stream("POST", self.address, json=body) as response:
                self._require_success(response)
                content = self._read(response)
        except httpx.TransportError as error:
            # other messages may quote what the server sent, and it may repeat the key
            problem = brief(error) if isinstance(error, httpx.ConnectError) else type(error).__name__
            raise _TemporaryError(problem) from error
        try:
            return _Reply.model_validate_json(content).choices[0].message.content or ""
        except ValidationError as error:
            raise UserError(
                f"{self.address}: status 200, but the body is no chat completion in OpenAI's format; set judge.llm.url "
                "to the base address of an OpenAI-compatible server, which usually ends in /v1"
            ) from error

    def _require_success(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or response.is_server_error:
            seconds = response.headers.get("Retry-After", "")
            raise _TemporaryError(f"status {status}", float(seconds) if seconds.isdecimal() else None)
        if response.is_redirect:
            remedy = "redirects are not followed; set judge.llm.url to the server's final address"
        elif status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            remedy = f"set the environment variable {self.settings.api_key_variable} to an API key of this server"
        else:
            remedy = (
                f"check judge.llm.url, judge.llm.model ({self.settings.model}), and that its context is long enough "
                "for a prompt and two responses"
            )
        raise UserError(f"{self.address}: status {status}; {remedy}")

    def _read(self, response: httpx.Response) -> bytes:
        """The body.  Raises UserError if it has more than MAX_BYTES, _TemporaryError if it takes too long."""
        content, deadline = bytearray(), time.monotonic() + REPLY_SECONDS
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > MAX_BYTES:
                raise UserError(
                    f"{self.address}: the body has more than {MAX_BYTES:,} bytes, which no reply of {MAX_TOKENS} "
                    "tokens needs; set judge.llm.url to an OpenAI-compatible server"
                )
            if time.monotonic() > deadline:
                raise _TemporaryError(f"no complete response in {REPLY_SECONDS:.0f} seconds")
        return bytes(content)


def _completions_address(url: str) -> httpx.URL:
    """The address of chat completions below the base address `url`.  Raises UserError if it is none."""
    if "@" in url:
        raise UserError(
            "judge.llm.url must not contain @, because a password before it would be stored with the settings; put the "
            "API key in the environment variable that judge.llm.api_key_variable names"
        )
    try:
        address = httpx.URL(f"{url.rstrip('/')}/chat/completions")
    except httpx.InvalidURL:
        address = httpx.URL()
    is_base = address.scheme in ("http", "https") and address.host and not address.query and not address.fragment
    if not is_base or (address.port or 0) > HIGHEST_PORT:
        raise UserError(f"judge.llm.url ({url}) must be a base address such as http://127.0.0.1:8000/v1")
    return address
