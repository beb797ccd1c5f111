"""Bottom-up pose estimation: all persons of a picture from one run of the network.

Source: HigherHRNet (Cheng et al. 2020) with the grouping of associative embedding (Newell et al. 2017).
The steps are those of its official test code: resize, network (also mirrored, also at other scales),
aggregate, peaks, group, adjust, score, refine, and back to the picture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import HEATMAPS, TAGS, Batch, channels_fit
from edgepose.errors import InvalidInputError, ModelFormatError
from edgepose.kernels import Kernels
from edgepose.kernels.pose_maps import MAX_PERSONS, MapPass, Peaks, PoseMaps
from edgepose.pipeline.batches import BatchMaker
from edgepose.pipeline.geometry import apply_affine
from edgepose.pipeline.poses import Floats, Poses, StageTimes, lap
from edgepose.pipeline.regions import Region, fitted_region, input_region
from edgepose.spec import Grouping, ModelSpec

__all__ = [
    "BottomUp",
    "Decoded",
    "FrameRunner",
    "decode_maps",
    "keypoint_boxes",
    "map_pass",
    "people_limit",
    "person_score",
    "split_outputs",
    "to_picture",
]

MAX_BATCH_PIXELS = 1 << 20
"""Input pixels per run of the network, of pictures that share a size; bounds its memory."""
MAX_PIXELS = 1 << 24
"""Input pixels of one picture at one scale; long pictures at large scales would need more memory than there
is. A picture of 16:9 at scale 2 of a 640 pixel model takes less than a fifth of them."""
MIN_SCALE, MAX_SCALE = 0.25, 4.0

Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[Any], Outputs]


def split_outputs(outputs: Sequence[NDArray[Any]], joints: int) -> dict[str, NDArray[Any]]:
    """Name the outputs of a network in HigherHRNet's own layout.

    Args:
        outputs: (n, joints or more, h, w) heatmaps by rising resolution; channels after the joints are
            tags.
        joints: number of joints.

    Returns:
        views by name: ``heatmaps``, ``heatmaps_high``, ``tags`` ... as in a model file.
    """
    named = {}
    for stage, output in enumerate(outputs):
        suffix = "" if stage == 0 else "_high" if stage == 1 else f"_high{stage}"
        named[f"heatmaps{suffix}"] = output[:, :joints]
        if output.shape[1] > joints:
            named[f"tags{suffix}"] = output[:, joints:]
    return named


def map_pass(outputs: Outputs, index: int, joints: int, *, flipped: bool, tags: bool) -> MapPass:
    """One picture's part of a run.

    Args:
        outputs: arrays (n, channels, h, w) by name.
        index: of the picture in the batch.
        joints: channels that heatmaps must have. Tags have one channel for all joints, or one per joint
            for each number that makes up a tag, those of the first number first.
        flipped: the run was on mirrored pictures.
        tags: take the tags as well.

    Raises:
        ModelFormatError: an output is missing, has the wrong shape or type, or stands in the wrong place.
    """
    heatmaps: list[NDArray[Any]] = []
    tag_maps: list[NDArray[Any]] = []
    for name, output in outputs.items():
        if not name.startswith((HEATMAPS, TAGS)):
            continue
        is_tags = name.startswith(TAGS)
        channels = output.shape[1] if output.ndim == 4 else 0
        if (
            not channels_fit(name, channels, joints)
            or not min(output.shape[2:])
            or output.dtype not in (np.float32, np.float16)
        ):
            wanted = f"1, {joints} or a multiple of it" if is_tags else str(joints)
            raise ModelFormatError(
                f"the network's output {name!r} does not fit; found {output.dtype} {output.shape}, expected "
                f"float32 or float16 (n, channels, h, w) with channels {wanted}; export the model again"
            )
        maps = output[index]
        if is_tags:
            tag_maps.extend(np.split(maps, max(1, channels // joints)))
        else:
            heatmaps.append(maps)
    if not heatmaps or not tag_maps:
        raise ModelFormatError(
            f"the network gives no {'tags' if heatmaps else 'heatmaps'}; found outputs {sorted(outputs)}; "
            "export a bottom-up model with outputs 'heatmaps' and 'tags'"
        )
    sizes = [maps.shape[1:] for maps in heatmaps]
    if any(before[0] > after[0] or before[1] > after[1] for before, after in pairwise(sizes)):
        raise ModelFormatError(
            f"the network's heatmaps stand in the wrong order; found (height, width) {sizes}, expected "
            "rising sizes; export the model again"
        )
    return MapPass(tuple(heatmaps), tuple(tag_maps) if tags else (), flipped)


class Decoded(NamedTuple):
    """Persons in pixels of the final map.

    Attributes:
        persons: (p, k, 3 + t) float32: x, y, score and tags; zero where a joint is missing.
        scores: (p,) float32, see `person_score`.
        truncated: a person had to be dropped, or a joint has more peaks than are taken; official: as many
            as are taken, so that some may be missing.
    """

    persons: Floats
    scores: Floats
    truncated: bool


def decode_maps(
    maps: PoseMaps,
    kernels: Kernels,
    grouping: Grouping,
    *,
    refine: bool | None = None,
    official: bool = False,
    max_persons: int | None = None,
) -> Decoded:
    """From a network's maps to persons: peaks, grouping, adjusting, scoring, refining.

    Args:
        maps: the outputs of all runs on one picture.
        kernels: from `edgepose.kernels.get`.
        grouping: of the model's spec.
        refine: fill missing joints; None: as `grouping` says.
        official: assign joints exactly as HigherHRNet's code does, ties included, without a limit on
            persons.
        max_persons: find up to so many persons where that is more than ``grouping.max_people``.
    """
    limit = people_limit(grouping, official=official, max_persons=max_persons)
    top = limit if official else limit + 1  # one more, to know whether any is left out
    peaks = kernels.aggregate_nms_topk(maps, grouping.window, top, grouping.detection_threshold)
    left_out = bool((peaks.count == top).any())
    if not official:
        xy, scores, tags, count = peaks
        peaks = Peaks(xy[:, :limit], scores[:, :limit], tags[:, :limit], np.minimum(count, np.int32(limit)))
    persons, truncated = kernels.group(
        peaks,
        grouping.joint_order,
        tag_threshold=grouping.tag_threshold,
        use_detection_val=grouping.use_detection_val,
        ignore_too_much=grouping.ignore_too_much,
        max_persons=limit,
        official=official,
    )
    if grouping.adjust:
        persons = kernels.adjust(maps, persons)
    person_scores = person_score(persons)
    if grouping.refine if refine is None else refine:
        persons = kernels.refine(maps, persons)
    return Decoded(persons, person_scores, truncated or left_out)


def people_limit(grouping: Grouping, *, official: bool, max_persons: int | None) -> int:
    """Peaks that are taken per joint, and persons that a joint is compared with; see `decode_maps`."""
    if official:
        return grouping.max_people
    return max(grouping.max_people, min(max_persons or 0, MAX_PERSONS))


def person_score(persons: Floats) -> Floats:
    """Mean of a person's joint scores, missing joints counting as 0: (p, k, 3 + t) -> (p,)."""
    return np.asarray(persons[:, :, 2].mean(axis=1, dtype=np.float32), np.float32)


def to_picture(decoded: Decoded, region: Region, size: tuple[int, int]) -> Poses:
    """Map persons from the final map, of this (height, width), to the picture.

    Missing joints become NaN; scores are clipped to 0 to 1.
    """
    persons = decoded.persons
    affine = np.repeat(region.affine(size), len(persons), axis=0)
    keypoints = apply_affine(affine, persons[:, :, :2]).astype(np.float32)
    missing = ~(persons[:, :, 2] > 0)
    keypoints[missing] = np.nan
    scores = np.clip(np.where(missing, 0, persons[:, :, 2]), 0, 1)
    person_scores = np.clip(np.nan_to_num(decoded.scores), 0, 1)
    return Poses(keypoints, scores, None, person_scores, keypoint_boxes(keypoints), decoded.truncated)


def keypoint_boxes(keypoints: Floats) -> Floats:
    """Smallest boxes around joints: (n, k, 2) -> (n, 4) xyxy; NaN joints count not, without any: zeros."""
    boxes = np.empty((len(keypoints), 4), np.float32)
    np.fmin.reduce(keypoints, axis=1, out=boxes[:, :2], initial=np.nan)
    np.fmax.reduce(keypoints, axis=1, out=boxes[:, 2:], initial=np.nan)
    boxes[np.isnan(boxes)] = 0
    return boxes


class FrameRunner(Protocol):
    """A picture's regions, network, peaks and grouping as one step."""

    def __call__(
        self,
        image: NDArray[np.uint8],
        regions: Sequence[Region],
        size: tuple[int, int] | None,
        times: StageTimes,
    ) -> tuple[Decoded, tuple[int, int]]:
        """Find the persons of a picture.

        Args:
            image: BGR uint8 (H, W, 3).
            regions: in the order of the runs, by falling scale, see `BottomUp.regions`.
            size: (height, width) of the final map; None: that of the network's largest heatmaps.
            times: the time of each stage is added to it.

        Returns:
            The persons, and the size of the final map.
        """

    def close(self) -> None:
        """Release what it holds."""


class BottomUp:
    """The steps from pictures to all their persons. Reuses its buffers: one call at a time.

    Args:
        run: the network: a batch in the form of `ModelSpec.input_format` to outputs by name, as
            `Backend.run` gives them (see `split_outputs` for a network's own layout). The batch is
            overwritten after the call.
        spec: of a bottom-up model.
        kernels: from `edgepose.kernels.get`.
        fixed_size: (height, width) if the network takes no other.
        flip_test: average with the mirrored picture, which doubles the network's work.
        scales: run at each of these scales and average (HigherHRNet's multi-scale test is 0.5, 1, 2).
        refine, official, max_persons: see `decode_maps`.
        frames: what crops, runs the network and decodes, instead of `run` and the kernels; closed with this.

    Raises:
        ModelFormatError: the spec is not that of a bottom-up model.
        InvalidInputError: the scales cannot be used.
    """

    def __init__(
        self,
        run: Run,
        spec: ModelSpec,
        kernels: Kernels,
        *,
        fixed_size: tuple[int, int] | None = None,
        flip_test: bool = False,
        scales: Sequence[float] = (1.0,),
        refine: bool | None = None,
        official: bool = False,
        max_persons: int | None = None,
        frames: FrameRunner | None = None,
    ) -> None:
        if spec.grouping is None:
            raise ModelFormatError(f"model {spec.name!r} is {spec.task}; give a bottom-up model")
        self._run = run
        self._spec = spec
        self._grouping = spec.grouping
        self._kernels = kernels
        self._fixed_size = fixed_size
        self._flip_test = flip_test
        self._scales = check_scales(scales, fixed_size)
        self._refine = refine
        self._official = official
        self._max_persons = max_persons
        self._frames = frames
        self._batches = BatchMaker(spec, kernels)
        self._buffers: list[Batch] = [np.empty(0, self._batches.dtype), np.empty(0, self._batches.dtype)]

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> tuple[list[Poses], StageTimes]:
        """Estimate the poses of all persons of all pictures; pictures of one size share runs.

        Args:
            images: BGR uint8 (H, W, 3) pictures.

        Returns:
            The poses of each picture, persons in the order in which grouping found them, and the time
            per stage.

        Raises:
            InvalidInputError: a picture is too large for a run, see `regions`.
        """
        times = StageTimes()
        poses: list[Poses] = []
        plans = [self.regions(*image.shape[:2]) for image in images]
        if self._frames is not None:
            for image, regions in zip(images, plans, strict=True):
                decoded, size = self._frames(image, regions, self._projected_size(image), times)
                clock = time.perf_counter()
                poses.append(to_picture(decoded, regions[-1], size))
                lap(times, "postprocess", clock)
            return poses, times
        for part in _chunks(plans):
            stacks = self.run_maps(images[part], plans[part], times)
            clock = time.perf_counter()
            for maps, regions in zip(stacks, plans[part], strict=True):
                poses.append(to_picture(self._decode(maps), regions[-1], maps.size))
            lap(times, "postprocess", clock)
        return poses, times

    def warmup(self, image: NDArray[np.uint8]) -> None:
        """Take all steps for a picture and for a joint made up in it, without which the last are left out."""
        if self._frames is not None:  # which takes them all for every picture
            self([image])
            return
        plan = self.regions(*image.shape[:2])
        (maps,) = self.run_maps([image], [plan])
        passes = []
        peak = 10 * (1 + self._grouping.detection_threshold)
        for found in maps.passes:
            heatmaps = tuple(np.zeros_like(item) for item in found.heatmaps)
            for item in heatmaps:
                item[0, item.shape[1] // 2, item.shape[2] // 2] = peak
            passes.append(replace(found, heatmaps=heatmaps))
        to_picture(self._decode(replace(maps, passes=tuple(passes))), plan[-1], maps.size)

    def _decode(self, maps: PoseMaps) -> Decoded:
        return decode_maps(
            maps,
            self._kernels,
            self._grouping,
            refine=self._refine,
            official=self._official,
            max_persons=self._max_persons,
        )

    def regions(self, height: int, width: int) -> list[Region]:
        """The regions of a picture, in the order of the runs: by falling scale.

        Raises:
            InvalidInputError: one has more than `MAX_PIXELS`, where the network's size is free.
        """
        if self._fixed_size is not None:
            return [fitted_region(height, width, self._fixed_size)]
        smallest, side = self._scales[-1], self._spec.input_size[0]
        regions = [input_region(height, width, side, scale, smallest) for scale in self._scales]
        rows, columns = regions[0].size
        if rows * columns > MAX_PIXELS:
            raise InvalidInputError(
                f"a picture of {width}x{height} pixels cannot be run at scale {self._scales[0]:g}; found a "
                f"network input of {columns}x{rows}, at most {MAX_PIXELS / 1e6:.1f} million pixels are run "
                "at once; give smaller scales, or cut a long picture into parts"
            )
        return regions

    def run_maps(
        self,
        images: Sequence[NDArray[np.uint8]],
        plans: Sequence[Sequence[Region]],
        times: StageTimes | None = None,
    ) -> list[PoseMaps]:
        """Run the network on pictures whose regions have the same sizes; return the maps of each.

        Args:
            images: BGR uint8 (H, W, 3) pictures.
            plans: `regions` of each.
            times: preprocess and inference are added to it.
        """
        times = times or StageTimes()
        joints = len(self._spec.skeleton)
        passes: list[list[MapPass]] = [[] for _ in images]
        for step, scale in enumerate(self._scales):
            clock = time.perf_counter()
            batch = self._crop(images, [regions[step] for regions in plans])
            clock = lap(times, "preprocess", clock)
            runs = [(self._run(batch), False)]
            clock = lap(times, "inference", clock)
            if self._flip_test:
                mirrored = self._buffer(1, batch.shape)
                self._batches.mirror(batch, mirrored)
                clock = lap(times, "preprocess", clock)
                runs.append((self._run(mirrored), True))
                lap(times, "inference", clock)
            tags = len(self._scales) == 1 or scale == 1
            for outputs, flipped in runs:
                for index, found in enumerate(passes):
                    found.append(map_pass(outputs, index, joints, flipped=flipped, tags=tags))
        permutation = self._spec.skeleton.flip_permutation
        return [
            PoseMaps(
                tuple(found), self._projected_size(image) or _size_of(found[0].heatmaps[-1]), permutation
            )
            for image, found in zip(images, passes, strict=True)
        ]

    def heatmaps(self, image: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.float64]] | None:
        """The network's largest maps of one picture, and where they lie in it.

        Returns:
            maps (1, k, h, w), raw, of the run at the largest scale and not mirrored; and the affine
            (1, 2, 3) from their pixels to those of the picture. None where the maps stay on a device.
        """
        if self._frames is not None:
            return None
        plan = self.regions(*image.shape[:2])
        (found,) = self.run_maps([image], [plan])
        maps = found.passes[0].heatmaps[-1].astype(np.float32)[None]
        return maps, plan[0].affine(_size_of(maps[0]))

    def close(self) -> None:
        """Release what the steps hold besides the model."""
        if self._frames is not None:
            self._frames.close()

    def _projected_size(self, image: NDArray[np.uint8]) -> tuple[int, int] | None:
        """Size of the final map; None where it is that of the network's largest heatmaps."""
        if not self._grouping.project_to_image:
            return None
        if self._fixed_size is not None:
            return self._fixed_size
        height, width = image.shape[:2]
        return input_region(height, width, self._spec.input_size[0], 1.0, self._scales[-1]).size

    def _crop(self, images: Sequence[NDArray[np.uint8]], regions: Sequence[Region]) -> Batch:
        size = regions[0].size
        batch = self._buffer(0, self._batches.shape(len(images), size))
        for index, (image, region) in enumerate(zip(images, regions, strict=True)):
            self._batches.crop(image, region.affine(), size, batch[index : index + 1])
        return batch

    def _buffer(self, index: int, shape: tuple[int, ...]) -> Batch:
        count = math.prod(shape)
        if len(self._buffers[index]) < count:
            self._buffers[index] = np.empty(count, self._batches.dtype)
        return self._buffers[index][:count].reshape(shape)


def _size_of(maps: NDArray[Any]) -> tuple[int, int]:
    height, width = maps.shape[-2:]
    return height, width


def check_scales(scales: Sequence[float], fixed_size: tuple[int, int] | None = None) -> tuple[float, ...]:
    """Check the scales of a multi-scale test; return them in falling order.

    Raises:
        InvalidInputError: they are no numbers from 0.25 to 4, repeated, without 1 among several, would
            give sizes that a network cannot take, or the network's size is fixed.
    """
    found: tuple[float, ...] = ()
    try:
        values = np.asarray(scales)
    except (TypeError, ValueError):
        values = np.zeros(())
    if values.ndim == 1 and values.dtype.kind in "iuf":
        found = tuple(sorted(map(float, values), reverse=True))
    wanted = ""
    if not found or not all(MIN_SCALE <= scale <= MAX_SCALE for scale in found):
        wanted = f"numbers from {MIN_SCALE:g} to {MAX_SCALE:g}, for instance (0.5, 1, 2)"
    elif len(set(found)) < len(found):
        wanted = "each scale once"
    elif len(found) > 1 and 1 not in found:
        wanted = "1 among several scales: the tags are taken there"
    elif any(abs(half - round(half)) > 1e-6 for half in (2 * scale / found[-1] for scale in found)):
        wanted = "scales that are multiples of half the smallest, so that the network can take the sizes"
    elif fixed_size is not None and found != (1.0,):
        wanted = f"(1,): this model takes pictures of {fixed_size[1]}x{fixed_size[0]} alone"
    if wanted:
        raise InvalidInputError(f"scales are not usable; found {scales!r}; give {wanted}")
    return found


def _chunks(plans: Sequence[Sequence[Region]]) -> Iterator[slice]:
    """Runs of neighbouring pictures whose regions have the same sizes, up to `MAX_BATCH_PIXELS`."""
    start = 0
    while start < len(plans):
        sizes = [region.size for region in plans[start]]
        most = max(1, MAX_BATCH_PIXELS // math.prod(sizes[0]))
        stop = start + 1
        while stop < min(len(plans), start + most) and [r.size for r in plans[stop]] == sizes:
            stop += 1
        yield slice(start, stop)
        start = stop
