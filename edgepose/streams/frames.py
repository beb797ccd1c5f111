"""What a source gives, frame by frame, and how it is read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.result import Source

__all__ = ["Frame", "FrameSource", "Image", "OnSkip", "Reading", "Skip", "log_skip"]

Image = NDArray[np.uint8]

_log = logging.getLogger("edgepose")


@dataclass(frozen=True)
class Frame:
    """A picture, BGR uint8 (H, W, 3), and where it came from (None for an array)."""

    image: Image
    source: Source | None = None


@dataclass(frozen=True)
class Skip:
    """An item of a source that could not be used, and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"skipped {self.source}: {self.reason}"


OnSkip = Callable[[Skip], None]


def log_skip(skip: Skip) -> None:
    """Report a skip as a warning of the ``edgepose`` logger."""
    _log.warning("%s", skip)


@dataclass
class Reading:
    """One pass through a source: what its reader is told, and what it counts.

    Attributes:
        on_skip: called with each item that cannot be used.
        every: give each n-th frame alone; the others are passed over, of videos and cameras undecoded.
        stop: set when no more frames are wanted; waits between attempts to reconnect end at once.
        reconnects: how often a camera or stream was lost and found again.
    """

    on_skip: OnSkip
    every: int = 1
    stop: threading.Event = field(default_factory=threading.Event)
    reconnects: int = 0


class FrameSource:
    """An iterable over the frames of a source; reads lazily and holds one frame at a time.

    Attributes:
        name: what was opened, without the user and password of an address.
        kind: ``"image"`` (one picture), ``"images"``, ``"video"`` or ``"camera"``: one of this machine, or a
            live stream.
        total: number of items, as far as known beforehand.
        fps: frames per second of a video or camera, as far as known.
        paths: the files of an ``"image"``, ``"images"`` or ``"video"`` source that is made of files.
        on_skip: what is called with items that cannot be used.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["image", "images", "video", "camera"],
        frames: Callable[[Reading], Iterator[Frame]],
        on_skip: OnSkip | None,
        *,
        total: int | None = None,
        fps: float | None = None,
        paths: tuple[str, ...] = (),
        close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.total = total
        self.fps = fps
        self.paths = paths
        self.on_skip = on_skip or log_skip
        self._frames = frames
        self._close = close

    def __iter__(self) -> Iterator[Frame]:
        return self.read(Reading(self.on_skip))

    def read(self, reading: Reading) -> Iterator[Frame]:
        """The frames that are wanted, from the first one on, or of a camera from now on."""
        return self._frames(reading)

    def close(self) -> None:
        """Release a camera that was opened and is not being read."""
        if self._close is not None:
            self._close()
