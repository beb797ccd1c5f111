"""The people of one source from frame to frame: identities, smoothing, and where they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from edgepose._inputs import has_area, overlaps
from edgepose.detectors import person_boxes
from edgepose.pipeline.poses import Floats
from edgepose.pipeline.topdown import JOINT_SCORE_FLOOR, PersonBoxes, person_score
from edgepose.result import PoseResult

__all__ = ["Follower", "Smooths", "Tracks"]


class Tracks(Protocol):
    """What gives people their identities, as `edgepose.Tracker` does."""

    def update(self, result: PoseResult) -> PoseResult:
        """The result of the next frame, with ``track_ids``."""

    def predict_boxes(self) -> Floats:
        """Boxes (n, 4) xyxy pixels of where the people will be in the next frame."""

    def reset(self) -> None:
        """Forget everybody; identities may begin anew."""


class Smooths(Protocol):
    """What smooths joints over time, as `edgepose.OneEuro` does."""

    def update(self, result: PoseResult) -> PoseResult:
        """The result of the next frame, smoothed."""

    def reset(self) -> None:
        """Forget everybody."""


class Follower:
    """Follows the people of one source.

    Args:
        tracker: gives identities; None: there are none.
        smoother: smooths the joints; None: nothing does.
        detect_every: the detector looks at each n-th frame. In between people are looked for where the
            tracker expects them, without one where they were; the detector is asked earlier once nobody of
            those it found is left.
        padding: by which the model enlarges boxes of persons.
    """

    def __init__(
        self,
        tracker: Tracks | None,
        smoother: Smooths | None,
        detect_every: int,
        padding: float,
    ) -> None:
        self._tracker = tracker
        self._smoother = smoother
        self._detect_every = detect_every
        self._padding = padding
        self._last: PoseResult | None = None
        self._age = 0  # frames since the detector looked, that one included
        self._found = False  # whether it saw anybody
        self._known: PersonBoxes | None = None
        self._ids_before = self._highest_id = 0  # of scenes before this one, and of all

    def boxes(self, image_size: tuple[int, int]) -> PersonBoxes | None:
        """Where to look for people in the next frame, of this (height, width); None: ask the detector."""
        self._see(image_size)
        self._known = None
        if self._last is None or self._age >= self._detect_every:
            return None
        boxes = self._expected(self._last)
        boxes = boxes[has_area(boxes) & overlaps(boxes, image_size)]
        if not len(boxes) and self._found:
            return None
        scores = _box_scores(boxes, self._last)
        self._known = PersonBoxes(boxes, scores, self._padding, self._last.truncated)
        return self._known

    def update(self, result: PoseResult) -> PoseResult:
        """Take the result of the next frame; return it with identities and smoothed.

        Where `boxes` was asked before, it is that frame's; else the detector has looked.
        """
        self._see(result.image_size)
        if self._known is None:
            self._age, self._found = 1, len(result) > 0
        else:
            self._age += 1
        self._last = result
        if self._tracker is not None:
            result = self._never_used_twice(self._tracker.update(result))
        if self._smoother is not None:
            result = self._smoother.update(result)
        return result

    def _see(self, image_size: tuple[int, int]) -> None:
        """Begin anew where a source came back with another size of its pictures: it shows another scene."""
        if self._last is None or self._last.image_size == image_size:
            return
        self._last = None
        self._ids_before = self._highest_id
        for each in (self._tracker, self._smoother):
            if each is not None:
                each.reset()

    def _never_used_twice(self, result: PoseResult) -> PoseResult:
        """The result with identities that come after those of the scenes before."""
        ids = result.track_ids
        if ids is None or not len(ids):
            return result
        if self._ids_before:
            ids = ids + self._ids_before
            result = result._with(track_ids=ids)
        self._highest_id = max(self._highest_id, int(ids.max()))
        return result

    def _expected(self, last: PoseResult) -> Floats:
        if self._tracker is not None:
            return np.asarray(self._tracker.predict_boxes(), np.float32).reshape(-1, 4)
        # Joints that are not seen may lie anywhere in the old box and beyond the body.
        seen = last.scores > JOINT_SCORE_FLOOR
        return person_boxes(
            replace(last, keypoints=np.where(seen[:, :, None], last.keypoints, np.float32(np.nan)))
        )


def _box_scores(boxes: Floats, last: PoseResult) -> Floats:
    """Scores (n,) of boxes: what the detector gave the nearest person of the last result, from its score.

    A top-down person's score is that of its box times that of its joints.
    """
    if not len(boxes) or not len(last):
        return np.ones(len(boxes), np.float32)
    joints = person_score(last.scores)
    given = np.clip(last.person_scores / np.maximum(joints, 1e-6), 0, 1)
    distance = np.abs(boxes[:, None] - last.boxes[None]).sum(axis=2)
    return np.asarray(given[distance.argmin(axis=1)], np.float32)
