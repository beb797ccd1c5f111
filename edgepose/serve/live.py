"""The source that the live page shows: its newest frame and poses, for whoever watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepose.errors import EdgePoseError
from edgepose.optional import require_cv2
from edgepose.result import PoseResult
from edgepose.sources import SourceLike, open_source
from edgepose.streams.frames import Frame, Image
from edgepose.streams.stream import PoseStream

if TYPE_CHECKING:
    from edgepose.estimator import Estimator

__all__ = ["LiveStatus", "LiveView", "frame_packet"]

LONGEST_SIDE = 1280
"""Pixels of the pictures that browsers get."""
JPEG_QUALITY = 80
STALLED = 3.0
"""Seconds without a frame after which a camera counts as stalled."""
FPS_WINDOW = 2.0

_log = logging.getLogger("edgepose")


@dataclass(frozen=True)
class LiveStatus:
    """How it goes with the source.

    Attributes:
        source: its name, without user and password.
        state: ``"starting"``, ``"running"``, ``"stalled"`` (no frame for three seconds; a lost camera is
            opened again), ``"ended"`` or ``"failed"``.
        message: why it failed.
        frames: how many were estimated.
        fps: results per second over the last two seconds.
        latency_ms: from capture to result of the newest frame, where the time of capture is known.
        persons: in the newest frame.
        dropped: frames dropped because newer ones were there.
        reconnects: how often it was lost and found again.
        viewers: how many browsers watch.
    """

    source: str
    state: str
    message: str | None
    frames: int
    fps: float
    latency_ms: float | None
    persons: int
    dropped: int
    reconnects: int
    viewers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return asdict(self)


class LiveView:
    """Runs an estimator over a source in a thread of its own and keeps the newest frame and result.

    Whoever watches takes the newest when it is ready for it, so that a slow browser sees fewer frames and
    holds up nothing. A frame is encoded once, and only when somebody asks for it.

    Args:
        estimator: shared with the requests; their calls take turns.
        source: as for `Estimator.stream`, one source.
        repeat: start it again at its end.
        options: more of `Estimator.stream`; ``latest=True`` and ``reconnect=None`` (for ever) by default.

    Raises:
        InvalidInputError: the source cannot be opened.
    """

    def __init__(
        self, estimator: Estimator, source: SourceLike, *, repeat: bool, options: dict[str, Any]
    ) -> None:
        self._estimator = estimator
        self._options = {"latest": True, "reconnect": None, **options}
        reconnect = self._options["reconnect"]
        opened = open_source(source, self._options.get("on_skip"), reconnect=reconnect)
        self.kind = opened.kind
        self.name = self._shown(opened.name)
        self._source = source
        self._repeat = repeat and self.kind in ("images", "video")
        self._stream: PoseStream = estimator.stream(opened, **self._options)
        self._lock = threading.Lock()
        self._stopping = False
        self._state = "starting"
        self._message: str | None = None
        self._newest: tuple[int, Frame, PoseResult] | None = None
        self._number = 0
        self._arrived = time.monotonic()
        self._times: deque[float] = deque(maxlen=240)
        self._latency: float | None = None
        self._before = (0, 0)  # dropped and reconnects of earlier rounds of a source that repeats
        self._round_from = 0
        self._viewers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._packet: tuple[int, asyncio.Future[bytes]] | None = None
        self._encoder = ThreadPoolExecutor(1, "edgepose jpeg")
        self._thread = threading.Thread(target=self._run, name="edgepose live", daemon=True)

    def start(self) -> None:
        """Start; call it within the event loop that serves the viewers."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def release(self) -> None:
        """Let those who wait for a frame go, now and from now on. From any thread."""
        self._stopping = True
        self._wake()

    def stop(self) -> None:
        """End, and release the source."""
        self.release()
        with self._lock:
            stream = self._stream
        stream.close()
        if self._thread.is_alive():
            self._thread.join()
        self._encoder.shutdown(cancel_futures=True)

    def status(self) -> LiveStatus:
        """How it goes."""
        now = time.monotonic()
        with self._lock:
            recent = [each for each in self._times if now - each <= FPS_WINDOW]
            state, arrived = self._state, self._arrived
            newest, stream = self._newest, self._stream
            dropped, reconnects = self._before
        if state == "running" and self.kind == "camera" and now - arrived > STALLED:
            state = "stalled"
        fps = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        return LiveStatus(
            source=self.name,
            state=state,
            message=self._message,
            frames=self._number,
            fps=round(fps, 2),
            latency_ms=None if self._latency is None else round(self._latency, 1),
            persons=0 if newest is None else len(newest[2]),
            dropped=dropped + stream.dropped,
            reconnects=reconnects + stream.reconnects,
            viewers=self._viewers,
        )

    @property
    def newest(self) -> PoseResult | None:
        """The newest result."""
        newest = self._newest
        return None if newest is None else newest[2]

    @property
    def viewers(self) -> int:
        """How many wait for frames now."""
        return self._viewers

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count a viewer."""
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1

    async def packet(self, after: int, patience: float) -> bytes:
        """The newest frame as `frame_packet` says, as soon as its number is not `after`.

        Where none comes within `patience` seconds, or ever, since the source or the server has ended: the
        status alone.
        """
        assert self._loop is not None
        deadline = self._loop.time() + patience
        while (newest := self._newest) is None or newest[0] == after:
            left = deadline - self._loop.time()
            if left <= 0 or self._stopping or self._state in ("ended", "failed"):
                return frame_packet(self.status(), after)
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                # What came between the look above and the registration has woken nobody.
                if self._newest is newest:
                    await asyncio.wait([waiter], timeout=left)
            finally:
                self._waiters.discard(waiter)
        if self._packet is None or self._packet[0] != newest[0]:
            encoding = self._loop.run_in_executor(self._encoder, frame_packet, self.status(), *newest)
            self._packet = (newest[0], encoding)
        return await asyncio.shield(self._packet[1])

    def _run(self) -> None:
        try:
            while True:
                for frame, result in self._stream.with_frames():
                    self._show(frame, result)
                if not self._repeat or self._stopping or not self._again():
                    break
            self._end("ended", None)
        except EdgePoseError as error:
            _log.error("the live source has failed; %s", error)
            self._end("failed", str(error))
        except Exception:
            _log.exception("the live source has failed")
            self._end("failed", "the source failed; found an internal error; see the server's log")

    def _again(self) -> bool:
        """Open the source for another round; False where the last one gave nothing or the end has come."""
        if self._number == self._round_from:
            return False
        opened = open_source(self._source, self._options.get("on_skip"), reconnect=self._options["reconnect"])
        stream = self._estimator.stream(opened, **self._options)
        with self._lock:
            before = self._stream
            self._before = (self._before[0] + before.dropped, self._before[1] + before.reconnects)
            self._round_from = self._number
            self._stream = stream
        if self._stopping:
            stream.close()
            return False
        return True

    def _shown(self, name: str) -> str:
        """What viewers are told: of a file its name, not where it lies."""
        return name if self.kind == "camera" or "://" in name else Path(name).name

    def _show(self, frame: Frame, result: PoseResult) -> None:
        now = time.monotonic()
        captured = None
        if result.source is not None:
            captured = result.source.captured_ms
            result = replace(result, source=replace(result.source, path=self._shown(result.source.path)))
        with self._lock:
            self._number += 1
            self._newest = (self._number, frame, result)
            self._state = "running"
            self._arrived = now
            self._times.append(now)
            self._latency = None if captured is None else now * 1e3 - captured
        self._wake()

    def _end(self, state: str, message: str | None) -> None:
        with self._lock:
            self._state, self._message = state, message
        self._wake()

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake_here)

    def _wake_here(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def frame_packet(
    status: LiveStatus, number: int, frame: Frame | None = None, result: PoseResult | None = None
) -> bytes:
    """A frame for a browser: picture and poses in one piece, so that they belong together.

    Four bytes, little-endian: the length of the JSON text that follows, ``{"number": ..., "status": ...,
    "result": ...}`` (`PoseResult.to_dict`; null without a frame); the rest is a JPEG of at most 1280 pixels a
    side. Coordinates are those of the frame itself, whose size stands in the result.
    """
    data = {
        "number": number,
        "status": status.to_dict(),
        "result": None if result is None else result.to_dict(),
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    return struct.pack("<I", len(text)) + text + (b"" if frame is None else _jpeg(frame.image))


def _jpeg(image: Image) -> bytes:
    cv2 = require_cv2("the live page")
    shrink = LONGEST_SIDE / max(image.shape[:2])
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    usable, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not usable:
        raise RuntimeError("OpenCV could not encode a frame as JPEG")
    return bytes(data)
