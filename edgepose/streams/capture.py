"""A thread per source that reads its frames ahead, never more than a few."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgepose.streams.frames import Frame, FrameSource, OnSkip, Reading, Skip
from edgepose.streams.video import now_ms

__all__ = ["QUEUE", "Feed", "Lost"]

QUEUE = 2
"""Frames of a source that wait at most."""


@dataclass(frozen=True)
class Lost:
    """A source ended by an error."""

    error: BaseException


class Feed:
    """The frames of one source on their way to the network.

    Args:
        source: what is read.
        gate: guards the waiting items of all feeds and results, and tells of every change.
        stop: set when no more frames are wanted.
        latest: keep the newest frame alone, and read a video in a file at the pace of its frames.
        every: take each n-th frame.
        on_skip: called for items that cannot be used, by whoever takes them; None: the source's own.

    Attributes:
        items: what waits to be taken, in order.
        ended: nothing comes after `items`.
        frames: how many were taken.
        dropped: how many were replaced by newer ones.
    """

    def __init__(
        self,
        source: FrameSource,
        gate: threading.Condition,
        stop: threading.Event,
        *,
        latest: bool,
        every: int,
        on_skip: OnSkip | None,
    ) -> None:
        self.source = source
        self.on_skip = on_skip or source.on_skip
        self.items: deque[Frame | Skip | Lost] = deque()
        self.ended = False
        self.frames = 0
        self.dropped = 0
        self._gate = gate
        # A picture is as good later as now: only what runs by itself grows stale.
        self._latest = latest and source.kind in ("video", "camera")
        self._reading = Reading(self._skip, every, stop)

    @property
    def reconnects(self) -> int:
        """How often the source was lost and found again."""
        return self._reading.reconnects

    def run(self) -> None:
        """Read the source to its end, or until no more frames are wanted."""
        frames: Iterator[Frame] = iter(())
        try:
            if not self._reading.stop.is_set():
                frames = self.source.read(self._reading)
                for frame in self._paced(frames):
                    if not self._put(frame):
                        break
        except BaseException as error:
            self._put(Lost(error))
        finally:
            close = getattr(frames, "close", None)
            if close is not None:
                close()
            self.source.close()
            with self._gate:
                self.ended = True
                self._gate.notify_all()

    def take(self) -> Frame | Skip | Lost | None:
        """The next item, None where none waits. The caller holds the gate."""
        if not self.items:
            return None
        item = self.items.popleft()
        self.frames += isinstance(item, Frame)
        self._gate.notify_all()
        return item

    def _skip(self, skip: Skip) -> None:
        self._put(skip)

    def _put(self, item: Frame | Skip | Lost) -> bool:
        """Have an item wait; False where no more are wanted."""
        with self._gate:
            if self._latest and isinstance(item, Frame):
                fresh = [other for other in self.items if not isinstance(other, Frame)]
                self.dropped += len(self.items) - len(fresh)
                self.items = deque(fresh)
            while len(self.items) >= QUEUE and not self._reading.stop.is_set():
                self._gate.wait()
            if self._reading.stop.is_set():
                return False
            self.items.append(item)
            self._gate.notify_all()
            return True

    def _paced(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        if not self._latest or self.source.kind != "video":
            yield from frames
            return
        started = time.monotonic()
        for frame in frames:
            ahead = started + self._position(frame) - time.monotonic()
            if ahead > 0:
                if self._reading.stop.wait(ahead):
                    return
                if frame.source is not None:  # a camera would have given it now
                    frame = Frame(frame.image, replace(frame.source, captured_ms=now_ms()))
            yield frame

    def _position(self, frame: Frame) -> float:
        """Where a frame stands in its video, in seconds."""
        if frame.source is None:
            return 0.0
        if self.source.fps and frame.source.frame is not None:
            return frame.source.frame / self.source.fps
        return (frame.source.time_ms or 0.0) / 1e3
