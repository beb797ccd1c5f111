"""`Tracker`: a person keeps the same number from frame to frame."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepose._assignment import assign
from edgepose._clock import Clock
from edgepose._inputs import check_number, check_result, check_switch, name_nearest
from edgepose.detectors import person_boxes
from edgepose.errors import InvalidInputError
from edgepose.oks import oks_and_common
from edgepose.pipeline.bottomup import keypoint_boxes
from edgepose.result import PoseResult
from edgepose.skeleton import Skeleton

__all__ = ["Tracker"]

COMMON_JOINTS = 3
"""Poses with fewer joints in common are compared by their boxes."""
BOX_OVERLAP = 0.3
"""Persons for whom no similar pose is found are also paired by boxes that overlap so much."""
MEMORY = 0.15
"""Time constant of the velocities in seconds: about so long a past they are the mean of."""
BODY_GLIDE = 1.0
JOINT_GLIDE = 0.1
"""Time constants in seconds at which predicted motion dies away: that of the body as a whole, and that of the
joints in it. Limbs swing to and fro, bodies go on."""

_log = logging.getLogger("edgepose")

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass
class _Tracks:
    """What is known of each of m persons, as of when they were last seen."""

    ids: Indices  # (m,), 0 until there are enough hits
    hits: Indices  # (m,) results in which they were found
    age: Floats  # (m,) seconds since they were last seen
    joints: Floats  # (m, k, 2) pixels, NaN where a joint was never seen
    velocity: Floats  # (m, k, 2) pixels per second
    body: Floats  # (m, 1, 2) velocity of the whole person
    area: Floats  # (m,) square pixels

    @classmethod
    def new(cls, joints: Floats, area: Floats) -> _Tracks:
        m = len(joints)
        return cls(
            ids=np.zeros(m, np.int64),
            hits=np.ones(m, np.int64),
            age=np.zeros(m),
            joints=joints,
            velocity=np.zeros_like(joints),
            body=np.zeros((m, 1, 2)),
            area=area,
        )

    def take(self, which: NDArray[np.bool_]) -> _Tracks:
        return _Tracks(*(getattr(self, field.name)[which] for field in fields(self)))

    def join(self, other: _Tracks) -> _Tracks:
        names = [field.name for field in fields(self)]
        return _Tracks(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))


@dataclass
class _Persons:
    """The persons of a result that can be followed."""

    index: Indices  # (n,) places in the result
    joints: Floats  # (n, k, 2)
    boxes: NDArray[np.float32]  # (n, 4) around the joints
    area: Floats  # (n,) square pixels
    scores: NDArray[np.float32]  # (n,)

    @classmethod
    def of(cls, result: PoseResult, min_score: float) -> _Persons:
        boxes = keypoint_boxes(result.keypoints)
        sides = _sides(boxes)
        # A person seen from the side, or lying, has a narrow box.
        area = np.maximum(sides[:, 0] * sides[:, 1], np.square(sides).max(axis=1) / 4)
        joints = result.keypoints.astype(np.float64)
        persons = cls(np.arange(len(result)), joints, boxes, area, result.person_scores)
        usable = (result.person_scores >= min_score) & np.isfinite(joints[:, :, 0]).any(axis=1)
        return persons if usable.all() else persons.take(usable)

    def take(self, which: NDArray[np.bool_]) -> _Persons:
        return _Persons(*(getattr(self, field.name)[which] for field in fields(self)))


class Tracker:
    """Gives the persons of a stream numbers that stay with them.

    The poses of a result are compared with those that the motion of the persons so far predicts, and are
    paired so that the sum of the similarities is greatest. Who is not found, hidden by others for instance,
    is waited for. Each stream needs a tracker of its own; the same results give the same numbers.

    Args:
        method: how poses are compared: ``"oks"`` by object keypoint similarity (COCO's, over the joints that
            both have), and by the overlap of the boxes around the joints where fewer than three are common or
            nothing similar is found; ``"iou"`` by that overlap alone.
        threshold: pairs that are less similar, from 0 to 1, are not the same person.
        nms_threshold: of persons of one result that are more similar, by object keypoint similarity, one is
            kept: the better, or the one that goes on where a person was. None: all.
        max_age: a person who was not seen for more seconds comes back as a new one.
        min_hits: in so many results in a row a person must be seen to get a number.
        min_score: persons with a lower score are ignored.
        start_score: nobody new is followed with a lower score.
        motion: predict where persons are from how they moved; False: look for them where they were.
        fps: results per second, where neither they nor the caller know the time.

    Raises:
        InvalidInputError: an option is out of range.
        TypeError: an unknown keyword; the message names the nearest one.
    """

    @name_nearest
    def __init__(
        self,
        *,
        method: Literal["oks", "iou"] = "oks",
        threshold: float = 0.2,
        nms_threshold: float | None = 0.4,
        max_age: float = 2.0,
        min_hits: int = 3,
        min_score: float = 0.1,
        start_score: float = 0.2,
        motion: bool = True,
        fps: float = 30.0,
    ) -> None:
        if method not in ("oks", "iou"):
            raise InvalidInputError(f"method is not known; found {method!r}; give 'oks' or 'iou'")
        check_number("threshold", threshold, 0, 1)
        if nms_threshold is not None:
            check_number("nms_threshold", nms_threshold, 0, 1)
        check_number("max_age", max_age, 0, None)
        check_number("min_hits", min_hits, 1, None, whole=True)
        check_number("min_score", min_score, 0, 1)
        check_number("start_score", start_score, 0, 1)
        check_switch("motion", motion)
        check_number("fps", fps, 1e-3, None)
        self._method = method
        self._threshold = threshold
        self._nms_threshold = nms_threshold
        self._max_age = max_age
        self._min_hits = min_hits
        self._min_score = min_score
        self._start_score = start_score
        self._motion = motion
        self._fps = fps
        self.reset()

    def reset(self) -> None:
        """Forget everybody, as before a new stream; numbers begin at 1 again."""
        self._clock = Clock(self._fps)
        self._step = 0.0
        self._told_gap = False
        self._last_id = 0
        self._stream: tuple[Skeleton, tuple[int, int]] | None = None
        self._tracks: _Tracks | None = None

    def update(self, result: PoseResult, timestamp: float | None = None) -> PoseResult:
        """Number the persons of the stream's next result.

        Args:
            result: the poses; its own ``track_ids`` are not used.
            timestamp: when the picture was taken, in seconds; None: from ``result.source`` by its time in
                the video or the number of its frame, else ``1 / fps`` after the last.

        Returns:
            The result with ``track_ids`` (n,) int64, from 1 in the order in which persons got them, none
            twice, none ever given to another person. Persons who have no number are left out.

        Raises:
            InvalidInputError: the skeleton or the size of the pictures changed, or the timestamp did not
                grow.
        """
        check_result(result)
        height, width = result.image_size
        stream = (result.skeleton, (height, width))
        if self._stream is not None and stream != self._stream:
            skeleton, (old_height, old_width) = self._stream
            raise InvalidInputError(
                f"a tracker follows one stream; found {result.skeleton.name!r} at {width}x{height} after "
                f"{skeleton.name!r} at {old_width}x{old_height}; call reset(), or use one for each stream"
            )
        self._step = self._clock.step(result, timestamp)
        self._stream = stream
        if self._step > self._max_age and self._tracks is not None and len(self._tracks.ids):
            self._tell_gap()
        tracks = self._tracks or _Tracks.new(np.zeros((0, len(result.skeleton), 2)), np.zeros(0))
        tracks.age += self._step
        recent = tracks.age <= self._max_age + 1e-9  # ages are sums of rounded steps
        if not recent.all():
            tracks = tracks.take(recent)
        persons = _Persons.of(result, self._min_score)
        predicted = self._predict(tracks, 0.0)
        rows, columns, persons = self._pair(tracks, predicted, persons, result.skeleton)

        self._observe(tracks, rows, predicted[rows], persons.joints[columns], persons.area[columns])
        place = np.full(len(tracks.ids), -1)  # of each track in the result
        place[rows] = persons.index[columns]
        keep = (place >= 0) | (tracks.ids > 0)
        if not keep.all():
            tracks, place = tracks.take(keep), place[keep]
        fresh = persons.scores >= self._start_score
        fresh[columns] = False
        if fresh.any():
            born = persons.take(fresh)
            tracks = tracks.join(_Tracks.new(born.joints, born.area))
            place = np.concatenate([place, born.index])
        self._tracks = tracks
        return self._numbered(result, place)

    def predict_boxes(self, ahead: float | None = None) -> NDArray[np.float32]:
        """Where to look for the persons of the last result in the next picture, without a detector.

        Args:
            ahead: so many seconds after the last result; None: as long as from the one before.

        Returns:
            (n, 4) xyxy pixels: boxes around the joints that the motion predicts, with a margin, within the
            picture; also of persons who have no number yet. Those with fewer than three joints give none.

        Raises:
            InvalidInputError: `ahead` is negative or no number.
        """
        if ahead is not None:
            check_number("ahead", ahead, 0, None)
        if self._tracks is None or self._stream is None:
            return np.zeros((0, 4), np.float32)
        seen = self._tracks.take(self._tracks.age == 0)
        n, k = seen.joints.shape[:2]
        skeleton, size = self._stream
        expected = PoseResult(
            keypoints=self._predict(seen, self._step if ahead is None else ahead).astype(np.float32),
            scores=np.zeros((n, k), np.float32),
            boxes=np.zeros((n, 4), np.float32),
            person_scores=np.zeros(n, np.float32),
            skeleton=skeleton,
            image_size=size,
        )
        return person_boxes(expected)

    def _tell_gap(self) -> None:
        """Log the first time that all are forgotten, which at a slow pace happens at each result."""
        if not self._told_gap:
            self._told_gap = True
            _log.warning(
                "everybody is forgotten between two results; found %.3g s from one to the other, and max_age "
                "is %g; raise it where results come so slowly (told once)",
                self._step,
                self._max_age,
            )

    def _predict(self, tracks: _Tracks, ahead: float) -> Floats:
        """Joints (m, k, 2) so many seconds after the last result."""
        if not self._motion:
            return tracks.joints
        time = (tracks.age + ahead)[:, None, None]
        limbs = tracks.velocity - tracks.body
        return tracks.joints + _glide(tracks.body, time, BODY_GLIDE) + _glide(limbs, time, JOINT_GLIDE)

    def _pair(
        self, tracks: _Tracks, predicted: Floats, persons: _Persons, skeleton: Skeleton
    ) -> tuple[Indices, Indices, _Persons]:
        """Pairs of tracks and persons, and the persons without duplicates that the pairs index."""
        sigmas = skeleton.sigmas
        by_boxes = _Overlaps(predicted, persons.boxes)
        if self._method == "iou":
            similarity = by_boxes.table()
        else:
            similarity, common = oks_and_common(predicted, persons.joints, tracks.area, persons.area, sigmas)
            if common.size and common.min() < COMMON_JOINTS:
                similarity = np.where(common >= COMMON_JOINTS, similarity, by_boxes.table())
        if self._nms_threshold is not None and len(persons.index) > 1:
            alike, common = oks_and_common(persons.joints, persons.joints, persons.area, persons.area, sigmas)
            own = np.minimum(common.diagonal(), COMMON_JOINTS)
            same = (alike > self._nms_threshold) & (common >= np.minimum(own, own[:, None]))
            single = _without_duplicates(same, persons.scores + similarity.max(axis=0, initial=0))
            if not single.all():
                persons, similarity = persons.take(single), similarity[:, single]
                by_boxes = _Overlaps(predicted, persons.boxes)
        # Those who have a number choose first; what a fast or badly estimated movement made too different is
        # found by boxes.
        steps: list[tuple[Callable[[], Floats], float]] = [(lambda: similarity, self._threshold)]
        if self._method == "oks":
            steps.append((by_boxes.table, BOX_OVERLAP))
        rows = columns = np.zeros(0, np.int64)
        for group in (tracks.ids > 0, tracks.ids == 0):
            if not group.any():
                continue
            for table, least in steps:
                if len(columns) < len(persons.index):
                    left = np.where(group[:, None], table(), 0)
                    left[rows], left[:, columns] = 0, 0
                    more, others = assign(left, least)
                    rows, columns = np.concatenate([rows, more]), np.concatenate([columns, others])
        return rows, columns, persons

    def _observe(
        self, tracks: _Tracks, rows: Indices, predicted: Floats, joints: Floats, area: Floats
    ) -> None:
        """Bring tracks up to date with the persons that they were paired with."""
        if not len(rows):
            return
        passed = tracks.age[rows][:, None, None]
        gain = -np.expm1(-passed / MEMORY)
        velocity = tracks.velocity[rows]
        change = (joints - tracks.joints[rows]) / passed - velocity
        velocity += gain * np.where(np.isnan(change), 0, change)
        tracks.velocity[rows] = velocity
        middle = velocity.shape[1] // 2
        tracks.body[rows] = np.sort(velocity, axis=1)[:, middle : middle + 1]  # the median
        tracks.joints[rows] = np.where(np.isnan(joints), predicted, joints)
        tracks.area[rows] += gain[:, 0, 0] * (area - tracks.area[rows])
        tracks.age[rows] = 0
        tracks.hits[rows] += 1

    def _numbered(self, result: PoseResult, place: Indices) -> PoseResult:
        """Number those who have been seen often enough, and leave the others out."""
        tracks = self._tracks
        assert tracks is not None
        order = np.argsort(place, kind="stable")
        order = order[place[order] >= 0]
        ready = order[(tracks.ids[order] == 0) & (tracks.hits[order] >= self._min_hits)]
        tracks.ids[ready] = np.arange(1, len(ready) + 1) + self._last_id
        self._last_id += len(ready)
        shown = order[tracks.ids[order] > 0]
        persons = place[shown]
        return result._with(**{**result._rows(persons), "track_ids": tracks.ids[shown]})


def _glide(velocity: Floats, time: Floats, constant: float) -> Floats:
    """Way of a motion that dies away exponentially."""
    return velocity * (-constant * np.expm1(-time / constant))


class _Overlaps:
    """The overlaps of predicted persons' boxes with others, made when they are asked for: seldom."""

    def __init__(self, predicted: Floats, boxes: NDArray[np.float32]) -> None:
        self._predicted, self._boxes = predicted, boxes
        self._table: Floats | None = None

    def table(self) -> Floats:
        """(m, n), from 0 to 1."""
        if self._table is None:
            self._table = _overlaps(keypoint_boxes(self._predicted.astype(np.float32)), self._boxes)
        return self._table


def _sides(boxes: NDArray[np.float32]) -> Floats:
    """Width and height (n, 2)."""
    return (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)


def _overlaps(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> Floats:
    """Intersection over union of each of m boxes with each of n: (m, n)."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    sides = np.maximum(high - low, 0).astype(np.float64)
    both = sides[..., 0] * sides[..., 1]
    area, other = (_sides(each).prod(axis=1) for each in (boxes, others))
    union = area[:, None] + other - both
    overlaps: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlaps


def _without_duplicates(alike: NDArray[np.bool_], quality: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of n persons stay, given who is like whom (n, n)."""
    single = np.ones(len(quality), np.bool_)
    if np.count_nonzero(alike) > len(quality):  # each is like itself
        for person in np.argsort(-quality, kind="stable"):
            if single[person]:
                single &= ~alike[person]
                single[person] = True
    return single
