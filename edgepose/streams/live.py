"""Cameras and network streams: frames as they come, opened again where they are lost."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.result import Source
from edgepose.streams.addresses import Address, parse_address
from edgepose.streams.frames import Frame, FrameSource, OnSkip, Reading
from edgepose.streams.video import now_ms, rate_of

__all__ = ["RECONNECT", "open_live"]

RECONNECT = 10
"""Attempts in a row, by default, before a lost source is given up: some three minutes."""
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
"""Seconds between attempts, which double from one to the other."""

_log = logging.getLogger("edgepose")


def open_live(name: str | int, on_skip: OnSkip | None, *, reconnect: int | None = RECONNECT) -> FrameSource:
    """Open a camera or network stream; see `parse_address` for what names one.

    A file on a server, which knows its number of frames, is a ``"video"``: it ends, and is not opened again.

    Args:
        reconnect: attempts in a row to open it again where it is lost; None: for ever.

    Raises:
        InvalidInputError: there is nothing to open, or the address cannot be read.
        BackendUnavailableError: OpenCV cannot open such sources.
    """
    live = _Live(parse_address(name), reconnect)
    capture = live.open()
    count = int(capture.get(require_cv2("reading a stream").CAP_PROP_FRAME_COUNT))
    live.finite = live.address.opener == "network" and count > 0
    return FrameSource(
        live.address.name,
        "video" if live.finite else "camera",
        live.frames,
        on_skip,
        total=count if live.finite else None,
        fps=rate_of(capture) or live.address.fps,
        close=live.close,
    )


class _Live:
    def __init__(self, address: Address, reconnect: int | None) -> None:
        self.address = address
        self.finite = False
        self._reconnect = reconnect
        self._lock = threading.Lock()
        self._waiting: Any = None  # opened, and not yet read

    def open(self) -> Any:
        self._waiting = self.address.open()
        return self._waiting

    def close(self) -> None:
        capture = self._take()
        if capture is not None:
            capture.release()

    def _take(self) -> Any:
        with self._lock:
            capture, self._waiting = self._waiting, None
        return capture

    def frames(self, reading: Reading) -> Iterator[Frame]:
        capture = self._take() or self.address.open()
        image: Any
        position = attempts = 0
        started: float | None = None
        try:
            while not reading.stop.is_set():
                wanted = position % reading.every == 0
                usable, image = capture.read() if wanted else (capture.grab(), None)
                if usable:
                    if attempts:
                        reading.reconnects += 1
                        _log.info("%s is back, opened at attempt %d", self.address.name, attempts)
                        attempts = 0
                    now = now_ms()
                    started = now if started is None else started
                    if wanted:
                        time_ms = self._media_time(capture) if self.finite else now - started
                        yield Frame(image, Source(self.address.name, position, time_ms, now))
                    position += 1
                elif self.finite:
                    return
                else:
                    capture.release()
                    capture = None
                    while capture is None:
                        attempts += 1
                        if not self._wait(reading, position, attempts):
                            return
                        with contextlib.suppress(InvalidInputError):  # raised by `_wait` when it is enough
                            capture = self.address.open()
        finally:
            if capture is not None:
                capture.release()

    def _wait(self, reading: Reading, position: int, attempt: int) -> bool:
        """Wait before an attempt to open the source again; False where no more frames are wanted."""
        label, limit = self.address.label, self._reconnect
        if limit is not None and attempt > limit:
            tried = "" if not limit else f", and {limit} attempts to open it again have failed"
            raise InvalidInputError(
                f"{label} stopped after {position} frames{tried}; check that it is connected"
            )
        delay = min(FIRST_DELAY * 2.0 ** min(attempt - 1, 10), LONGEST_DELAY)
        if attempt == 1:
            _log.warning("%s stopped after %d frames; it is opened again", label, position)
        return not reading.stop.wait(delay)

    @staticmethod
    def _media_time(capture: Any) -> float:
        return float(capture.get(require_cv2("reading a stream").CAP_PROP_POS_MSEC))
