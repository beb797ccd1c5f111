"""The time between the results of one stream."""

from __future__ import annotations

import math
from typing import Any

from edgepose.errors import InvalidInputError
from edgepose.result import PoseResult

__all__ = ["Clock"]


class Clock:
    """Tells how much time passes from each result of a stream to the next.

    Args:
        fps: frames per second, for results that know no time of their own.
    """

    def __init__(self, fps: float) -> None:
        self._frame_time = 1 / fps
        self._given: float | None = None
        self._media: float | None = None
        self._frame: int | None = None

    def step(self, result: PoseResult, timestamp: Any = None) -> float:
        """Seconds since the last call, above 0.

        They are those between the timestamps given, else between the times of the frames in their video, else
        between the numbers of the frames. Where none of these is known of both results, or media times do not
        grow (a video that starts anew), one frame has passed.

        Raises:
            InvalidInputError: `timestamp` is no number, or not later than the last one.
        """
        given = None if timestamp is None else self._check(timestamp)
        source = result.source
        media = None if source is None or source.time_ms is None else source.time_ms / 1000
        frame = None if source is None else source.frame
        passed = self._frame_time
        if given is not None and self._given is not None:
            passed = given - self._given
        elif _later(media, self._media):
            passed = media - self._media  # type: ignore[operator]
        elif _later(frame, self._frame):
            passed = (frame - self._frame) * self._frame_time  # type: ignore[operator]
        self._given, self._media, self._frame = given, media, frame
        return passed

    def _check(self, timestamp: Any) -> float:
        try:
            given = float(timestamp)
        except (TypeError, ValueError):
            given = math.nan
        if not math.isfinite(given):
            raise InvalidInputError(f"timestamp is not usable; found {timestamp!r}; give seconds as a number")
        if self._given is not None and given <= self._given:
            raise InvalidInputError(
                f"timestamp must grow from call to call; found {given} after {self._given}; give the results "
                "in their order, or call reset() before a new stream"
            )
        return given


def _later(now: float | None, before: float | None) -> bool:
    return now is not None and before is not None and now > before
