"""Listening, and ending in good order."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from edgepose.errors import InvalidInputError
from edgepose.serve.connection import Connection

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["PoseServer", "is_loopback", "listen"]

GRACE = 10
"""Seconds that requests under way may take after the signal to end."""
BACKLOG = 256
"""Connections that may wait to be accepted."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens to `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        InvalidInputError: the address is not of this machine, or taken.
    """
    try:
        family, *_ = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = host.strip("[]") == "::" and socket.has_dualstack_ipv6()  # IPv4 too
        made = socket.create_server(
            (host.strip("[]"), port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
        # asyncio lets answers go at once (TCP_NODELAY) on sockets alone that say they are TCP.
        return socket.socket(made.family, made.type, socket.IPPROTO_TCP, fileno=made.detach())
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"cannot listen to {host} port {port}; {reason}; give another --host or --port"
        ) from error


class PoseServer(uvicorn.Server):
    """Serves until SIGINT or SIGTERM, then answers what is under way and ends; a second SIGINT kills it.

    Args:
        app: what `edgepose.serve.create_app` gives.
        started: called once the server answers.
    """

    def __init__(self, app: FastAPI, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # it would hold the tokens of addresses
                server_header=False,
                http=Connection,
                ws="none",
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._release: Callable[[], None] = app.state.release
        self._ready = started

    def end(self) -> None:
        """Have it end in good order. From any thread."""
        self.should_exit = True
        self._release()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's own, but a signal that was obeyed is not raised again: it is the way to end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:  # whatever hangs: a driver, a camera
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
        self.end()
