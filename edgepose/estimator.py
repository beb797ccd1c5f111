"""`Estimator`: any picture in, `PoseResult` out."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgepose import kernels as kernel_ops
from edgepose._inputs import (
    check_boxes,
    check_number,
    check_places,
    check_switch,
    name_nearest,
    to_frame,
)
from edgepose.backends import carries_spec, device_network, open_backend, read_model_spec
from edgepose.backends.base import usual_size
from edgepose.catalog import ALIASES, DEFAULT_MODEL, MODELS, resolve_model
from edgepose.detectors import Detector, OnnxDetector, PersonFinder, detect
from edgepose.errors import BackendUnavailableError, InvalidInputError
from edgepose.pipeline.bottomup import BottomUp, check_scales
from edgepose.pipeline.gpu.choice import device_crops, device_frames, lacking
from edgepose.pipeline.gpu.device_picture import DevicePicture
from edgepose.pipeline.poses import Poses, StageTimes
from edgepose.pipeline.selection import Selection
from edgepose.pipeline.topdown import PersonBoxes, TopDown
from edgepose.result import PoseResult, Timings
from edgepose.sources import RECONNECT, Frame, FrameSource, OnSkip, SourceLike, open_sources
from edgepose.spec import ModelSpec
from edgepose.streams.follow import Smooths, Tracks
from edgepose.streams.stream import PoseStream, StreamOptions

__all__ = ["ALIASES", "DEFAULT_MODEL", "MODELS", "Estimator", "EstimatorInfo", "resolve_model"]

SCORE_THRESHOLD = {"topdown": 0.3, "bottomup": 0.1}
"""Default score thresholds: a bottom-up person's score counts missing joints as 0, so that it is lower."""

MAX_WORKERS = 4
"""Frames that a stream runs at the same time by itself: each needs memory for a run of the network."""
MIN_FRAMES = 50
"""Frames from which on a stream does so: opening the model again takes the time of some."""

ImageLike = str | os.PathLike[str] | NDArray[np.uint8] | Frame

_log = logging.getLogger("edgepose")


@dataclass(frozen=True)
class EstimatorInfo:
    """What an `Estimator` is made of.

    Attributes:
        path: the model file.
        spec: the description that it carries.
        backend: what runs the network and why (`edgepose.backends.Backend.describe`): ``name``,
            ``version``, ``device`` and ``reason``, and more that differs by runtime.
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


class Estimator:
    """Estimates human poses in pictures.

    May be called from many threads; calls take turns. Pickling carries the recipe (path and
    options), so that a copy in another process opens the model itself, and that of a detector, which is
    closed with it; do not use one across a fork.

    Args:
        model: an ``.onnx`` file, a TensorRT engine (``.engine``, or a ``.plan`` with its description beside
            it), the name of a packaged model, or None for the packaged default.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Only ``"auto"`` falls back to the CPU, with
            a logged warning. CUDA is that of ONNX Runtime and of TensorRT, and an engine runs nowhere else.
        runtime: ``"auto"``: TensorRT for an engine, else ONNX Runtime where it is installed, else OpenVINO;
            or ``"tensorrt"``, ``"onnxruntime"``, ``"openvino"``, or ``"onnxruntime-tensorrt"``: ONNX Runtime,
            which lets TensorRT build what it can of an ``.onnx`` file.
        detector: finds the persons for a top-down model in calls without ``boxes=``: a callable that
            takes a BGR uint8 picture and returns person boxes, (n, 4) xyxy or (n, 5) with a score; a
            bottom-up model, by name (``"multi"``), path or as an `Estimator` of its own; or an object
            detector of another project, by the path of its ``.onnx`` file or as an `OnnxDetector`. Without
            it the whole picture is taken as the box of one person. A model given by name or path runs with
            the device, runtime, threads, kernels, score threshold and limit on persons given here, fills no
            missing joints, and is closed with this estimator.
        score_threshold: persons with a lower score are dropped; None: 0.3, or 0.1 where a bottom-up
            model finds them. Persons that the caller gives by ``boxes=``, and the one of the whole
            picture, are always returned.
        keypoint_threshold: joints with a lower score become NaN; scores and boxes stay as they are, and so do
            persons that have no joint left.
        max_persons: at most so many persons, or boxes of the detector, are used, those with the highest
            scores; the result then says ``truncated``, and the first such is logged as a
            warning. All boxes given by ``boxes=`` are used.
        flip_test: average with the mirrored picture: more exact, twice the time.
        scales: of a bottom-up model: average runs at these scales, for instance ``(0.5, 1, 2)``.
        refine: of a bottom-up model: fill missing joints with the best-fitting pixels of the maps; None:
            as the model's description says.
        official_grouping: of a bottom-up model: break ties between equally good groupings, and merge new
            persons that begin with equal tags, exactly as HigherHRNet's code does.
        nms_threshold: drop persons that are more similar than this to one with a higher score, by object
            keypoint similarity, from 0 to 1; None: keep all.
        threads: CPU threads of the network; None for all that this process may use.
        kernels: ``"auto"`` (the fastest that is there, or what the environment variable
            ``EDGEPOSE_KERNELS`` says), ``"native"``, ``"numba"``, ``"numpy"`` or ``"cuda"``. Around a network
            on CUDA ``"auto"`` is ``"cuda"`` where that serves: then the whole frame stays on the GPU.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelFormatError: the file is not a usable model.
        EngineMismatchError: an engine was built for another version of TensorRT, GPU or system.
        BackendUnavailableError: the runtime, device or kernels cannot serve.
        InvalidInputError: an option is out of range, or not one of this kind of model.
        TypeError: an unknown keyword; the message names the nearest one.
    """

    @name_nearest
    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        runtime: str = "auto",
        detector: Detector | str | os.PathLike[str] | Estimator | OnnxDetector | None = None,
        score_threshold: float | None = None,
        keypoint_threshold: float = 0.0,
        max_persons: int = 30,
        flip_test: bool = False,
        scales: Sequence[float] = (1.0,),
        refine: bool | None = None,
        official_grouping: bool = False,
        nms_threshold: float | None = None,
        threads: int | None = None,
        kernels: str = "auto",
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
            if value is not None:
                check_number(name, value, 0, 1)
        check_number("keypoint_threshold", keypoint_threshold, 0, 1)
        check_number("max_persons", max_persons, 1, None, whole=True)
        if threads is not None:
            check_number("threads", threads, 1, None, whole=True)
        check_switch("flip_test", flip_test)
        check_switch("refine", refine, none=True)
        check_switch("official_grouping", official_grouping)
        scales = check_scales(scales)
        self._path = resolve_model(model)
        if isinstance(detector, (str, os.PathLike)):
            detector = str(resolve_model(detector))
        self._options: dict[str, Any] = {
            "device": device,
            "runtime": runtime,
            "detector": detector,
            "score_threshold": score_threshold,
            "keypoint_threshold": keypoint_threshold,
            "max_persons": max_persons,
            "flip_test": flip_test,
            "scales": scales,
            "refine": refine,
            "official_grouping": official_grouping,
            "nms_threshold": nms_threshold,
            "threads": threads,
            "kernels": kernels,
        }
        self._keypoint_threshold = keypoint_threshold
        self._max_persons = max_persons
        self._lock = threading.RLock()  # a detector may call its own estimator
        self._process = os.getpid()
        self._closed = False
        self._told_truncated = threading.Event()
        self._owner: Estimator | None = None

        self._own_finder: Estimator | OnnxDetector | None = None
        self._backend = open_backend(self._path, device=device, runtime=runtime, threads=threads)
        self._top_down: TopDown | None = None
        self._bottom_up: BottomUp | None = None
        try:
            self._set_up(kernels)
        except BaseException:
            self.close()
            raise

    def _set_up(self, kernels: str) -> None:
        """Make the pipeline for the opened model, and its detector."""
        spec, options = self._backend.spec, self._options
        detector = options["detector"]
        network = device_network(self._backend)
        reason = "" if network is None else lacking(kernels)
        self._gpu = None if reason else network
        implementation = kernel_ops.get("cuda" if self._gpu else kernels)
        if spec.task == "topdown":
            for name, default in (("scales", (1.0,)), ("refine", None), ("official_grouping", False)):
                if options[name] != default:
                    raise InvalidInputError(
                        f"{name} serves bottom-up models; found {options[name]!r} for {spec.name!r}, "
                        "which is top-down; leave it out"
                    )
            flip_test = options["flip_test"]
            crops = None if self._gpu is None else device_crops(self._gpu, spec, flip_test)
            self._top_down = TopDown(self._backend, implementation, flip_test=flip_test, crops=crops)
        else:
            if detector is not None:
                raise InvalidInputError(
                    f"detector serves top-down models; {spec.name!r} is bottom-up and finds the persons "
                    "itself; leave it out"
                )
            self._bottom_up = BottomUp(
                self._backend.run,
                spec,
                implementation,
                fixed_size=self._backend.input_size,
                flip_test=options["flip_test"],
                scales=options["scales"],
                refine=options["refine"],
                official=options["official_grouping"],
                max_persons=options["max_persons"],
                frames=None if self._gpu is None else device_frames(self._gpu, spec, options),
            )
        self._detector = self._open_detector(detector)
        finds = self._bottom_up is not None or isinstance(self._detector, PersonFinder)
        threshold = options["score_threshold"]
        default_threshold = SCORE_THRESHOLD["bottomup" if finds else "topdown"]
        self._select = Selection(
            default_threshold if threshold is None else threshold,
            options["nms_threshold"],
            self._max_persons,
            spec.skeleton.sigmas,
            top_down=self._bottom_up is None,
        )
        backend = self._backend.describe()
        if network is not None:
            backend["pipeline"] = reason or "whole on the GPU"
        self._info = EstimatorInfo(self._path, spec, backend, implementation.status())

    def _open_detector(self, detector: Any) -> Detector | PersonFinder | OnnxDetector | None:
        """The detector, ready to find persons; a model's file is opened with this estimator's options."""
        if isinstance(detector, str):
            if self._own_finder is None:
                self._own_finder = self._open_finder(Path(detector))
            detector = self._own_finder
        if isinstance(detector, Estimator):
            _check_finder(detector.info.spec)
            return PersonFinder(detector._everybody, detector._max_persons)
        if detector is not None and not callable(detector):
            raise InvalidInputError(
                f"detector is not callable; found {type(detector).__name__}; give a function from a "
                "picture to boxes (n, 4) or (n, 5), a bottom-up model, or an ONNX detector"
            )
        return detector  # type: ignore[no-any-return]

    def _open_finder(self, path: Path) -> Estimator | OnnxDetector:
        """A model that finds persons, of edgepose or another project."""
        names = ["device", "runtime", "score_threshold", "threads", "kernels"]
        shared = {name: self._options[name] for name in names}
        if carries_spec(path):
            _check_finder(read_model_spec(path))
            # Joints filled by refine may be a neighbour's, and a box must not reach there.
            return type(self)(path, refine=False, max_persons=self._max_persons, **shared)
        if shared["score_threshold"] is None:
            # A person's score is its box's times that of its joints: none is lost.
            shared["score_threshold"] = SCORE_THRESHOLD["topdown"]
        return OnnxDetector(path, **shared)

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
    @name_nearest
    def __call__(self, image: Any, boxes: Any = None) -> Any:
        """Estimate the poses in a picture, or in a list of pictures by batched runs of the network.

        Args:
            image: path, BGR uint8 array (H, W, 3), `Frame`, or a list of these. Where the whole frame runs on
                the GPU (``info.backend["pipeline"]``) also an array in its memory, an object with
                ``__cuda_array_interface__``: uint8, (H, W, 3) BGR, or (H * 3 / 2, W) NV12 of limited range
                BT.601 with even H and W.
            boxes: for a top-down model, person boxes, (n, 4) xyxy in pixels or (n, 5) with a score from
                0 to 1; for a list of pictures a list of these, None where the detector or the whole
                picture shall serve.

        Returns:
            A `PoseResult`, or a list of results for a list. Top-down there is one person per box in
            their order, bottom-up the persons stand by descending score.

        Raises:
            InvalidInputError: a picture or box is not usable, or boxes are given to a bottom-up model;
                the message names it.
        """
        if not isinstance(image, (list, tuple)):
            return self._estimate([to_frame(image, "image")], [boxes], ["boxes"])[0]
        if boxes is None:
            boxes = [None] * len(image)
        if not isinstance(boxes, (list, tuple)) or len(boxes) != len(image):
            count = len(boxes) if isinstance(boxes, (list, tuple)) else type(boxes).__name__
            raise InvalidInputError(
                f"boxes do not fit the pictures; found {count} for {len(image)} pictures; give a list with "
                "one entry per picture"
            )
        frames = [to_frame(item, f"image[{i}]") for i, item in enumerate(image)]
        return self._estimate(frames, boxes, [f"boxes[{i}]" for i in range(len(image))])

    @name_nearest
    def stream(
        self,
        source: SourceLike,
        *,
        latest: bool = False,
        track: bool | Callable[[], Tracks] = False,
        smooth: bool | Callable[[], Smooths] = False,
        every: int = 1,
        detect_every: int = 1,
        boxes: Callable[[Frame], ArrayLike | None] | None = None,
        workers: int | None = None,
        reconnect: int | None = RECONNECT,
        on_skip: OnSkip | None = None,
    ) -> PoseStream:
        """Estimate the poses in a directory, video, camera, network stream, or in several of them at once.

        Reading, estimating and the caller's own work overlap, and only a few pictures wait at a time.

        Args:
            source: as for `edgepose.open_source`, or a list of those: what is ready of several goes through
                the network together, and ``result.source.index`` tells from which a result is.
            latest: always go on with the newest frame; those that came meanwhile are dropped and counted. A
                video is then read at the pace of its frames, as if it came from a camera.
            track: give people identities, `PoseResult.track_ids`; True, or what makes a tracker.
            smooth: smooth the joints over time; True, or what makes a smoother. Where there may be several
                people they are tracked too.
            every: use each n-th frame alone.
            detect_every: have the detector look at each n-th of these frames, and in between look for people
                where the last poses, or their tracks, say.
            boxes: for a top-down model, what gives the boxes of a frame, as for a call; called in a thread
                of the network, for one frame after the other.
            workers: so many frames run through the network at the same time, each on one thread, which takes
                longer for a frame and less time for all; results keep their order. Serves ONNX Runtime on
                the CPU, where neither `latest` nor `detect_every` needs the frame before. The model is opened
                once more for it. None: as many as the network has threads, at most 4, for videos and pictures
                in files, where it serves and no function is the detector; else 1.
            reconnect: as for `edgepose.open_source`.
            on_skip: called with a `Skip` for each item that cannot be used, and for each of several sources
                that is lost; by default it is logged as a warning. A picture given alone, and a source that
                is lost, raise instead.

        Returns:
            An iterator over results, see `PoseStream`; `PoseResult.source` tells file, frame and time.

        Raises:
            InvalidInputError: there is no such source (raised at once), or an option is not usable.
        """
        several = self._bottom_up is not None or self._detector is not None or boxes is not None
        followed = track or bool(smooth and several)
        if detect_every > 1 and (self._detector is None or boxes is not None):
            raise InvalidInputError(
                f"detect_every is not usable; found {detect_every} where no detector serves; leave it out, "
                "or give a top-down model a detector"
            )
        reason = self._no_lanes()
        if workers not in (None, 1) and reason:
            raise InvalidInputError(f"workers is not usable; found {workers} where {reason}; leave it out")
        options = StreamOptions(
            latest, followed, smooth, every, detect_every, boxes, 1 if workers is None else workers
        )
        sources = open_sources(source, on_skip, reconnect=reconnect)
        alone = reason or latest or detect_every > 1 or self._calls_function()
        if workers is None and not alone and _worth_lanes(sources, every):
            options = replace(options, workers=min(self.info.backend["threads"], MAX_WORKERS))
        return PoseStream(self, sources, options, on_skip)

    def lanes(self, count: int) -> list[Estimator]:
        """Estimators for so many calls at the same time: as this one, with one network of one thread.

        Closing one ends all, and they serve no longer than this one. A detector that is a function is called
        by one of them at a time.

        Raises:
            InvalidInputError: runs at the same time are not possible here.
            ModelNotFoundError, ModelFormatError: the model's file is no longer there, or another one.
        """
        reason = self._no_lanes()
        if reason:
            raise InvalidInputError(f"lanes cannot be made; found that {reason}; use the estimator itself")
        options = {**self._options, "threads": 1}
        if self._calls_function():
            options["detector"] = _in_turns(options["detector"])
        first = type(self)(self._path, **options)
        first._owner, first._told_truncated = self, self._told_truncated
        return [first, *(first._twin() for _ in range(count - 1))]

    def _twin(self) -> Estimator:
        """Another one around the same network, with buffers of its own."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._lock = threading.RLock()
        finder = self._own_finder
        if finder is not None:
            twin._own_finder = finder._twin() if isinstance(finder, Estimator) else finder.twin()
        twin._set_up(self._options["kernels"])
        return twin

    def _calls_function(self) -> bool:
        return self._detector is not None and not isinstance(self._detector, (PersonFinder, OnnxDetector))

    def _no_lanes(self) -> str:
        """Why runs at the same time are not possible; empty where they are."""
        backend = self.info.backend
        if backend["name"] != "onnxruntime" or backend["device"] != "cpu":
            return f"the network runs with {backend['name']} on {backend['device']}"
        return ""

    @name_nearest
    def heatmaps(
        self, image: ImageLike, boxes: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The network's own maps of a picture, to be looked at (`edgepose.draw_heatmaps`) or decoded.

        Args:
            image: path, BGR uint8 array (H, W, 3) or `Frame`.
            boxes: as in a call; without them the detector or the whole picture serves.

        Returns:
            Maps (n, k, h, w), raw, and the affine (n, 2, 3) from the pixels of each to those of the picture.
            Of a top-down model n counts the persons, in the order of their boxes, and the flip test is
            averaged; of a bottom-up model n is 1, the run at the largest scale alone.

        Raises:
            InvalidInputError: the picture or a box is not usable, or the maps stay on a GPU.
        """
        frame = to_frame(image, "image")
        with self._lock:
            self._check_usable()
            self._check_memory([frame.image])
            if self._bottom_up is not None:
                self._refuse_boxes([boxes], ["boxes"])
                found = self._bottom_up.heatmaps(frame.image)
            else:
                assert self._top_down is not None
                (persons,) = self._persons([frame.image], [boxes], ["boxes"])
                found = self._top_down.heatmaps(frame.image, persons)
        if found is None:
            raise InvalidInputError(
                "heatmaps cannot be given; found that the whole frame runs on the GPU, where they stay; "
                'open the model with kernels="native" or "numpy"'
            )
        return found

    def warmup(self, runs: int = 2) -> None:
        """Run on an empty picture, so that the first real call is as fast as the later ones.

        Of a bottom-up model that takes any size, and of a CUDA graph for several boxes, that is so only for
        the size that is run here: the model's own, or the usual one of an engine.
        """
        height, width = usual_size(self.info.spec)
        picture = np.zeros((height, width, 3), np.uint8)
        box = None if self._top_down is None else np.array([[0, 0, width, height]], np.float32)
        for _ in range(runs):
            self(picture, boxes=box)
        if self._bottom_up is not None:
            with self._lock:
                self._check_usable()
                self._bottom_up.warmup(picture)
        if self._own_finder is not None:
            self._own_finder.warmup(runs)

    def close(self) -> None:
        """Release the model; later calls raise. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for steps in (self._top_down, self._bottom_up):
                    if steps is not None:
                        steps.close()
                self._backend.close()
                if self._own_finder is not None:
                    self._own_finder.close()

    def __enter__(self) -> Estimator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        options = dict(self._options)
        finder = options["detector"]
        if not isinstance(finder, (Estimator, OnnxDetector)):
            return functools.partial(type(self), str(self._path), **options), ()
        del options["detector"]
        return _with_own_finder, (type(self), str(self._path), options, *finder.__reduce__())

    def __repr__(self) -> str:
        backend = self.info.backend
        return f"Estimator({self.info.spec.name!r}, {backend['name']} on {backend['device']})"

    def _everybody(self, images: list[NDArray[np.uint8]]) -> list[PoseResult]:
        """The results of pictures with all persons that the limit on their number would leave out."""
        nothing = [None] * len(images)
        return self._estimate([Frame(image) for image in images], nothing, [""] * len(images), everybody=True)

    def _estimate(
        self, frames: list[Frame], boxes: Sequence[Any], names: Sequence[str], *, everybody: bool = False
    ) -> list[PoseResult]:
        if not frames:
            return []
        with self._lock:
            self._check_usable()
            started = time.perf_counter()
            poses, times = self._run(frames, boxes, names)
            poses = [self._choose(pose, given, everybody) for pose, given in zip(poses, boxes, strict=True)]
            total = (time.perf_counter() - started) * 1e3
            if not everybody:
                self._tell_truncated(poses)
        share = len(frames)
        timings = Timings(
            times.preprocess / share, times.inference / share, times.postprocess / share, total / share
        )
        results = []
        for item, pose in zip(frames, poses, strict=True):
            keypoints = pose.keypoints
            if self._keypoint_threshold > 0:
                keypoints = np.where(
                    (pose.scores >= self._keypoint_threshold)[:, :, None], keypoints, np.float32(np.nan)
                )
            results.append(
                PoseResult._made(
                    {
                        "keypoints": keypoints,
                        "scores": pose.scores,
                        "boxes": pose.boxes.copy(),  # the caller's, or a detector's
                        "person_scores": pose.person_scores,
                        "skeleton": self.info.spec.skeleton,
                        "image_size": item.image.shape[:2],
                        "covariance": pose.covariance,
                        "track_ids": None,
                        "timings": timings,
                        "source": item.source,
                        "truncated": pose.truncated,
                    }
                )
            )
        return results

    def _run(
        self, frames: list[Frame], boxes: Sequence[Any], names: Sequence[str]
    ) -> tuple[list[Poses], StageTimes]:
        """All persons of the pictures, or of their boxes."""
        images = [item.image for item in frames]
        self._check_memory(images)
        if self._bottom_up is not None:
            self._refuse_boxes(boxes, names)
            return self._bottom_up(images)
        assert self._top_down is not None
        return self._top_down(images, self._persons(images, boxes, names))

    def _check_memory(self, images: list[NDArray[np.uint8]]) -> None:
        """Refuse pictures in device memory where the pipeline cannot take them."""
        if self._gpu is None and any(isinstance(image, DevicePicture) for image in images):
            raise InvalidInputError(
                "a picture in device memory cannot be used; found that crops and decoding run on the CPU "
                f"({self.info.backend.get('pipeline', 'as the network does')}); give a numpy array, or run a "
                "TensorRT engine with edgepose's CUDA kernels"
            )

    def _refuse_boxes(self, boxes: Sequence[Any], names: Sequence[str]) -> None:
        for given, name in zip(boxes, names, strict=True):
            if given is not None:
                raise InvalidInputError(
                    f"{name} cannot be used; {self.info.spec.name!r} is bottom-up and finds the persons "
                    "itself; leave it out, or take a top-down model"
                )

    def _persons(
        self, images: list[NDArray[np.uint8]], boxes: Sequence[Any], names: Sequence[str]
    ) -> list[PersonBoxes]:
        """Where a top-down model looks for persons: the given boxes, the detector's, or whole pictures."""
        known = [self._known_boxes(*each) for each in zip(images, boxes, names, strict=True)]
        rest = [image for image, persons in zip(images, known, strict=True) if persons is None]
        found: Iterator[PersonBoxes] = iter(())
        if self._detector is not None and rest:
            found = iter(detect(self._detector, rest, self._max_persons, self.info.spec.padding))
        return [next(found) if persons is None else persons for persons in known]

    def _choose(self, poses: Poses, given: Any, everybody: bool) -> Poses:
        """The persons to return: all that the caller gave, else a selection."""
        if self._bottom_up is None and (
            self._detector is None or not (given is None or isinstance(given, PersonBoxes))
        ):
            return poses
        return self._select(poses, everybody=everybody)

    def _tell_truncated(self, poses: list[Poses]) -> None:
        """Log the first time that persons may be missing."""
        if self._told_truncated.is_set() or not any(pose.truncated for pose in poses):
            return
        self._told_truncated.set()
        _log.warning(
            "persons may be missing from a result, which says truncated; found a limit on their number hit; "
            "raise max_persons, now %d%s (told once)",
            self._max_persons,
            ", or leave out official_grouping" if self._options["official_grouping"] else "",
        )

    def _check_usable(self) -> None:
        if self._closed or (self._owner is not None and self._owner._closed):
            raise BackendUnavailableError(
                "the estimator is closed; found a call after close(); make a new one"
            )
        if os.getpid() != self._process:
            raise BackendUnavailableError(
                "the estimator was made before a fork, which the runtime's threads do not survive; found "
                "a call in the child process; make the estimator in the child, or use the 'spawn' method"
            )

    def _known_boxes(self, image: NDArray[np.uint8], given: Any, name: str) -> PersonBoxes | None:
        """The boxes to use for a picture, None where the detector is to find them."""
        if isinstance(given, PersonBoxes):
            return given
        if given is not None:
            boxes, scores = check_boxes(given, name)
            check_places(boxes, image.shape[:2], name)
            return PersonBoxes(boxes, scores, self.info.spec.padding)
        return PersonBoxes.of_picture(image) if self._detector is None else None


def _in_turns(detector: Detector) -> Detector:
    """A detector that is called by one thread at a time."""
    turn = threading.Lock()

    def detect_in_turn(image: NDArray[np.uint8]) -> ArrayLike:
        with turn:
            return detector(image)

    return detect_in_turn


def _worth_lanes(sources: Sequence[FrameSource], every: int) -> bool:
    """Whether sources hold files alone, and enough to make up for opening the model again."""
    totals = [source.total or MIN_FRAMES * every for source in sources]
    return all(source.kind in ("video", "images") for source in sources) and (
        sum(totals) >= MIN_FRAMES * every
    )


def _with_own_finder(
    kind: type[Estimator],
    path: str,
    options: dict[str, Any],
    make_finder: Callable[..., Estimator | OnnxDetector],
    arguments: tuple[Any, ...],
) -> Estimator:
    """Copy of an estimator and the model that is its detector, which is closed with it."""
    finder = make_finder(*arguments)
    try:
        copy = kind(path, detector=finder, **options)
    except BaseException:
        finder.close()
        raise
    copy._own_finder = finder
    return copy


def _check_finder(spec: ModelSpec) -> None:
    if spec.task != "bottomup":
        raise InvalidInputError(
            f"detector cannot serve; {spec.name!r} is a top-down model; give a bottom-up one, which "
            "finds the persons itself"
        )
