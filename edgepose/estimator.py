"""`Estimator`: any picture in, `PoseResult` out."""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgepose import kernels as kernel_ops
from edgepose.backends import open_backend
from edgepose.errors import BackendUnavailableError, InvalidInputError, ModelNotFoundError
from edgepose.pipeline.topdown import PersonBoxes, TopDown
from edgepose.result import PoseResult, Source, Timings
from edgepose.sources import (
    Frame,
    OnSkip,
    Skip,
    SourceLike,
    check_image,
    is_video,
    log_skip,
    open_source,
    read_image,
)
from edgepose.spec import ModelSpec

__all__ = ["DEFAULT_MODEL", "Estimator", "EstimatorInfo", "resolve_model"]

DEFAULT_MODEL = "lpn50-lsp"
MODELS = Path(__file__).parent / "models"
MAX_COORDINATE = 1e6

ImageLike = str | os.PathLike[str] | NDArray[np.uint8] | Frame
Detector = Callable[[NDArray[np.uint8]], ArrayLike]

_log = logging.getLogger("edgepose")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _name_nearest(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let an unknown keyword raise a TypeError that names the nearest known one."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise TypeError(f"unknown argument {name!r}; {hint}")
        return function(*args, **kwargs)

    return checked


@dataclass(frozen=True)
class EstimatorInfo:
    """What an `Estimator` is made of.

    Attributes:
        path: the model file.
        spec: the description that it carries.
        backend: runtime, version, device and threads.
        kernels: by op, which implementation serves and why no faster one does
            (`edgepose.kernels.Kernels.status`).
    """

    path: Path
    spec: ModelSpec
    backend: dict[str, Any]
    kernels: dict[str, dict[str, str | None]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            "path": str(self.path),
            "spec": self.spec.to_dict(),
            "backend": self.backend,
            "kernels": self.kernels,
        }


def resolve_model(model: str | os.PathLike[str] | None) -> Path:
    """The file of a model: a path as it is, a bare name among the packaged ones, None the default.

    Raises:
        ModelNotFoundError: there is no such file, or no packaged model of that name.
    """
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    path = Path(name)
    try:
        exists, is_file = path.exists(), path.is_file()
    except OSError as error:  # for instance a name that is too long
        raise ModelNotFoundError(f"model not found: {name}; {error.strerror}; check the path") from error
    if not exists and not path.suffix and path.name == name:
        packaged = MODELS / f"{name}.onnx"
        if not packaged.is_file():
            names = ", ".join(sorted(file.stem for file in MODELS.glob("*.onnx"))) or "none"
            raise ModelNotFoundError(
                f"there is no packaged model {name!r}; packaged are: {names}; give one of them, or the "
                "path of an .onnx file"
            )
        return packaged
    if not is_file:
        found = "a directory" if exists else "no such file"
        raise ModelNotFoundError(f"model not found: {name}; found {found}; check the path")
    return path.resolve()


class Estimator:
    """Estimates human poses in pictures.

    May be called from many threads; calls take turns. Pickling carries the recipe (path and
    options), so that a copy in another process opens the model itself; do not use one across a fork.

    Args:
        model: an ``.onnx`` file, the name of a packaged model, or None for the packaged default.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Only ``"auto"`` falls back to the
            CPU, with a logged warning.
        detector: a callable that takes a BGR uint8 picture and returns person boxes, (n, 4) xyxy or
            (n, 5) with a score. It serves calls without ``boxes=``. Without it the whole picture is
            taken as the box of one person.
        score_threshold: persons from the detector with a lower score are dropped. Persons that the
            caller gives by ``boxes=``, and the one of the whole picture, are always returned.
        keypoint_threshold: joints with a lower score become NaN.
        max_persons: at most so many boxes of the detector are used, those with the highest scores;
            the result then says ``truncated``. All boxes given by ``boxes=`` are used.
        flip_test: average with the mirrored picture: more exact, twice the time.
        threads: CPU threads of the network; None for all that this process may use.
        kernels: ``"auto"`` (the fastest that is there, or what the environment variable
            ``EDGEPOSE_KERNELS`` says), ``"native"``, ``"numba"`` or ``"numpy"``.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFormatError: the file is not a usable model.
        BackendUnavailableError: the runtime, device or kernels cannot serve.
        InvalidInputError: an option is out of range.
        TypeError: an unknown keyword; the message names the nearest one.
    """

    @_name_nearest
    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        detector: Detector | None = None,
        score_threshold: float = 0.3,
        keypoint_threshold: float = 0.0,
        max_persons: int = 30,
        flip_test: bool = False,
        threads: int | None = None,
        kernels: str = "auto",
    ) -> None:
        _check_number("score_threshold", score_threshold, 0, 1)
        _check_number("keypoint_threshold", keypoint_threshold, 0, 1)
        _check_number("max_persons", max_persons, 1, None, whole=True)
        if threads is not None:
            _check_number("threads", threads, 1, None, whole=True)
        if not isinstance(flip_test, (bool, np.bool_)):
            raise InvalidInputError(f"flip_test is not usable; found {flip_test!r}; give True or False")
        if detector is not None and not callable(detector):
            raise InvalidInputError(
                f"detector is not callable; found {type(detector).__name__}; give a function from a "
                "picture to boxes (n, 4) or (n, 5)"
            )
        self._path = resolve_model(model)
        self._options: dict[str, Any] = {
            "device": device,
            "detector": detector,
            "score_threshold": score_threshold,
            "keypoint_threshold": keypoint_threshold,
            "max_persons": max_persons,
            "flip_test": flip_test,
            "threads": threads,
            "kernels": kernels,
        }
        self._detector = detector
        self._score_threshold = score_threshold
        self._keypoint_threshold = keypoint_threshold
        self._max_persons = max_persons

        implementation = kernel_ops.get(kernels)
        self._backend = open_backend(self._path, device=device, threads=threads)
        self._pipeline = TopDown(self._backend, implementation, flip_test=flip_test)
        self._info = EstimatorInfo(
            self._path, self._backend.spec, self._backend.describe(), implementation.status()
        )
        self._lock = threading.RLock()  # a detector may call its own estimator
        self._process = os.getpid()
        self._closed = False

    @property
    def info(self) -> EstimatorInfo:
        """The model's spec, and the runtime, device and kernels in use."""
        return self._info

    @overload
    def __call__(self, image: ImageLike, boxes: ArrayLike | None = None) -> PoseResult: ...
    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], boxes: Sequence[ArrayLike | None] | None = None
    ) -> list[PoseResult]: ...
    @_name_nearest
    def __call__(self, image: Any, boxes: Any = None) -> Any:
        """Estimate the poses in a picture, or in a list of pictures by batched runs of the network.

        Args:
            image: path, BGR uint8 array (H, W, 3), `Frame`, or a list of these.
            boxes: person boxes, (n, 4) xyxy in pixels or (n, 5) with a score from 0 to 1; for a list of
                pictures a list of these, None where the detector or the whole picture shall serve.

        Returns:
            A `PoseResult` with one person per box in their order, or a list of results for a list.

        Raises:
            InvalidInputError: a picture or box is not usable; the message names it.
        """
        if not isinstance(image, (list, tuple)):
            return self._estimate([_frame(image, "image")], [boxes], ["boxes"])[0]
        if boxes is None:
            boxes = [None] * len(image)
        if not isinstance(boxes, (list, tuple)) or len(boxes) != len(image):
            count = len(boxes) if isinstance(boxes, (list, tuple)) else type(boxes).__name__
            raise InvalidInputError(
                f"boxes do not fit the pictures; found {count} for {len(image)} pictures; give a list with "
                "one entry per picture"
            )
        frames = [_frame(item, f"image[{i}]") for i, item in enumerate(image)]
        return self._estimate(frames, boxes, [f"boxes[{i}]" for i in range(len(image))])

    @_name_nearest
    def stream(self, source: SourceLike, *, on_skip: OnSkip | None = None) -> Iterator[PoseResult]:
        """Estimate the poses in a directory, video or other source, one picture at a time.

        Nothing is kept between pictures. To have the frames as well, iterate over
        `edgepose.open_source` and call the estimator with each `Frame`.

        Args:
            source: as for `edgepose.open_source`.
            on_skip: called with a `Skip` for each item that cannot be used; by default it is logged as
                a warning. A picture given alone raises instead.

        Returns:
            A lazy iterator over results; `PoseResult.source` tells file and frame.

        Raises:
            InvalidInputError: there is no such source (raised at once).
        """
        frames = open_source(source, on_skip)
        report = on_skip or log_skip

        def results() -> Iterator[PoseResult]:
            for frame in frames:
                try:
                    result = self(frame)
                except InvalidInputError as error:
                    if frames.kind == "image":
                        raise
                    report(Skip(str(frame.source), str(error)))
                    continue
                yield result

        return results()

    def warmup(self, runs: int = 2) -> None:
        """Run on an empty picture, so that the first real call is as fast as the later ones."""
        height, width = self.info.spec.input_size
        picture = np.zeros((height, width, 3), np.uint8)
        box = np.array([[0, 0, width, height]], np.float32)
        for _ in range(runs):
            self(picture, boxes=box)

    def close(self) -> None:
        """Release the model; later calls raise. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._backend.close()

    def __enter__(self) -> Estimator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), str(self._path), **self._options), ()

    def __repr__(self) -> str:
        backend = self.info.backend
        return f"Estimator({self.info.spec.name!r}, {backend['name']} on {backend['device']})"

    def _estimate(self, frames: list[Frame], boxes: Sequence[Any], names: Sequence[str]) -> list[PoseResult]:
        if not frames:
            return []
        with self._lock:
            self._check_usable()
            started = time.perf_counter()
            persons, truncated = [], []
            for frame, given, name in zip(frames, boxes, names, strict=True):
                person, cut = self._persons(frame.image, given, name)
                persons.append(person)
                truncated.append(cut)
            poses, times = self._pipeline([frame.image for frame in frames], persons)
            total = (time.perf_counter() - started) * 1e3
        share = len(frames)
        timings = Timings(
            times.preprocess / share, times.inference / share, times.postprocess / share, total / share
        )
        results = []
        for frame, given, person, pose, cut in zip(frames, boxes, persons, poses, truncated, strict=True):
            keypoints = pose.keypoints
            if self._keypoint_threshold > 0:
                keypoints = np.where(
                    (pose.scores >= self._keypoint_threshold)[:, :, None], keypoints, np.float32(np.nan)
                )
            result = PoseResult(
                keypoints=keypoints,
                scores=pose.scores,
                boxes=person.boxes,
                person_scores=pose.person_scores,
                skeleton=self.info.spec.skeleton,
                image_size=(frame.image.shape[0], frame.image.shape[1]),
                covariance=pose.covariance,
                timings=timings,
                source=frame.source,
                truncated=cut,
            )
            if given is None and self._detector is not None:
                result = result[result.person_scores >= self._score_threshold]
            results.append(result)
        return results

    def _check_usable(self) -> None:
        if self._closed:
            raise BackendUnavailableError(
                "the estimator is closed; found a call after close(); make a new one"
            )
        if os.getpid() != self._process:
            raise BackendUnavailableError(
                "the estimator was made before a fork, which the runtime's threads do not survive; found "
                "a call in the child process; make the estimator in the child, or use the 'spawn' method"
            )

    def _persons(self, image: NDArray[np.uint8], given: Any, name: str) -> tuple[PersonBoxes, bool]:
        """The boxes to use for a picture, and whether the cap cut some off."""
        padding = self.info.spec.padding
        if given is not None:
            boxes, scores = _check_boxes(given, name)
            _check_places(boxes, image.shape[:2], name)
            return PersonBoxes(boxes, scores, padding), False
        if self._detector is None:
            return PersonBoxes.of_picture(image), False
        boxes, scores = _check_boxes(self._detector(image), "the detector's boxes")
        usable = _has_area(boxes) & _overlaps(boxes, image.shape[:2])
        if not usable.all():
            _log.warning("dropped %d empty or outside boxes of the detector", int((~usable).sum()))
            boxes, scores = boxes[usable], scores[usable]
        cut = len(boxes) > self._max_persons
        if cut:
            best = np.sort(np.argsort(-scores, kind="stable")[: self._max_persons])
            boxes, scores = boxes[best], scores[best]
        return PersonBoxes(boxes, scores, padding), cut


def _frame(image: object, name: str) -> Frame:
    if isinstance(image, Frame):
        check_image(image.image, name)
        return image
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if isinstance(path, str) and is_video(path) and Path(path).is_file():
            raise InvalidInputError(f"{name} is a video: {path}; use Estimator.stream")
        return Frame(read_image(path), Source(os.fsdecode(path)))
    return Frame(check_image(image, name))


def _check_boxes(value: Any, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, 4) and scores (n,), checked in shape and values."""
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} is not an array of numbers; {error}; give (n, 4) xyxy") from error
    if array.size == 0 and array.ndim <= 2:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise InvalidInputError(
            f"{name} has the wrong shape; found {array.shape}; give (n, 4) xyxy, or (n, 5) with a score"
        )
    _reject(~np.all(np.isfinite(array), axis=1), array, name, "holds NaN or infinity", "give finite pixels")
    boxes, scores = array[:, :4], array[:, 4:].reshape(-1) if array.shape[1] == 5 else None
    if scores is None:
        scores = np.ones(len(boxes), np.float32)
    bad = (scores < 0) | (scores > 1)
    _reject(bad, array, name, "has a score outside 0 to 1", "give scores from 0 to 1")
    _reject(np.abs(boxes).max(axis=1, initial=0) > MAX_COORDINATE, boxes, name, "is out of range",
            f"give pixels up to {MAX_COORDINATE:.0f}")  # fmt: skip
    return boxes, scores


def _check_places(boxes: NDArray[np.float32], size: Sequence[int], name: str) -> None:
    _reject(~_has_area(boxes), boxes, name, "is empty", "give x1 < x2 and y1 < y2 (xyxy, not xywh)")
    height, width = size
    _reject(
        ~_overlaps(boxes, size), boxes, name,
        f"lies outside the picture of {width}x{height} pixels", "give boxes that overlap it",
    )  # fmt: skip


def _has_area(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.all(boxes[:, 2:] > boxes[:, :2], axis=1), np.bool_)


def _overlaps(boxes: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.bool_]:
    """Whether boxes reach into the picture, which spans -0.5 to width - 0.5."""
    end = np.array([size[1], size[0]], np.float32) - 0.5
    inside = (boxes[:, :2] < end) & (boxes[:, 2:] > -0.5)
    return np.asarray(np.all(inside, axis=1), np.bool_)


def _reject(bad: NDArray[np.bool_], rows: NDArray[Any], name: str, what: str, remedy: str) -> None:
    if bad.any():
        index = int(bad.argmax())
        raise InvalidInputError(f"{name}[{index}] {what}; found {rows[index].tolist()}; {remedy}")


def _check_number(name: str, value: Any, low: float, high: float | None, *, whole: bool = False) -> None:
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    usable = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or value < low or (high is not None and value > high):
        wanted = f"{'a whole number' if whole else 'a number'} of at least {low}"
        wanted = wanted if high is None else f"a number from {low} to {high}"
        raise InvalidInputError(f"{name} is not usable; found {value!r}; give {wanted}")
