"""Videos in files: frame by frame, with what is damaged or missing reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.result import Source
from edgepose.streams.frames import Frame, FrameSource, OnSkip, Reading, Skip

__all__ = ["now_ms", "open_video", "rate_of"]

# Containers that store the number of frames; in others OpenCV estimates it.
_COUNTED_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi"])
_MAX_BAD_READS = 100
MOST_FPS = 1000.0
"""What says so many frames per second, or more, tells the ticks of a clock."""


def now_ms() -> float:
    """The monotonic clock of frames in milliseconds: that of `time.monotonic`."""
    return time.monotonic() * 1e3


def rate_of(capture: Any) -> float | None:
    """Frames per second of an open capture, None where it does not know.

    Network streams and browsers' recordings tell the ticks of their clock, 90,000 and 1,000 for instance.
    """
    fps = float(capture.get(require_cv2("reading videos").CAP_PROP_FPS))
    return fps if 0 < fps < MOST_FPS else None


def open_video(path: str, on_skip: OnSkip | None) -> FrameSource:
    """Open a video file.

    Raises:
        InvalidInputError: OpenCV finds no video in it.
    """
    cv2 = require_cv2("reading videos")

    def opened() -> Any:
        capture = cv2.VideoCapture(path)
        if not capture.isOpened():
            raise InvalidInputError(
                f"cannot read {path}; OpenCV finds no video in it; check that it is complete, or convert "
                "it to MP4 (H.264)"
            )
        return capture

    capture = opened()
    fps = rate_of(capture)
    count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    capture.release()

    def frames(reading: Reading) -> Iterator[Frame]:
        capture = opened()
        image: Any
        position = bad = 0
        time_ms = 0.0
        try:
            while not reading.stop.is_set():
                wanted = (position + bad) % reading.every == 0
                usable, image = capture.read() if wanted else (capture.grab(), None)
                if not usable:
                    # A damaged frame fails to read and the next one may be good; at the end all fail.
                    bad += 1
                    if bad > _MAX_BAD_READS or position + bad >= max(count, 1):
                        break
                    continue
                if bad:
                    reading.on_skip(Skip(f"{path} frames {position} to {position + bad - 1}", "unreadable"))
                    position, bad = position + bad, 0
                time_ms = float(capture.get(cv2.CAP_PROP_POS_MSEC))
                if wanted:
                    yield Frame(image, Source(path, position, time_ms, now_ms()))
                position += 1
        finally:
            capture.release()
        if reading.stop.is_set():
            return
        missing = count - position
        counted = Path(path).suffix.lower() in _COUNTED_SUFFIXES
        early = fps is not None and time_ms + 1000 / fps < 980 * count / fps - 500
        if not position:
            reading.on_skip(Skip(path, "it holds no readable frame"))
        elif missing > 1 and (counted or early):
            reading.on_skip(Skip(f"{path} from frame {position}", f"{missing} of {count} frames are missing"))

    return FrameSource(path, "video", frames, on_skip, total=count or None, fps=fps, paths=(path,))
