"""Synthetic people for the tests of tracking and smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepose import PoseResult, Source, coco17
from edgepose.pipeline.bottomup import keypoint_boxes

SIZE = (720, 1280)

# nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; about 1 high and 0.4 wide, from the middle
FIGURE = np.array(
    [
        (0, -0.45), (0.02, -0.47), (-0.02, -0.47), (0.05, -0.46), (-0.05, -0.46), (0.12, -0.32),
        (-0.12, -0.32), (0.18, -0.15), (-0.18, -0.15), (0.2, 0.02), (-0.2, 0.02), (0.08, 0.02),
        (-0.08, 0.02), (0.1, 0.25), (-0.1, 0.25), (0.1, 0.5), (-0.1, 0.5),
    ]
)  # fmt: skip


def person(x: float, y: float = 360, height: float = 300) -> np.ndarray:
    """Joints (17, 2) of a standing person around a point."""
    return FIGURE * height + [x, y]


def picture(
    people: Sequence[np.ndarray],
    *,
    scores: Any = 0.8,
    frame: int | None = None,
    time_ms: float | None = None,
    **fields: Any,
) -> PoseResult:
    """The result of a picture with these people, `scores` being those of persons and joints."""
    n = len(people)
    joints = np.array(people, np.float32).reshape(n, 17, 2)
    each = np.broadcast_to(np.asarray(scores, np.float32), n)
    source = None if frame is None and time_ms is None else Source("walk.mp4", frame, time_ms)
    given: dict[str, Any] = {
        "keypoints": joints,
        "scores": np.repeat(each[:, None], 17, axis=1),
        "boxes": keypoint_boxes(joints),
        "person_scores": each,
        "skeleton": coco17,
        "image_size": SIZE,
        "source": source,
    }
    return PoseResult(**(given | fields))
