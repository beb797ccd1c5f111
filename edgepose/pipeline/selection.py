"""Which of the persons found in a picture are returned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepose.oks import oks_nms
from edgepose.pipeline.poses import Poses

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """Chooses persons by score, similarity and number.

    Attributes:
        score_threshold: those with a lower score are left out.
        nms_threshold: those more similar than this to one with a higher score, by object keypoint similarity,
            are left out; None: none.
        max_persons: of a bottom-up model at most so many are returned, the best.
        sigmas: (k,) of the skeleton.
        top_down: keep the order of the boxes, whose number was limited before; else by falling score.
    """

    score_threshold: float
    nms_threshold: float | None
    max_persons: int
    sigmas: tuple[float, ...]
    top_down: bool

    def __call__(self, poses: Poses, *, everybody: bool = False) -> Poses:
        """The persons to return of all that were found; with `everybody` their number is not limited."""
        scores = poses.person_scores
        rows = np.argsort(-scores, kind="stable").astype(np.int64)
        rows = rows[scores[rows] >= self.score_threshold]
        if self.nms_threshold is not None:
            sides = poses.boxes[rows, 2:] - poses.boxes[rows, :2]
            keypoints, areas = poses.keypoints[rows], sides.prod(axis=1)
            rows = rows[oks_nms(keypoints, scores[rows], areas, self.sigmas, self.nms_threshold)]
        if self.top_down:
            return poses.take(np.sort(rows))
        limit = len(rows) if everybody else self.max_persons
        return poses.take(rows[:limit], truncated=len(rows) > limit)
