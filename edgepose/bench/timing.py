"""Times of an estimator's calls by stage, for several numbers of people."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.bench.frames import people_frame
from edgepose.estimator import Estimator
from edgepose.machine import resident_memory

__all__ = ["PERCENTILES", "STAGES", "PersonsRow", "time_persons"]

STAGES = ("preprocess", "inference", "postprocess", "rest", "total")
"""``rest`` is what of a call lies outside of the first three: checks, detector, choice and result."""
PERCENTILES = (50, 95, 99)
LEAST_CALLS = 10
"""Calls that are timed at least, however long they take."""


@dataclass(frozen=True)
class PersonsRow:
    """Calls on a frame with a number of people.

    Attributes:
        persons: people in the frame: boxes given to a top-down model, or those that it has to find.
        found: mean number of persons in the results.
        calls: how many were timed.
        stages: milliseconds by stage (`STAGES`) and percentile, for instance ``["total"]["p95"]``; ``total``
            is the whole call as its caller sees it.
        frames_per_s: calls in a second, one after the other.
        memory_mb: of this process afterwards, in units of a million bytes; None where it is not told.
    """

    persons: int
    found: float
    calls: int
    stages: dict[str, dict[str, float]] = field(repr=False)
    frames_per_s: float
    memory_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return dict(vars(self))


def time_persons(
    estimator: Estimator,
    persons: Sequence[int],
    frame_size: tuple[int, int],
    *,
    seconds: float,
    warmup: int,
    step: Callable[[], None] = lambda: None,
) -> list[PersonsRow]:
    """Time calls on frames with each number of people, see `people_frame`.

    Args:
        estimator: top-down without a detector it is given the people's boxes, else it finds them.
        persons: numbers of people.
        frame_size: (height, width) of the frames in pixels.
        seconds: that are spent on each number, at least.
        warmup: calls on each frame that are not timed.
        step: called after each timed call.

    Raises:
        InvalidInputError: so many people do not fit the frame.
    """
    frames = [people_frame(count, frame_size) for count in persons]
    estimator.warmup()
    return [_row(estimator, *frame, seconds, warmup, step) for frame in frames]


def _row(
    estimator: Estimator,
    frame: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    seconds: float,
    warmup: int,
    step: Callable[[], None],
) -> PersonsRow:
    given = boxes if estimator.info.spec.task == "topdown" else None
    for _ in range(warmup):
        estimator(frame, boxes=given)
    times: list[tuple[float, ...]] = []
    found = 0
    started = time.perf_counter()
    while len(times) < LEAST_CALLS or time.perf_counter() - started < seconds:
        clock = time.perf_counter()
        result = estimator(frame, boxes=given)
        total = (time.perf_counter() - clock) * 1e3
        parts = (result.timings.preprocess, result.timings.inference, result.timings.postprocess)
        times.append((*parts, total - sum(parts), total))
        found += len(result)
        step()
    columns = np.array(times)
    memory = resident_memory()
    return PersonsRow(
        persons=len(boxes),
        found=round(found / len(times), 2),
        calls=len(times),
        stages={
            stage: {f"p{p}": round(float(np.percentile(column, p)), 4) for p in PERCENTILES}
            for stage, column in zip(STAGES, columns.T, strict=True)
        },
        frames_per_s=round(1e3 / float(columns[:, -1].mean()), 2),
        memory_mb=round(memory / 1e6, 1) if memory else None,
    )
