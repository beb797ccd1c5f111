"""Ctrl-C, and the signal that ends services, between two pieces of work and never within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt, outside of what is `whole`.

    A signal that is ignored, as in a shell's job in the background, stays so. Outside of the main thread,
    which alone gets signals, it does nothing.

    Args:
        on_wait: called when an interrupt begins to wait for the end of what is `whole`.

    Attributes:
        waiting: one does; work that can end early asks this.
    """

    def __init__(self, on_wait: Callable[[], None] | None = None) -> None:
        self._before: dict[int, Any] = {}
        self._working = False
        self.waiting = False
        self._on_wait = on_wait

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = handler
                    signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Work that is done to its end before an interrupt is raised; a second one does not wait."""
        self._working = True
        try:
            yield
        finally:
            self._working = False
        if self.waiting:
            raise KeyboardInterrupt

    def _arrived(self, _: int, __: FrameType | None) -> None:
        if self._working and not self.waiting:
            self.waiting = True
            if self._on_wait is not None:
                self._on_wait()
            return
        raise KeyboardInterrupt
