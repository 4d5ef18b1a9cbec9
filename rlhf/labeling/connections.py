"""Limits on the labeling page's connections, so that nobody can keep the others out or the server from stopping.

uvicorn closes idle connections only between two requests.  Here every connection has a deadline at all times: until
its next request has arrived, and from then on until the response is sent.  If there are too many connections, the one
that has waited longest is closed, so that a new one can always be served.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0
"""Longest time from opening a connection, or from the last response, to the end of the next request's headers."""
RESPONSE_SECONDS = 300.0
"""Longest time from the end of the headers to the end of the response: enough for all pairs over a slow line."""
STOP_SECONDS = 3
"""Longest time that requests in progress have once the server is stopped."""
MAX_CONNECTIONS = 256
ACCEPTED_AT_ONCE = 16
"""Connections that are accepted in one turn of the event loop."""
QUEUE = 1024
"""Connections that the operating system keeps until they are accepted; more have to try again after a second."""
OTHER_FILES = 128
"""Files that are open besides the connections: journals, the lock, and what was accepted in the last few turns."""


class LimitedConnection(H11Protocol):
    """One connection of a browser to the labeling page."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._deadline: asyncio.TimerHandle | None = None
        self._waits_for_request = False
        self._since = self.loop.time()
        """When it began to wait for a request or to work on one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the clock, and close the connection that has waited longest if there are too many."""
        super().connection_made(transport)
        self._restart_clock()
        connections = [other for other in self.connections if isinstance(other, LimitedConnection)]
        if len(connections) > max_connections():
            min(connections, key=lambda other: other._since).abort()

    def data_received(self, data: bytes) -> None:
        """Handle bytes of the browser."""
        super().data_received(data)
        self._restart_clock()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._restart_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def shutdown(self) -> None:
        """Close the connection if nothing is lost by it: no complete request is in progress, or nobody reads."""
        if self.transport.is_closing():
            return
        incomplete = self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body
        if incomplete or self.flow.write_paused:
            self.abort()
        else:
            super().shutdown()

    def abort(self) -> None:
        """Close the connection at once, without sending what is left."""
        self.connections.discard(self)
        self.transport.abort()

    def _restart_clock(self) -> None:
        """Set the deadline if the connection has begun to wait for a request or to work on one."""
        waits = self.cycle is None or self.cycle.response_complete
        if self._deadline is not None:
            if waits == self._waits_for_request:
                return
            self._deadline.cancel()
        self._waits_for_request, self._since = waits, self.loop.time()
        self._deadline = self.loop.call_later(REQUEST_SECONDS if waits else RESPONSE_SECONDS, self.abort)


class _Server(uvicorn.Server):
    """uvicorn takes one number for the queue of connections and for those that are accepted at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(QUEUE)


def max_connections() -> int:
    """MAX_CONNECTIONS, or fewer if this process may open fewer files."""
    return max(1, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES))


def limited_server(app: Any) -> uvicorn.Server:
    """A server of `app` with these limits; raises the process's limit of open files if that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    config = uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        lifespan="off",
        log_level="error",  # a warning for each malformed request would fill a log
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return _Server(config)
