"""`PoseResult`: the poses found in one picture, with names, scores, export and drawing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgepose.errors import EdgePoseError, InvalidInputError
from edgepose.optional import require
from edgepose.skeleton import SKELETONS, Skeleton

if TYPE_CHECKING:
    import pandas
    import supervision

__all__ = ["Joint", "Person", "PoseResult", "Source", "Timings"]


class Joint(NamedTuple):
    """One joint: pixel coordinates (NaN when missing) and a score from 0 to 1."""

    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Timings:
    """Milliseconds spent in each stage of one call.

    Attributes:
        preprocess: cropping, resizing and normalising.
        inference: the network.
        postprocess: decoding the heatmaps and mapping the joints back to the picture.
        total: the whole call from decoded pixels to result, a detector included; reading the file
            is not included.

    The results of a batched call each carry an equal share of the call's times.
    """

    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Source:
    """Where a picture came from.

    Attributes:
        path: file name, ``"camera:0"``, or the address of a stream without user and password.
        frame: number of the frame from 0 in a video or camera stream, those that were passed over or dropped
            counted; None for a still picture.
        time_ms: position of the frame in a video, in milliseconds; of a camera or live stream the time since
            its first frame.
        captured_ms: when the frame of a video, camera or stream was there, decoded, and of a video that is
            read at its pace when its turn came: milliseconds of `time.monotonic`.
        index: place of the source among several that run together, from 0; None for a single one.
    """

    path: str
    frame: int | None = None
    time_ms: float | None = None
    captured_ms: float | None = None
    index: int | None = None

    def __str__(self) -> str:
        return self.path if self.frame is None else f"{self.path} frame {self.frame}"


class Person(Mapping[str, Joint]):
    """One person of a `PoseResult`: a mapping from joint names to `Joint`.

    Attributes:
        skeleton: the joints and their names.
        keypoints: (k, 2) float32 pixel x, y; NaN where missing.
        scores: (k,) float32 joint scores.
        box: (4,) float32 xyxy pixels.
        score: score of the person.
        covariance: (k, 2, 2) float32 in square pixels, or None.
        track_id: identity over time, or None.
    """

    __slots__ = ("box", "covariance", "keypoints", "score", "scores", "skeleton", "track_id")

    def __init__(self, result: PoseResult, index: int) -> None:
        self.skeleton = result.skeleton
        self.keypoints = result.keypoints[index]
        self.scores = result.scores[index]
        self.box = result.boxes[index]
        self.score = float(result.person_scores[index])
        self.covariance = None if result.covariance is None else result.covariance[index]
        self.track_id = None if result.track_ids is None else int(result.track_ids[index])

    def __getitem__(self, joint: str) -> Joint:
        try:
            index = self.skeleton.joints.index(joint)
        except ValueError:
            raise KeyError(
                f"skeleton {self.skeleton.name!r} has no joint {joint!r}; "
                f"it has {', '.join(self.skeleton.joints)}"
            ) from None
        x, y = self.keypoints[index].tolist()
        return Joint(x, y, float(self.scores[index]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.skeleton.joints)

    def __len__(self) -> int:
        return len(self.skeleton)

    def __repr__(self) -> str:
        present = int(np.isfinite(self.keypoints[:, 0]).sum())
        return f"Person({self.skeleton.name}, {present} of {len(self)} joints, score {self.score:.2f})"


@dataclass(frozen=True, eq=False)
class PoseResult:
    """The poses of one picture: n persons with k joints each. Immutable, well formed for n = 0 too.

    An integer index gives a `Person`; a slice, mask or index array gives a `PoseResult`.

    Attributes:
        keypoints: (n, k, 2) float32, pixel x, y in the picture, an integer being a pixel's centre;
            NaN where a joint is missing.
        scores: (n, k) float32 in [0, 1].
        boxes: (n, 4) float32 xyxy pixels: the box that each person was looked for in, or, of bottom-up
            models, the smallest around its joints.
        person_scores: (n,) float32 in [0, 1].
        skeleton: names, edges and flip pairs of the joints.
        image_size: (height, width) of the picture.
        covariance: (n, k, 2, 2) float32 in square pixels, second moments of the decoder's
            distribution; None where the decoder gives none.
        track_ids: (n,) int64 identities over time, or None.
        timings: milliseconds per stage.
        source: where the picture came from, or None for an array.
        truncated: a limit on the number of persons was hit, so that some may be missing.

    Raises:
        InvalidInputError: an array has the wrong shape or a score is not a number.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    person_scores: NDArray[np.float32]
    skeleton: Skeleton
    image_size: tuple[int, int]
    covariance: NDArray[np.float32] | None = None
    track_ids: NDArray[np.int64] | None = None
    timings: Timings = field(default_factory=Timings)
    source: Source | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        n = np.shape(self.keypoints)[0] if np.ndim(self.keypoints) else 0
        k = len(self.skeleton)
        shapes = {
            "keypoints": (n, k, 2),
            "scores": (n, k),
            "boxes": (n, 4),
            "person_scores": (n,),
            "covariance": (n, k, 2, 2),
            "track_ids": (n,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name in ("covariance", "track_ids"):
                continue
            array = _array(name, value, shape, np.int64 if name == "track_ids" else np.float32)
            if name.endswith("scores"):
                if np.isnan(array).any():
                    raise InvalidInputError(f"PoseResult.{name} holds NaN; give numbers from 0 to 1")
                np.clip(array, 0, 1, out=array)
            elif name == "keypoints":
                array[~np.isfinite(array).all(axis=2)] = np.nan
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def _made(cls, fields: dict[str, Any]) -> PoseResult:
        """A result of all its fields, in the form that they have in a result: neither checked nor copied.

        For each frame of a stream that takes less time than the constructor.
        """
        for value in fields.values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        result = object.__new__(cls)
        result.__dict__.update(fields)
        return result

    def _with(self, **changes: Any) -> PoseResult:
        """A copy with other fields, as for `_made`."""
        return self._made({**self.__dict__, **changes})

    @classmethod
    def empty(cls, skeleton: Skeleton, image_size: tuple[int, int], **fields: Any) -> PoseResult:
        """A result with no persons; `fields` as in the constructor."""
        k = len(skeleton)
        return cls(
            keypoints=np.zeros((0, k, 2), np.float32),
            scores=np.zeros((0, k), np.float32),
            boxes=np.zeros((0, 4), np.float32),
            person_scores=np.zeros(0, np.float32),
            skeleton=skeleton,
            image_size=image_size,
            **fields,
        )

    def __len__(self) -> int:
        return len(self.person_scores)

    def __iter__(self) -> Iterator[Person]:
        return (Person(self, i) for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Person: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any] | list[int] | list[bool]) -> PoseResult: ...
    def __getitem__(self, index: int | slice | NDArray[Any] | list[int] | list[bool]) -> Person | PoseResult:
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            return Person(self, int(index))
        if isinstance(index, list) and not index:
            index = slice(0)
        return replace(self, **self._rows(index))

    def _rows(self, index: Any) -> dict[str, Any]:
        """The fields of some of the persons."""
        return {
            "keypoints": self.keypoints[index],
            "scores": self.scores[index],
            "boxes": self.boxes[index],
            "person_scores": self.person_scores[index],
            "covariance": None if self.covariance is None else self.covariance[index],
            "track_ids": None if self.track_ids is None else self.track_ids[index],
        }

    def __repr__(self) -> str:
        height, width = self.image_size
        persons = "1 person" if len(self) == 1 else f"{len(self)} persons"
        source = "" if self.source is None else f", {self.source}"
        return f"PoseResult({persons}, {self.skeleton.name}, {width}x{height}{source})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form, a missing joint's coordinates being None; `from_dict` reads it back.

        A known skeleton is given by its name, any other in full; times are rounded to microseconds.
        """
        known = SKELETONS.get(self.skeleton.name) == self.skeleton
        persons = []
        points = np.concatenate([self.keypoints, self.scores[:, :, None]], axis=2)
        for i in range(len(self)):
            person: dict[str, Any] = {
                "score": _plain(self.person_scores[i : i + 1])[0],
                "box": _plain(self.boxes[i]),
                "keypoints": dict(zip(self.skeleton.joints, _plain(points[i]), strict=True)),
            }
            if self.covariance is not None:
                person["covariance"] = _plain(self.covariance[i])
            if self.track_ids is not None:
                person["track_id"] = int(self.track_ids[i])
            persons.append(person)
        return {
            "source": None if self.source is None else asdict(self.source),
            "image_size": list(self.image_size),
            "skeleton": self.skeleton.name if known else self.skeleton.to_dict(),
            "persons": persons,
            "truncated": self.truncated,
            "timings": {stage: round(ms, 3) for stage, ms in asdict(self.timings).items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PoseResult:
        """Read what `to_dict` wrote.

        Raises:
            InvalidInputError: a field is missing or not usable.
        """
        try:
            name = data["skeleton"]
            skeleton = SKELETONS[name] if isinstance(name, str) else Skeleton.from_dict(name)
            height, width = data["image_size"]
            source, persons = data["source"], data["persons"]
            fields: dict[str, Any] = {
                "source": None if source is None else Source(**source),
                "truncated": bool(data["truncated"]),
                "timings": Timings(**data["timings"]),
            }
            if not persons:
                return cls.empty(skeleton, (int(height), int(width)), **fields)
            points = np.array(
                [[p["keypoints"][joint] for joint in skeleton.joints] for p in persons], np.float32
            )
            for name in ("covariance", "track_id"):
                if name in persons[0]:
                    dtype = np.int64 if name == "track_id" else np.float32
                    key = "track_ids" if name == "track_id" else name
                    fields[key] = np.array([p[name] for p in persons], dtype)
            return cls(
                keypoints=points[:, :, :2],
                scores=points[:, :, 2],
                boxes=np.array([p["box"] for p in persons], np.float32),
                person_scores=np.array([p["score"] for p in persons], np.float32),
                skeleton=skeleton,
                image_size=(int(height), int(width)),
                **fields,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, EdgePoseError):
                raise
            raise InvalidInputError(
                f"not a PoseResult; {type(error).__name__}: {error}; give what to_dict returns"
            ) from error

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON text; a missing joint's coordinates are null."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict[str, Any]]:
        """The persons in COCO's format for keypoint results, which pycocotools' ``loadRes`` reads.

        ``keypoints`` is x, y, v per joint with v = 1, or 0, 0, 0 where a joint is missing; ``bbox`` is
        x, y, width, height. The additional keys ``keypoint_scores`` and, where there are tracks, ``track_id``
        hold the joint scores and the identity.
        """
        persons = []
        present = np.isfinite(self.keypoints[:, :, 0])
        points = np.concatenate([np.nan_to_num(self.keypoints), present[:, :, None]], axis=2)
        boxes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        for i in range(len(self)):
            track = {} if self.track_ids is None else {"track_id": int(self.track_ids[i])}
            persons.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "keypoints": _plain(points[i].astype(np.float32).reshape(-1)),
                    "keypoint_scores": _plain(self.scores[i]),
                    "bbox": _plain(boxes[i]),
                    "score": _plain(self.person_scores[i : i + 1])[0],
                    **track,
                }
            )
        return persons

    def to_dataframe(self) -> pandas.DataFrame:
        """A pandas table in long format: one row per person and joint.

        Columns: ``source, frame, person, track_id, person_score, joint, x, y, score``.

        Raises:
            BackendUnavailableError: pandas is not installed.
        """
        pd = require("pandas", "PoseResult.to_dataframe", "pandas")
        n, k = self.scores.shape
        ids = [None] * n if self.track_ids is None else self.track_ids.tolist()
        return pd.DataFrame(
            {
                "source": pd.Series([self.source and self.source.path] * (n * k), dtype="object"),
                "frame": pd.array([self.source and self.source.frame] * (n * k), dtype="Int64"),
                "person": np.repeat(np.arange(n), k),
                "track_id": pd.array([i for i in ids for _ in range(k)], dtype="Int64"),
                "person_score": np.repeat(self.person_scores, k),
                "joint": pd.Series(list(self.skeleton.joints) * n, dtype="str"),
                "x": self.keypoints[:, :, 0].reshape(-1),
                "y": self.keypoints[:, :, 1].reshape(-1),
                "score": self.scores.reshape(-1),
            }
        )

    def to_supervision(self) -> supervision.KeyPoints:
        """A ``supervision.KeyPoints``; missing joints are at (0, 0), as supervision marks them.

        ``data["covariance"]`` holds the covariance where there is one.

        Raises:
            BackendUnavailableError: supervision is not installed.
        """
        sv = require("supervision", "PoseResult.to_supervision", "supervision")
        names = sv.KeyPoints.__dataclass_fields__
        fields: dict[str, Any] = {
            "xy": np.nan_to_num(self.keypoints),
            "class_id": np.zeros(len(self), int),
            "data": {} if self.covariance is None else {"covariance": self.covariance.copy()},
        }
        fields["keypoint_confidence" if "keypoint_confidence" in names else "confidence"] = self.scores.copy()
        if "detection_confidence" in names:
            fields["detection_confidence"] = self.person_scores.copy()
        key_points: supervision.KeyPoints = sv.KeyPoints(**fields)
        return key_points

    def to_detections(self) -> supervision.Detections:
        """The persons' boxes, scores and tracks as ``supervision.Detections``, all of class 0.

        Raises:
            BackendUnavailableError: supervision is not installed.
        """
        sv = require("supervision", "PoseResult.to_detections", "supervision")
        detections: supervision.Detections = sv.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.person_scores.copy(),
            class_id=np.zeros(len(self), int),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
        )
        return detections

    def draw(self, image: NDArray[np.uint8], **options: Any) -> NDArray[np.uint8]:
        """Draw the poses on a copy of the picture; the options are those of `edgepose.draw_pose`."""
        from edgepose.drawing import draw_pose

        return draw_pose(image, self, **options)


def _array(name: str, value: ArrayLike, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """A private copy of a field, checked."""
    try:
        array: NDArray[Any] = np.array(value, dtype)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"PoseResult.{name} is not an array of numbers; found {error}") from error
    if array.shape != shape:
        raise InvalidInputError(
            f"PoseResult.{name} has the wrong shape; found {array.shape}, expected {shape}"
        )
    return array


def _plain(values: NDArray[np.float32]) -> list[Any]:
    """Nested lists with the shortest decimals that read back as the same float32; NaN as None."""
    decimals: NDArray[Any] = values.astype("U").astype(np.float64).astype(object)
    decimals[~np.isfinite(values)] = None
    return decimals.tolist()  # type: ignore[no-any-return]
