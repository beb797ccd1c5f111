"""A connection that does not wait for its client for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["CONNECTIONS", "Connection"]

CONNECTIONS = 256
"""At once; on further ones requests are answered 503."""
MOST_OPEN = 2 * CONNECTIONS
"""Connections beyond are closed unheard, so that they do not take the process's files away."""
PATIENCE = 10.0
"""Seconds in which a client must send the head of a request, or take some of an answer."""


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn's, which alone would let a client that sends or reads nothing stay for ever.

    What a request's body may take is the matter of who reads it.
    """

    _watch: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_OPEN:
            transport.abort()
        else:
            self._watch_over()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._watch_over()
        super().on_response_complete()

    def _watch_over(self, unsent: int = 0) -> None:
        """Look again after some time, in which less than so many bytes should be left to send."""
        if self._watch is not None:
            self._watch.cancel()
        self._unsent = unsent
        self._watch = self.loop.call_later(PATIENCE, self._look)

    def _look(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        answering = self.cycle is not None and not self.cycle.response_complete
        if unsent >= self._unsent > 0 or not (unsent or answering):
            self.transport.abort()
        else:
            self._watch_over(unsent)
