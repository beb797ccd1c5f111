"""`OneEuro`: joints that stand still where the person does, and follow at once where the person moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepose._clock import Clock
from edgepose._inputs import check_number, check_result, name_nearest
from edgepose.errors import InvalidInputError
from edgepose.pipeline.bottomup import keypoint_boxes
from edgepose.result import PoseResult
from edgepose.skeleton import Skeleton

__all__ = ["OneEuro"]

FORGET = 2.0
"""The past of persons who were not seen for more seconds is dropped."""
LEAST_TRUST = 0.2
"""Share of the cutoff frequency that a joint of score 0 gets; one of score 1 gets all of it."""

Floats = NDArray[np.float64]


@dataclass
class _Past:
    """Smoothed joints of m persons and, last, of nobody: NaN."""

    rows: dict[int, int]  # of each track
    time: Floats  # (m + 1,) seconds
    joints: Floats  # (m + 1, k, 2) pixels
    velocity: Floats  # (m + 1, k, 2) pixels per second
    covariance: Floats | None  # (m + 1, k, 2, 2) square pixels

    @classmethod
    def empty(cls, skeleton: Skeleton) -> _Past:
        nobody = np.full((1, len(skeleton), 2), np.nan)
        return cls({}, np.zeros(1), nobody, nobody, None)


class OneEuro:
    """The 1 Euro filter (Casiez, Roussel and Vogel, CHI 2012) for each joint of each person of a stream.

    A low-pass filter whose cutoff frequency rises with speed: little jitter at rest, little lag in motion.
    Speed is measured in sizes of the person per second, the size being the longer side of the box around the
    joints, so that the same options serve near and far persons and all picture sizes. Joints with a
    lower score are smoothed more. Each stream needs a filter of its own.

    Args:
        min_cutoff: cutoff frequency of a joint at rest in Hz; lower: less jitter, more lag.
        beta: how many Hz the cutoff rises per size of the person per second; higher: less lag in motion.
        d_cutoff: cutoff frequency of the speed itself in Hz.
        fps: results per second, where neither they nor the caller know the time.

    Raises:
        InvalidInputError: an option is out of range.
        TypeError: an unknown keyword; the message names the nearest one.
    """

    @name_nearest
    def __init__(
        self, *, min_cutoff: float = 1.0, beta: float = 10.0, d_cutoff: float = 1.0, fps: float = 30.0
    ) -> None:
        check_number("min_cutoff", min_cutoff, 1e-3, None)
        check_number("beta", beta, 0, None)
        check_number("d_cutoff", d_cutoff, 1e-3, None)
        check_number("fps", fps, 1e-3, None)
        self._min_cutoff = min_cutoff
        self._beta = beta
        self._d_cutoff = d_cutoff
        self._fps = fps
        self.reset()

    def reset(self) -> None:
        """Forget everybody, as before a new stream."""
        self._clock = Clock(self._fps)
        self._now = 0.0
        self._skeleton: Skeleton | None = None
        self._past: _Past | None = None

    def update(self, result: PoseResult, timestamp: float | None = None) -> PoseResult:
        """Smooth the joints of the stream's next result.

        Args:
            result: the poses, with ``track_ids`` (of `Tracker`) where there are several persons.
            timestamp: when the picture was taken, in seconds; None: from ``result.source`` by its time in
                the video or the number of its frame, else ``1 / fps`` after the last.

        Returns:
            The result with smoothed ``keypoints``. ``covariance`` becomes the second moments of the mixture
            that the filter makes of the present and the past distributions. Boxes that are those of the
            joints follow them, others stay. A missing joint stays so, and starts anew when it is back.

        Raises:
            InvalidInputError: several persons without ``track_ids``, an id twice, another skeleton than
                before, or a timestamp that did not grow.
        """
        check_result(result)
        ids = self._identities(result)
        if self._skeleton is not None and result.skeleton != self._skeleton:
            raise InvalidInputError(
                f"a filter smooths one stream; found {result.skeleton.name!r} after {self._skeleton.name!r}; "
                "call reset(), or use a filter for each stream"
            )
        self._now += self._clock.step(result, timestamp)
        self._skeleton = result.skeleton
        past = self._past or _Past.empty(result.skeleton)
        rows = np.array([past.rows.get(number, -1) for number in ids], np.int64)

        joints = result.keypoints.astype(np.float64)
        before = past.joints[rows]
        known = ~np.isnan(before + joints)
        passed = np.maximum(self._now - past.time[rows], 1e-6)[:, None, None]
        boxes = keypoint_boxes(result.keypoints)
        share, velocity = self._share(result, joints - before, past.velocity[rows], passed, boxes)
        share, velocity = np.where(known, share, 1), np.where(known, velocity, 0)
        smoothed = np.where(known, before + share * (joints - before), joints)

        covariance = None
        if result.covariance is not None:
            covariance = result.covariance.astype(np.float64)
            if past.covariance is not None:
                moved = np.where(known, joints - before, 0)
                old = np.where(known[..., None], past.covariance[rows], 0)
                part = share[..., None]
                spread = moved[..., :, None] * moved[..., None, :]
                covariance = part * covariance + (1 - part) * (old + part * spread)
        self._remember(past, ids, smoothed, velocity, covariance)

        keypoints = smoothed.astype(np.float32)
        tight = (result.boxes == boxes).all(axis=1, keepdims=True)
        return result._with(
            keypoints=keypoints,
            boxes=np.where(tight, keypoint_boxes(keypoints), result.boxes),
            covariance=None if covariance is None else covariance.astype(np.float32),
        )

    def _identities(self, result: PoseResult) -> list[int]:
        if result.track_ids is None:
            if len(result) > 1:
                raise InvalidInputError(
                    f"smoothing needs to know who is who; found {len(result)} persons without track_ids; "
                    "give the results of Tracker.update, or those of a model for one person"
                )
            return [0] * len(result)
        ids: list[int] = result.track_ids.tolist()
        if len(set(ids)) != len(ids):
            raise InvalidInputError(
                f"track_ids must differ within a result; found {ids}; give the results of Tracker.update"
            )
        return ids

    def _share(
        self, result: PoseResult, moved: Floats, velocity: Floats, passed: Floats, boxes: NDArray[np.float32]
    ) -> tuple[Floats, Floats]:
        """The present's share (n, k, 1) in the smoothed joints, and their velocity (n, k, 2)."""
        velocity = velocity + _weight(self._d_cutoff, passed) * (moved / passed - velocity)
        sides = boxes[:, 2:] - boxes[:, :2]
        size = np.maximum(np.maximum(sides[:, 0], sides[:, 1]), 1)[:, None, None]
        speed = np.hypot(velocity[:, :, :1], velocity[:, :, 1:]) / size
        trust = LEAST_TRUST + (1 - LEAST_TRUST) * result.scores[:, :, None]
        return _weight(trust * (self._min_cutoff + self._beta * speed), passed), velocity

    def _remember(
        self, past: _Past, ids: list[int], joints: Floats, velocity: Floats, covariance: Floats | None
    ) -> None:
        """Keep the present, and the past of those who are not seen now."""
        present = set(ids)
        others = [
            (number, row)
            for number, row in past.rows.items()
            if number not in present and self._now - past.time[row] <= FORGET
        ]
        rest = [row for _, row in others] + [-1]
        if covariance is not None:
            older = past.covariance
            if older is None:
                older = np.full((len(past.time), *covariance.shape[1:]), np.nan)
            covariance = np.concatenate([covariance, older[rest]])
        numbers = ids + [number for number, _ in others]
        self._past = _Past(
            {number: row for row, number in enumerate(numbers)},
            np.concatenate([np.full(len(ids), self._now), past.time[rest]]),
            np.concatenate([joints, past.joints[rest]]),
            np.concatenate([velocity, past.velocity[rest]]),
            covariance,
        )


def _weight(cutoff: float | Floats, passed: Floats) -> Floats:
    """Share of the newest value in a low-pass filter of this cutoff frequency, after so many seconds."""
    ratio = 2 * math.pi * cutoff * passed
    return ratio / (1 + ratio)
