"""Top-down pose estimation: one crop per person box, one set of heatmaps per crop.

Source: the common pipeline of SimpleBaseline (Xiao et al. 2018), HRNet and LPN; the decoder is LPN's
Beta-Soft-Argmax (Zhang et al. 2019, section 3.4) or the arg-max of the former two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.backends import Backend
from edgepose.backends.base import Batch
from edgepose.errors import ModelFormatError
from edgepose.kernels import Kernels
from edgepose.pipeline.batches import BatchMaker
from edgepose.pipeline.geometry import box_to_region, crop_affine, crop_scale, picture_box
from edgepose.pipeline.poses import Floats, Poses, StageTimes, lap

__all__ = ["CropRunner", "HostCrops", "MapJoints", "PersonBoxes", "TopDown", "person_score"]

MAX_BATCH = 32
"""Crops per run of the network on the CPU; bounds its memory."""
JOINT_SCORE_FLOOR = 0.2
"""Joints above it enter a person's score, as in the official COCO evaluation (``IN_VIS_THRE``)."""


@dataclass(frozen=True)
class PersonBoxes:
    """Where to look for persons in one picture.

    Attributes:
        boxes: (n, 4) float32 xyxy pixels.
        scores: (n,) float32, 1 where nothing is known.
        padding: factor by which boxes are enlarged.
        truncated: more persons were found than are looked at.
    """

    boxes: Floats
    scores: Floats
    padding: float
    truncated: bool = False

    @classmethod
    def of_picture(cls, image: NDArray[np.uint8]) -> PersonBoxes:
        """The whole picture as the only box, not enlarged."""
        return cls(picture_box(*image.shape[:2])[None], np.ones(1, np.float32), 1.0)


class MapJoints(NamedTuple):
    """What the crops of a batch show.

    Attributes:
        coords: (n, k, 2) float32 in pixels of the heatmaps, NaN where there is no peak.
        scores: (n, k) float32, raw.
        covariance: (n, k, 2, 2) float32 in square pixels of the heatmaps, or None.
        size: (height, width) of the heatmaps.
    """

    coords: Floats
    scores: Floats
    covariance: Floats | None
    size: tuple[int, int]


class CropRunner(Protocol):
    """Crops, network and decoder as one step.

    Attributes:
        batch: the most regions of a call.
    """

    batch: int

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        owner: NDArray[np.intp],
        affine: NDArray[np.float64],
        times: StageTimes,
    ) -> MapJoints:
        """Find the joints in regions of pictures.

        Args:
            images: BGR uint8 (H, W, 3) pictures.
            owner: (n,) the picture of each region, in rising order.
            affine: (n, 2, 3) from the pixels of each crop to those of its picture.
            times: the time of each stage is added to it.
        """

    def close(self) -> None:
        """Release what it holds."""


class HostCrops:
    """A `CropRunner` around `Backend.run`. Reuses its buffers: one call at a time.

    Args:
        backend: the loaded model.
        kernels: namespace of kernels, from `edgepose.kernels.get`.
        flip_test: average with the mirrored crop, which doubles the network's work.
    """

    batch = MAX_BATCH

    def __init__(self, backend: Backend, kernels: Kernels, *, flip_test: bool = False) -> None:
        self._backend = backend
        self._spec = backend.spec
        self._kernels = kernels
        self._flip_test = flip_test
        self._batches = BatchMaker(self._spec, kernels)
        self._crops: Batch = np.empty(self._batches.shape(0, self._spec.input_size), self._batches.dtype)
        self._mirrored = self._crops

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        owner: NDArray[np.intp],
        affine: NDArray[np.float64],
        times: StageTimes,
    ) -> MapJoints:
        """See `CropRunner`."""
        clock = time.perf_counter()
        crops = self._crop(images, owner, affine)
        clock = lap(times, "preprocess", clock)
        heatmaps = self._heatmaps(crops)
        clock = lap(times, "inference", clock)
        joints = self._decode(heatmaps)
        lap(times, "postprocess", clock)
        return joints

    def heatmaps(self, image: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[Any]:
        """The maps (n, k, h, w) of regions (n, 2, 3) of one picture, which the next call overwrites."""
        return self._heatmaps(self._crop([image], np.zeros(len(affine), np.intp), affine))

    def close(self) -> None:
        """Nothing is held but memory."""

    def _crop(
        self, images: Sequence[NDArray[np.uint8]], owner: NDArray[np.intp], affine: NDArray[np.float64]
    ) -> Batch:
        spec = self._spec
        n = len(owner)
        if len(self._crops) < n:
            self._crops = np.empty(self._batches.shape(n, spec.input_size), self._batches.dtype)
            self._mirrored = np.empty_like(self._crops) if self._flip_test else self._crops[:0]
        for index in range(owner[0], owner[-1] + 1):
            first, last = np.searchsorted(owner, [index, index + 1])
            if first == last:  # a picture without persons
                continue
            self._batches.crop(images[index], affine[first:last], spec.input_size, self._crops[first:last])
        return self._crops[:n]

    def _heatmaps(self, crops: Batch) -> NDArray[Any]:
        heatmaps = self._backend.run(crops)["heatmaps"]
        if not self._flip_test:
            return heatmaps
        mirrored = self._mirrored[: len(crops)]
        self._batches.mirror(crops, mirrored)
        return self._kernels.flip_average(
            heatmaps,
            self._backend.run(mirrored)["heatmaps"],
            self._spec.skeleton.flip_permutation,
            self._spec.coordinates == "legacy",
            out=heatmaps if heatmaps.dtype == np.float32 else None,
        )

    def _decode(self, heatmaps: NDArray[Any]) -> MapJoints:
        decoder = self._spec.decoder
        covariance = None
        if decoder.name == "soft_argmax":
            coords, scores, covariance = self._kernels.soft_argmax(heatmaps, decoder.beta)
            if decoder.refine == "quarter":
                coords = self._kernels.quarter_offset(heatmaps, coords, out=coords)
        else:
            coords, scores = self._kernels.argmax_offset(heatmaps, decoder.refine)
            coords[scores <= 0] = np.nan  # no peak: the coordinates mean nothing
        height, width = heatmaps.shape[2:]
        return MapJoints(coords, scores, covariance, (height, width))


class TopDown:
    """The steps from pictures and boxes to joints. One call at a time.

    Args:
        backend: the loaded model.
        kernels: namespace of kernels, from `edgepose.kernels.get`.
        flip_test: average with the mirrored crop, which doubles the network's work.
        crops: what crops, runs the network and decodes, instead of `HostCrops` with the former three; closed
            with this.

    Raises:
        ModelFormatError: the spec asks for what this pipeline does not do.
    """

    def __init__(
        self,
        backend: Backend,
        kernels: Kernels,
        *,
        flip_test: bool = False,
        crops: CropRunner | None = None,
    ) -> None:
        spec = backend.spec
        if spec.task != "topdown":
            raise ModelFormatError(f"model {spec.name!r} is {spec.task}; give a top-down model")
        if spec.decoder.name == "soft_argmax" and spec.decoder.refine == "taylor":
            raise ModelFormatError(
                f"model {spec.name!r} asks for a Taylor step after soft-argmax, which has no meaning; "
                "use refine 'quarter' or None"
            )
        self._spec = spec
        self._crops = crops or HostCrops(backend, kernels, flip_test=flip_test)

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], persons: Sequence[PersonBoxes]
    ) -> tuple[list[Poses], StageTimes]:
        """Estimate the poses of all persons of all pictures, batched over both.

        Args:
            images: BGR uint8 (H, W, 3) pictures.
            persons: the boxes of each.

        Returns:
            The poses of each picture, persons in the order of its boxes, and the time per stage.
        """
        times = StageTimes()
        spec = self._spec
        regions = [box_to_region(p.boxes, spec.input_size, p.padding) for p in persons]
        owner = np.repeat(np.arange(len(images)), [len(p.boxes) for p in persons])
        centers = np.concatenate([region[0] for region in regions])
        extents = np.concatenate([region[1] for region in regions])

        parts = []
        for start in range(0, len(owner), self._crops.batch):
            part = slice(start, start + self._crops.batch)
            affine = crop_affine(centers[part], extents[part], spec.input_size, spec.coordinates)
            joints = self._crops(images, owner[part], affine, times)
            clock = time.perf_counter()
            parts.append(self._in_picture(joints, centers[part], extents[part]))
            lap(times, "postprocess", clock)

        clock = time.perf_counter()
        poses = self._split(parts, persons)
        lap(times, "postprocess", clock)
        return poses, times

    def heatmaps(
        self, image: NDArray[np.uint8], persons: PersonBoxes
    ) -> tuple[Floats, NDArray[np.float64]] | None:
        """The maps of the persons of one picture, and where they lie in it.

        Returns:
            maps (n, k, h, w), raw, averaged where the flip test is on; and the affine (n, 2, 3) from their
            pixels to those of the picture. None where the maps stay on a device.
        """
        if not isinstance(self._crops, HostCrops):
            return None
        spec = self._spec
        centers, extents = box_to_region(persons.boxes, spec.input_size, persons.padding)
        affine = crop_affine(centers, extents, spec.input_size, spec.coordinates)
        k = len(spec.skeleton)
        parts = [
            self._crops.heatmaps(image, affine[start : start + self._crops.batch]).astype(np.float32)
            for start in range(0, len(affine), self._crops.batch)
        ]
        maps = np.concatenate(parts) if parts else np.zeros((0, k, *spec.input_size), np.float32)
        affine = crop_affine(centers, extents, maps.shape[2:], spec.coordinates)
        affine[:, :, 2] -= spec.decoder.bias
        return maps, affine

    def close(self) -> None:
        """Release what the steps hold besides the model."""
        self._crops.close()

    def _in_picture(
        self, joints: MapJoints, centers: Floats, extents: Floats
    ) -> tuple[Floats, Floats, Floats | None]:
        """Joints (n, k, 2) in picture pixels, raw scores (n, k), covariance (n, k, 2, 2) or None."""
        scale, shift = crop_scale(centers, extents, joints.size, self._spec.coordinates)
        scale, shift = scale[:, None], shift[:, None] - self._spec.decoder.bias
        keypoints = (joints.coords * scale + shift).astype(np.float32)
        covariance = joints.covariance
        if covariance is not None:
            covariance = (covariance * (scale[..., None] * scale[:, :, None])).astype(np.float32)
        return keypoints, joints.scores, covariance

    def _split(
        self, parts: list[tuple[Floats, Floats, Floats | None]], persons: Sequence[PersonBoxes]
    ) -> list[Poses]:
        """Clip the scores, score the persons, and hand each picture its own."""
        k = len(self._spec.skeleton)
        if len(parts) == 1:
            ((keypoints, scores, covariance),) = parts
        else:
            keypoints = np.concatenate([np.zeros((0, k, 2), np.float32), *(p[0] for p in parts)])
            scores = np.concatenate([np.zeros((0, k), np.float32), *(p[1] for p in parts)])
            covariance = None
            if self._spec.decoder.name == "soft_argmax":
                covariance = np.concatenate(
                    [np.zeros((0, k, 2, 2), np.float32), *(p[2] for p in parts if p[2] is not None)]
                )
        missing = ~np.isfinite(keypoints.sum(axis=2)) | np.isnan(scores)
        keypoints[missing] = np.nan
        scores = np.minimum(np.maximum(np.where(missing, 0, scores), 0), 1)
        box_scores = np.concatenate([p.scores for p in persons])
        person_scores = person_score(scores) * np.minimum(np.maximum(box_scores, 0), 1)

        poses = []
        stop = 0
        for person in persons:
            start, stop = stop, stop + len(person.boxes)
            mine = slice(start, stop)
            poses.append(
                Poses(
                    keypoints[mine],
                    scores[mine],
                    None if covariance is None else covariance[mine],
                    person_scores[mine],
                    person.boxes,
                    person.truncated,
                )
            )
        return poses


def person_score(scores: Floats) -> Floats:
    """Mean of the joint scores above 0.2, or 0 where there is none: (n, k) -> (n,).

    Source: the official COCO evaluation of SimpleBaseline, HRNet and LPN.
    """
    counted = scores > JOINT_SCORE_FLOOR
    total = np.where(counted, scores, 0).sum(axis=1, dtype=np.float32)
    return np.asarray(total / np.maximum(counted.sum(axis=1), 1), np.float32)
