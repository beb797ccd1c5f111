"""A connection that does not wait for its client for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Connection"]

CONNECTIONS = 256
"""At once; a further one takes the place of that which has waited longest for a request."""
PATIENCE = 10.0
"""Seconds in which a client must send the head of a request, or take some of an answer."""


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn's, which alone would let clients that send or read nothing stay for ever, and in
    any number.

    What a request's body may take is the matter of who reads it.
    """

    _watch: asyncio.TimerHandle | None = None
    _since = 0.0
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_over()
        opened = [each for each in self.connections if isinstance(each, Connection) and each._is_open()]
        if len(opened) > CONNECTIONS:
            waiting = [each for each in opened if not each._is_answering()]  # this one at least
            min(waiting, key=lambda each: each._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._watch_over()
        super().on_response_complete()

    def _is_open(self) -> bool:
        return not self.transport.is_closing()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_over(self, unsent: int = 0) -> None:
        """Look again after some time, in which less than so many bytes should be left to send."""
        if self._watch is not None:
            self._watch.cancel()
        self._since = self.loop.time()
        self._unsent = unsent
        self._watch = self.loop.call_later(PATIENCE, self._look)

    def _look(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent > 0 or not (unsent or self._is_answering()):
            self.transport.abort()
        else:
            self._watch_over(unsent)
