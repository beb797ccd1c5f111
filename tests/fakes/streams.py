"""Work on fake CUDA streams: done at once, or recorded while the emulated module captures the stream."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["forward_to", "submit"]

_forward: Callable[[int, Callable[[], None]], None] | None = None


def submit(stream: int, work: Callable[[], None]) -> None:
    """Put work on a stream, by its handle: 0 is the default stream."""
    if _forward is None:
        work()
    else:
        _forward(stream, work)


def forward_to(submit: Callable[[int, Callable[[], None]], None] | None) -> None:
    """Let the emulated `_cuda` module take the work, which runs it or records it; None: run it here."""
    global _forward
    _forward = submit
