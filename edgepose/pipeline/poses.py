"""What the pipelines hand over: poses of one picture, and the time that each stage took."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Poses", "StageTimes", "lap"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Poses:
    """The persons of one picture.

    Attributes:
        keypoints: (n, k, 2) float32 picture pixels, NaN where a joint is missing.
        scores: (n, k) float32 from 0 to 1.
        covariance: (n, k, 2, 2) float32 in square pixels, or None.
        person_scores: (n,) float32 from 0 to 1.
        boxes: (n, 4) float32 xyxy pixels: where each was looked for, or, bottom-up, where its joints are.
        truncated: a limit on the number of persons was hit.
    """

    keypoints: Floats
    scores: Floats
    covariance: Floats | None
    person_scores: Floats
    boxes: Floats
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.person_scores)

    def take(self, rows: NDArray[np.int64], *, truncated: bool = False) -> Poses:
        """The persons of these rows, in this order; `truncated` where it was so or is said to be."""
        return Poses(
            self.keypoints[rows],
            self.scores[rows],
            None if self.covariance is None else self.covariance[rows],
            self.person_scores[rows],
            self.boxes[rows],
            self.truncated or truncated,
        )


@dataclass
class StageTimes:
    """Milliseconds per stage, summed over the batches of a call."""

    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0


def lap(times: StageTimes, stage: str, since: float) -> float:
    """Add the time since `since` to a stage; return the time now."""
    now = time.perf_counter()
    setattr(times, stage, getattr(times, stage) + (now - since) * 1e3)
    return now
