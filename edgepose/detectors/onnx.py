"""Detectors of other projects as ONNX files."""

from __future__ import annotations

import ast
import functools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose import kernels as kernel_ops
from edgepose._inputs import check_number, name_nearest
from edgepose.backends import open_network
from edgepose.backends.onnx_metadata import read_first_operators, read_metadata
from edgepose.detectors.decode import Candidates, decode, holds_pixels
from edgepose.detectors.families import FAMILIES, FILL, Family, person_class_of, recognise
from edgepose.errors import BackendUnavailableError, InvalidInputError, ModelFormatError
from edgepose.pipeline.gpu.device_picture import DevicePicture
from edgepose.sources import check_image
from edgepose.spec import METADATA_KEY

__all__ = ["DEFAULT_SIZE", "OnnxDetector"]

DEFAULT_SIZE = (640, 640)
"""Height and width of the input where the file leaves them free and tells none."""
MAX_BATCH = 8
"""Pictures per run of the network, of files that take any number; bounds its memory."""

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxDetector:
    """Finds persons with an object detector of another project, in an ONNX file.

    Knows the exports of YOLOX, of MMDeploy (RTMDet, YOLOX) and of Ultralytics (YOLOv8 and later), tells them
    by their outputs, and prepares pictures as each family is trained. Serves as ``detector=`` of `Estimator`,
    which does not close it. May be called from many threads; calls take turns. Pickling carries the recipe.

    Args:
        path: the ``.onnx`` file.
        family: ``"yolox"``, ``"rtmdet"`` or ``"yolov8"``; None: as the outputs and the first layers tell.
        person_class: index of the class to take; None: as the file's metadata name it, else 0, as in COCO.
        score_threshold: boxes with a lower score are left out.
        iou_threshold: a box that overlaps a better one by more than this intersection over union is left
            out, where the file leaves that to us; None: as the family is evaluated, 0.65 or 0.7.
        input_size: (height, width) of the network's input, where the file leaves them free; None: as its
            metadata say, else 640x640.
        device, runtime, threads: as for `Estimator`.
        kernels: as for `Estimator`; they scale the pictures.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is no ONNX file, or no detector of a known family.
        BackendUnavailableError: the runtime, device or kernels cannot serve.
        InvalidInputError: an option does not fit.
        TypeError: an unknown keyword; the message names the nearest one.
    """

    @name_nearest
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        family: str | None = None,
        person_class: int | None = None,
        score_threshold: float = 0.3,
        iou_threshold: float | None = None,
        input_size: tuple[int, int] | None = None,
        device: str = "auto",
        runtime: str = "auto",
        threads: int | None = None,
        kernels: str = "auto",
    ) -> None:
        if family is not None and family not in FAMILIES:
            names = ", ".join(map(repr, FAMILIES))
            raise InvalidInputError(f"family is not usable; found {family!r}; give {names}")
        if person_class is not None:
            check_number("person_class", person_class, 0, None, whole=True)
        check_number("score_threshold", score_threshold, 0, 1)
        if iou_threshold is not None:
            check_number("iou_threshold", iou_threshold, 0, 1)
        if threads is not None:
            check_number("threads", threads, 1, None, whole=True)
        self._path = Path(path).resolve()
        self._options: dict[str, Any] = {
            "family": family,
            "person_class": person_class,
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "input_size": input_size,
            "device": device,
            "runtime": runtime,
            "threads": threads,
            "kernels": kernels,
        }
        self._lock = threading.Lock()
        self._closed = False
        metadata = read_metadata(self._path)
        if METADATA_KEY in metadata:
            raise InvalidInputError(
                f"{path} is no detector of another project; found a model of edgepose; give it to Estimator, "
                "or as its detector="
            )
        self._kernels = kernel_ops.get(kernels)
        self._network = open_network(self._path, device=device, runtime=runtime, threads=threads)
        try:
            self._set_up(metadata)
        except BaseException:
            self.close()
            raise

    def _set_up(self, metadata: dict[str, str]) -> None:
        """Tell what the network takes and gives, from its file and a first run."""
        where, options = str(self._path), self._options
        batch = self._read_input(metadata)
        self._most = batch or MAX_BATCH
        self._fixed_batch = batch is not None
        self._input: NDArray[np.float32] = np.zeros((0, 3, *self._size), np.float32)
        grey = np.full((batch or 1, 3, *self._size), 0.5, self._dtype)
        outputs = self._network.infer(grey, list(self._network.outputs))
        self._layout = recognise(
            where,
            {name: value.shape for name, value in outputs.items()},
            self._size,
            family=options["family"],
            first=read_first_operators(self._path, next(iter(self._network.inputs))),
            metadata=metadata,
        )
        grid = self._layout.kind == "grid"
        self._in_pixels = grid and holds_pixels(outputs[self._layout.outputs[0]], self._size[1])
        given = options["person_class"]
        self._person_class = person_class_of(where, metadata) if given is None else given
        classes = self._layout.classes
        if classes is not None and self._person_class >= classes:
            raise InvalidInputError(
                f"person_class {self._person_class} is out of range; found {classes} classes in {where}; "
                f"give 0 to {classes - 1}"
            )
        threshold = options["iou_threshold"]
        if threshold is not None and self._layout.kind in ("rows", "dets"):
            raise InvalidInputError(
                f"iou_threshold cannot be used; found that {where} leaves out doubles itself; leave it out, "
                "or export the file without"
            )
        self._iou_threshold = self._layout.family.iou_threshold if threshold is None else threshold

    def _read_input(self, metadata: dict[str, str]) -> int | None:
        """Check the input and take its size and type; the number of pictures in a run, None where free."""
        inputs = self._network.inputs
        told = ", ".join(f"{name} {port.type} {list(port.shape)}" for name, port in inputs.items())
        port = next(iter(inputs.values()))
        fits = len(inputs) == 1 and port.type in _TYPES and len(port.shape) == 4
        if not fits or (isinstance(port.shape[1], int) and port.shape[1] != 3):
            raise ModelFormatError(
                f"cannot use {self._path} as a detector; found inputs {told}; give one with a single input "
                "(b, 3, height, width) of float32 or float16"
            )
        self._dtype = _TYPES[port.type]
        given = self._options["input_size"]
        if given is not None:
            _check_size(given)
        wanted = given or _image_size(metadata) or DEFAULT_SIZE
        sides = [
            have if isinstance(have, int) else want for have, want in zip(port.shape[2:], wanted, strict=True)
        ]
        self._size: tuple[int, int] = (int(sides[0]), int(sides[1]))
        if given is not None and self._size != tuple(given):
            raise InvalidInputError(
                f"input_size cannot be {tuple(given)}; found {list(port.shape)} fixed in {self._path}; leave "
                "it out, or export the file with another size"
            )
        return port.shape[0] if isinstance(port.shape[0], int) else None

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find the persons of a picture.

        Args:
            image: BGR uint8 (H, W, 3).

        Returns:
            (n, 5) float32: xyxy in pixels, within the picture, and score, falling.

        Raises:
            InvalidInputError: it is no picture, or the network's boxes are not finite.
        """
        return self.find([check_image(image)])[0][0]

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float32], bool]]:
        """Find the persons of all pictures, by as few runs as the file allows.

        Args:
            images: BGR uint8 (H, W, 3) pictures.

        Returns:
            Per picture the boxes, as of a call, and False: no limit on persons was hit.
        """
        for image in images:
            if isinstance(image, DevicePicture):
                raise InvalidInputError(
                    "the detector cannot read a picture in device memory; found one without boxes; give "
                    "a numpy array, or boxes="
                )
        with self._lock:
            if self._closed:
                raise BackendUnavailableError(
                    "the detector is closed; found a call after close(); make a new one"
                )
            found = []
            for start in range(0, len(images), self._most):
                found += self._run(images[start : start + self._most])
        return [(boxes, False) for boxes in found]

    def _run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """The boxes of as many pictures as go into a run."""
        count = self._most if self._fixed_batch else len(images)
        if len(self._input) < count:
            self._input = np.zeros((count, 3, *self._size), np.float32)
        family = self._layout.family
        places = [_fit(image.shape[:2], self._size, family) for image in images]
        for index, (image, place) in enumerate(zip(images, places, strict=True)):
            self._kernels.crop_normalize(
                image,
                place.affine(),
                self._size,
                family.mean,
                family.std,
                family.color == "rgb",
                FILL,
                out=self._input[index : index + 1],
            )
        batch = self._input[:count].astype(self._dtype, copy=False)
        outputs = self._network.infer(batch, self._layout.outputs)
        found = decode(
            self._layout,
            [outputs[name][: len(images)] for name in self._layout.outputs],
            self._size,
            person_class=self._person_class,
            score_threshold=self._options["score_threshold"],
            iou_threshold=self._iou_threshold,
            in_pixels=self._in_pixels,
        )
        return [place.in_picture(candidates) for place, candidates in zip(places, found, strict=True)]

    def twin(self) -> OnnxDetector:
        """Another one around the same network, for calls at the same time where its runtime allows them.

        Closing either ends both.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._lock = threading.Lock()
        twin._input = self._input[:0]
        return twin

    def describe(self) -> dict[str, Any]:
        """What was recognised and what serves, ready for JSON.

        Returns:
            ``path``, ``family``, ``outputs`` (the kind of them), ``input_size`` (height, width),
            ``batch`` (pictures in a run, at most), ``person_class``, and ``backend``, as
            `EstimatorInfo.backend`.
        """
        return {
            "path": str(self._path),
            "family": self._layout.family.name,
            "outputs": self._layout.kind,
            "input_size": list(self._size),
            "batch": self._most,
            "person_class": self._person_class,
            "backend": self._network.describe(),
        }

    def warmup(self, runs: int = 2) -> None:
        """Run on an empty picture, so that the first real call is as fast as the later ones."""
        picture = np.zeros((*self._size, 3), np.uint8)
        for _ in range(runs):
            self(picture)

    def close(self) -> None:
        """Release the network; later calls raise. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._network.close()

    def __enter__(self) -> OnnxDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), str(self._path), **self._options), ()

    def __repr__(self) -> str:
        return f"OnnxDetector({self._path.name!r}, {self._layout.family.name}, {self._layout.kind})"


class _Place(NamedTuple):
    """Where a picture lies in the network's input.

    Attributes:
        size: (height, width) of the picture.
        scale: pixels of the input per pixel of the picture, along x and y.
        corner: x, y of the picture's upper left edge in the input.
    """

    size: tuple[int, int]
    scale: NDArray[np.float64]
    corner: NDArray[np.float64]

    def affine(self) -> NDArray[np.float64]:
        """(1, 2, 3) from the input's pixels to the picture's, whose centres are whole numbers in both."""
        matrix = np.zeros((1, 2, 3))
        matrix[0, :, :2] = np.diag(1 / self.scale)
        matrix[0, :, 2] = (0.5 - self.corner) / self.scale - 0.5
        return matrix

    def in_picture(self, found: Candidates) -> NDArray[np.float32]:
        """Boxes with scores (n, 5) in the picture, cut at its outermost pixels."""
        corners = (found.boxes.reshape(-1, 2, 2) - self.corner) / self.scale - 0.5
        last = np.array(self.size[::-1]) - 1
        boxes = np.clip(corners, 0, last).reshape(-1, 4)
        return np.concatenate([boxes, found.scores[:, None]], axis=1, dtype=np.float32)


def _fit(size: tuple[int, int], into: tuple[int, int], family: Family) -> _Place:
    """The place of a picture that is scaled to fit into the input, as the family does it."""
    picture, target = np.array(size[::-1]), np.array(into[::-1])
    scaled = np.maximum(np.rint(picture * (target / picture).min()), 1)
    corner = (target - scaled) // 2 if family.centered else np.zeros(2)
    return _Place(size, scaled / picture, corner)


def _image_size(metadata: dict[str, str]) -> tuple[int, int] | None:
    """The size that Ultralytics' metadata tell."""
    try:
        height, width = ast.literal_eval(metadata.get("imgsz", ""))
        _check_size((height, width))
    except (ValueError, TypeError, SyntaxError, InvalidInputError):
        return None
    return height, width


def _check_size(size: Any) -> None:
    usable = isinstance(size, (tuple, list)) and len(size) == 2
    if not usable or any(type(side) is not int or side < 32 or side % 32 for side in size):
        raise InvalidInputError(
            f"input_size is not usable; found {size!r}; give (height, width) in multiples of 32"
        )
