"""What a stream uses of an `Estimator`, without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tiny_models import COLORS3, color_spec

from edgepose import Frame, PoseResult, Source
from edgepose.estimator import EstimatorInfo
from edgepose.streams.frames import FrameSource, OnSkip, Reading


class FakeEstimator:
    """Finds one person in the middle of each frame.

    Args:
        before: called with the frames of each run; may wait or raise.

    Attributes:
        runs: of each run the source and number of each frame.
        boxes: of each run the boxes that were given.
    """

    def __init__(self, before: Callable[[Sequence[Frame]], None] | None = None) -> None:
        self.info: Any = EstimatorInfo(None, color_spec(), {}, {})  # type: ignore[arg-type]
        self.runs: list[list[tuple[str, int | None]]] = []
        self.boxes: list[Any] = []
        self._before = before

    def __call__(self, frames: Sequence[Frame], boxes: Sequence[Any]) -> list[PoseResult]:
        if self._before is not None:
            self._before(frames)
        self.runs.append([(f.source.path, f.source.frame) if f.source else ("", None) for f in frames])
        self.boxes.append(list(boxes))
        return [pose(frame) for frame in frames]


def pose(frame: Frame, persons: int = 1) -> PoseResult:
    """A result with persons in the middle of the frame."""
    height, width = frame.image.shape[:2]
    middle = np.array([width, height], np.float32) / 2
    return PoseResult(
        keypoints=np.tile(middle + np.array([[-9, -9], [0, 0], [9, 9]], np.float32), (persons, 1, 1)),
        scores=np.full((persons, 3), 0.8, np.float32),
        boxes=np.tile(np.concatenate([middle - 12, middle + 12]), (persons, 1)),
        person_scores=np.full(persons, 0.4, np.float32),
        skeleton=COLORS3,
        image_size=(height, width),
        source=frame.source,
    )


def running(
    name: str,
    count: int,
    *,
    kind: Any = "camera",
    fps: float | None = None,
    size: tuple[int, int] = (40, 30),
    error: BaseException | None = None,
    on_skip: OnSkip | None = None,
    before: Callable[[int], None] | None = None,
    seen: list[Any] | None = None,
) -> FrameSource:
    """A source of so many frames, each with its number as the value of all its pixels.

    Args:
        error: raised after the last frame.
        before: called with the number of each frame; may wait.
        seen: the numbers of the frames that were read, ``"end"`` where reading ended, ``"closed"``.
    """
    log: list[Any] = [] if seen is None else seen

    def frames(reading: Reading) -> Iterator[Frame]:
        try:
            for number in range(0, count, reading.every):
                if before is not None:
                    before(number)
                log.append(number)
                yield Frame(np.full((*size, 3), number % 256, np.uint8), Source(name, number, 40.0 * number))
            if error is not None:
                raise error
        finally:
            log.append("end")

    return FrameSource(name, kind, frames, on_skip, fps=fps, close=lambda: log.append("closed"))


def threads() -> list[str]:
    """Names of the threads of streams that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgepose ")]
