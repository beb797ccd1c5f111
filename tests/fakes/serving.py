"""A server on a free port of this machine, in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from edgepose.serve.server import PoseServer, listen

__all__ = ["served"]


@contextlib.contextmanager
def served(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an application; gives its address, without a slash at the end."""
    listener = listen("127.0.0.1", port)
    ready = threading.Event()
    server = PoseServer(app, ready.set)
    thread = threading.Thread(target=server.run, args=([listener],), name="test server")
    thread.start()
    try:
        assert ready.wait(20), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.end()
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"
