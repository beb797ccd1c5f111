"""`cv2.VideoCapture` without a camera: each one opened shows so many frames and then fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CANNOT_OPEN = -1


class FakeCapture:
    """Shows `left` frames, each with its number as the value of all its pixels."""

    def __init__(self, owner: FakeCaptures, left: int) -> None:
        self.owner, self.left, self.released = owner, left, False

    def isOpened(self) -> bool:
        return self.left != CANNOT_OPEN

    def get(self, _: int) -> float:
        return self.owner.properties

    def read(self) -> tuple[bool, np.ndarray | None]:
        assert not self.released, "a released capture is read"
        number = self._step()
        if number is None:
            return False, None
        self.owner.decoded += 1
        return True, np.full((*self.owner.size, 3), number % 256, np.uint8)

    def grab(self) -> bool:
        assert not self.released, "a released capture is read"
        return self._step() is not None

    def _step(self) -> int | None:
        if self.owner.on_read is not None:
            self.owner.on_read()
        if not self.left:
            return None
        self.left -= 1
        self.owner.shown += 1
        return self.owner.shown - 1

    def release(self) -> None:
        self.released = True


class FakeCaptures:
    """Takes the place of ``cv2.VideoCapture``.

    Args:
        lives: how many frames each capture in turn shows, or `CANNOT_OPEN`; later ones cannot be opened.
        size: (height, width) of the frames.
        on_read: called at every frame; may wait.

    Attributes:
        opened: what was asked for, with the captures that were given.
        shown: frames shown by all.
        decoded: frames of which the picture was asked for.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        lives: list[int],
        *,
        size: tuple[int, int] = (96, 72),
        on_read: Callable[[], None] | None = None,
    ) -> None:
        import cv2

        self.lives, self.size, self.on_read = lives, size, on_read
        self.properties = -1.0
        self.opened: list[tuple[tuple[Any, ...], FakeCapture]] = []
        self.shown = self.decoded = 0
        monkeypatch.setattr(cv2, "VideoCapture", self)

    def __call__(self, *arguments: Any) -> FakeCapture:
        number = len(self.opened)
        capture = FakeCapture(self, self.lives[number] if number < len(self.lives) else CANNOT_OPEN)
        self.opened.append((arguments, capture))
        return capture

    @property
    def all_released(self) -> bool:
        """Whether nothing that was opened is held."""
        return all(capture.released for _, capture in self.opened if capture.isOpened())


class FakeStop(threading.Event):
    """A stop signal that never waits; it keeps the times that it was asked to."""

    def __init__(self, *, after: int | None = None) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._after = after

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        if self._after is not None and len(self.waits) >= self._after:
            self.set()
        return self.is_set()
