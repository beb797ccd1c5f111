"""The boxes of any detector, checked; and a bottom-up model as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgepose._inputs import check_boxes, has_area, overlaps
from edgepose.detectors.onnx import OnnxDetector
from edgepose.pipeline.bottomup import keypoint_boxes
from edgepose.pipeline.gpu.device_picture import DevicePicture
from edgepose.pipeline.topdown import PersonBoxes
from edgepose.result import PoseResult

__all__ = ["MARGIN", "Detector", "PersonFinder", "detect", "person_boxes"]

Picture = NDArray[np.uint8]
Detector = Callable[[Picture], ArrayLike]
"""From a BGR picture to boxes (n, 4) xyxy or (n, 5) with a score."""

MARGIN = 0.1
"""How far boxes reach beyond the joints, on each side, as a share of the longer side: joints lie within
the body, whose outline is what top-down models are trained with."""
MIN_JOINTS = 3
"""Persons with fewer joints give no box: it would say little about where the body is."""

_log = logging.getLogger("edgepose")


class PersonFinder:
    """Takes the persons of a bottom-up estimator.

    Args:
        estimate: from a list of BGR uint8 pictures to the result of each, persons by falling score, not
            yet cut to a number: those that give no box must not take the places of others.
        max_persons: at most so many boxes are found in a picture, the best.
    """

    def __init__(self, estimate: Callable[[list[Picture]], Sequence[PoseResult]], max_persons: int) -> None:
        self._estimate = estimate
        self._max_persons = max_persons

    def find(self, images: Sequence[Picture]) -> list[tuple[NDArray[np.float32], bool]]:
        """Find the persons of all pictures by one call of the estimator.

        Returns:
            Per picture the boxes, see `person_boxes`, and whether a limit on their number was hit.
        """
        results = self._estimate(list(images))
        boxes = [person_boxes(result) for result in results]
        limit = self._max_persons
        return [
            (found[:limit], result.truncated or len(found) > limit)
            for found, result in zip(boxes, results, strict=True)
        ]


def detect(
    detector: Detector | PersonFinder | OnnxDetector,
    images: Sequence[Picture],
    max_persons: int,
    padding: float,
) -> list[PersonBoxes]:
    """The boxes of a detector in each picture that can be used, at most so many, the best.

    Raises:
        InvalidInputError: what the detector returned are no boxes.
    """
    found: Iterable[tuple[ArrayLike, bool]]
    if isinstance(detector, (PersonFinder, OnnxDetector)):
        found = detector.find(images)
    else:
        found = ((detector(_as_given(image)), False) for image in images)
    persons = []
    for image, (given, truncated) in zip(images, found, strict=True):
        boxes, scores = check_boxes(given, "the detector's boxes")
        usable = has_area(boxes) & overlaps(boxes, image.shape[:2])
        if not usable.all():
            _log.warning("dropped %d empty or outside boxes of the detector", int((~usable).sum()))
            boxes, scores = boxes[usable], scores[usable]
        if len(boxes) > max_persons:
            truncated = True
            best = np.sort(np.argsort(-scores, kind="stable")[:max_persons])
            boxes, scores = boxes[best], scores[best]
        persons.append(PersonBoxes(boxes, scores, padding, truncated))
    return persons


def _as_given(image: Picture) -> Any:
    """A picture as the caller gave it, also where it lies in device memory."""
    return image.owner if isinstance(image, DevicePicture) else image


def person_boxes(result: PoseResult) -> NDArray[np.float32]:
    """Boxes (n, 4) xyxy around the joints of the persons that have enough, in their order, in the picture.

    They carry no score: a bottom-up person's counts missing joints as 0, which says nothing of the box, and
    would sink the score of the top-down pose in it.
    """
    joints = np.isfinite(result.keypoints).all(axis=2).sum(axis=1)
    boxes = keypoint_boxes(result.keypoints)  # those left by `keypoint_threshold`
    margin = MARGIN * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None]
    height, width = result.image_size
    last = np.array([width - 1, height - 1], np.float32)
    low, high = np.clip(boxes[:, :2] - margin, 0, last), np.clip(boxes[:, 2:] + margin, 0, last)
    found = np.concatenate([low, high], axis=1)
    usable = (joints >= MIN_JOINTS) & (high > low).all(axis=1)
    return np.asarray(found[usable], np.float32)
