"""Boxes of persons for top-down models, found by a bottom-up one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgepose.pipeline.bottomup import keypoint_boxes
from edgepose.result import PoseResult

__all__ = ["PersonFinder", "person_boxes"]

MARGIN = 0.1
"""How far boxes reach beyond the joints, on each side, as a share of the longer side: joints lie within
the body, whose outline is what top-down models are trained with."""
MIN_JOINTS = 3
"""Persons with fewer joints give no box: it would say little about where the body is."""


class PersonFinder:
    """A detector that takes the persons of a bottom-up estimator.

    Args:
        estimator: called with a BGR uint8 picture.
    """

    def __init__(self, estimator: Callable[[NDArray[np.uint8]], PoseResult]) -> None:
        self.estimator = estimator

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Boxes of the persons in a picture: (n, 5) float32 xyxy in pixels and score."""
        return self.find(image)[0]

    def find(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], bool]:
        """The boxes, and whether a limit on the number of persons was hit."""
        result = self.estimator(image)
        return person_boxes(result), result.truncated


def person_boxes(result: PoseResult) -> NDArray[np.float32]:
    """Boxes (n, 5), xyxy and score, around the joints of the persons that have enough, within the picture."""
    joints = np.isfinite(result.keypoints).all(axis=2).sum(axis=1)
    boxes = keypoint_boxes(result.keypoints)  # those left by `keypoint_threshold`
    margin = MARGIN * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None]
    height, width = result.image_size
    last = np.array([width - 1, height - 1], np.float32)
    low, high = np.clip(boxes[:, :2] - margin, 0, last), np.clip(boxes[:, 2:] + margin, 0, last)
    found = np.concatenate([low, high, result.person_scores[:, None]], axis=1)
    usable = (joints >= MIN_JOINTS) & (high > low).all(axis=1)
    return np.asarray(found[usable], np.float32)
