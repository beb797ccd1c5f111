"""What the bottom-up kernels take and give: a network's raw maps, peaks and groups of them.

Sizes are (height, width), coordinates (x, y) in pixels of the final map, an integer at a pixel's centre
unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import _checks
from edgepose.kernels._checks import Maps, rejected
from edgepose.kernels._device_view import DeviceView, view

__all__ = ["Groups", "MapPass", "Peaks", "PoseMaps"]

MAX_TOP = 1 << 16
"""Most peaks per joint."""
MAX_PERSONS = 1 << 10
"""Most persons whose number can be asked for; the sums of costs fit 64 bits up to here."""
MAX_WINDOW = 255


@dataclass(frozen=True, eq=False)
class MapPass:
    """One run of a bottom-up network on one picture, at one scale.

    Attributes:
        heatmaps: maps (k, h_i, w_i) of the same joints, at rising resolution. Each but the last is resized to
            the last one's size; the mean of all is the pass's heatmap.
        tags: maps (k, h_i, w_i), a tag per joint, or (1, h_i, w_i), one for all joints; they are resized to
            the size of the last heatmap. Empty at a scale that gives no tags.
        flipped: whether the picture was mirrored. The maps are given as the network returned them.

    All maps are float32 or float16 arrays, not necessarily contiguous; for the kernels in CUDA they may lie
    on the device, packed, as objects with ``__cuda_array_interface__``.

    Raises:
        InvalidInputError: an argument is none of this; the message names it.
    """

    heatmaps: tuple[Maps, ...]
    tags: tuple[Maps, ...] = ()
    flipped: bool = False

    def __post_init__(self) -> None:
        for name in ("heatmaps", "tags"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or (name == "heatmaps" and not value):
                raise rejected(name, value, "a tuple of arrays, the largest last")
            object.__setattr__(self, name, tuple(value))
            for i, item in enumerate(value):
                _check_map(f"{name}[{i}]", item)
        k = self.joints
        for i, item in enumerate(self.heatmaps):
            if view(item).shape[0] != k:
                raise rejected(f"heatmaps[{i}]", item, f"as many maps as 'heatmaps[0]' has, {k}")
        for i, item in enumerate(self.tags):
            if view(item).shape[0] not in (1, k):
                raise rejected(f"tags[{i}]", item, f"one map or as many as 'heatmaps[0]' has, {k}")
        object.__setattr__(self, "flipped", _checks.switch("flipped", self.flipped))

    @property
    def joints(self) -> int:
        """Number of joints, k."""
        joints: int = view(self.heatmaps[0]).shape[0]
        return joints

    @property
    def map_size(self) -> tuple[int, int]:
        """(h, w) of the last heatmap."""
        height, width = view(self.heatmaps[-1]).shape[1:]
        return height, width


@dataclass(frozen=True, eq=False)
class PoseMaps:
    """All that a bottom-up network says about one picture.

    Attributes:
        passes: the runs, scales in descending order; at each scale the normal run, then, where there is one,
            the flipped one.
        size: (H, W) of the final map.
        flip_permutation: (k,) int64; joint j of the picture is joint ``flip_permutation[j]`` of its mirror
            image.

    Raises:
        InvalidInputError: an argument is none of this; the message names it.
    """

    passes: tuple[MapPass, ...]
    size: tuple[int, int]
    flip_permutation: NDArray[np.int64]

    def __post_init__(self) -> None:
        passes = self.passes
        if not isinstance(passes, (tuple, list)) or not all(isinstance(item, MapPass) for item in passes):
            raise rejected("passes", passes, "a tuple of MapPass")
        object.__setattr__(self, "passes", tuple(passes))
        flips = [False, *(item.flipped for item in passes)]
        if not passes or flips[1] or any(a and b for a, b in pairwise(flips)):
            found = f"an array of passes with flipped={flips[1:]}"
            raise rejected("passes", found, "at each scale a normal pass, then at most one flipped one")
        for i, item in enumerate(passes):
            if item.joints != passes[0].joints:
                found = f"an array of {item.joints} joints"
                raise rejected(f"passes[{i}]", found, f"the {passes[0].joints} joints of 'passes[0]'")
        object.__setattr__(self, "size", _checks.output_size("size", self.size))
        order = self.flip_permutation
        k = passes[0].joints
        usable = isinstance(order, np.ndarray) and order.dtype == np.int64 and order.shape == (k,)
        if not usable or not np.array_equal(np.sort(order), np.arange(k)):
            raise rejected("flip_permutation", order, f"an int64 array with each of 0 to {k - 1} once")
        object.__setattr__(self, "flip_permutation", np.ascontiguousarray(order))

    @property
    def joints(self) -> int:
        """Number of joints, k."""
        return self.passes[0].joints

    @property
    def tag_count(self) -> int:
        """Number of tag maps over all passes, t."""
        return sum(len(item.tags) for item in self.passes)

    @property
    def scales(self) -> int:
        """Number of scales."""
        return sum(not item.flipped for item in self.passes)


class Peaks(NamedTuple):
    """The best peaks of each joint's final heatmap; entries from ``count[j]`` on are zero.

    Attributes:
        xy: (k, top, 2) int32, pixels of the final map.
        scores: (k, top) float32, heatmap values, descending.
        tags: (k, top, t) float32.
        count: (k,) int32.
    """

    xy: NDArray[np.int32]
    scores: NDArray[np.float32]
    tags: NDArray[np.float32]
    count: NDArray[np.int32]  # type: ignore[assignment]  # not the method of tuples


class Groups(NamedTuple):
    """Peaks put together to persons.

    Attributes:
        persons: (p, k, 3 + t) float32: x, y, score and tags; a missing joint is all zero.
        truncated: whether the bound on the number of persons left somebody out.
    """

    persons: NDArray[np.float32]
    truncated: bool


def _check_map(name: str, given: object) -> None:
    wanted = "a float32 or float16 array (joints, h, w), no axis empty"
    value = device_view(name, given)
    if not isinstance(value, (np.ndarray, DeviceView)) or value.dtype not in (np.float32, np.float16):
        raise rejected(name, value, wanted)
    if value.ndim != 3 or not 1 <= min(value.shape) <= max(value.shape) <= _checks.MAX_SIDE:
        raise rejected(name, value, wanted)


def device_view(name: str, value: Any) -> Any:
    """`value` as the checks take it: arrays on the device become a `DeviceView`."""
    try:
        return view(value)
    except ValueError as error:
        raise rejected(name, str(error), "a packed array") from None


def check_maps(value: object, *, tagged: bool = False, device: bool = False) -> PoseMaps:
    """Check the `maps` of an op; with `tagged` they must have tags, with `device` they may lie there."""
    if not isinstance(value, PoseMaps):
        raise rejected("maps", value, "a PoseMaps")
    stacks = (item for run in value.passes for item in (*run.heatmaps, *run.tags))
    if not device and not all(isinstance(item, np.ndarray) for item in stacks):
        raise rejected("maps", "an array on the device", "numpy arrays, or use the kernels called 'cuda'")
    if tagged and value.tag_count == 0:
        raise rejected("maps", "an array of passes without tags", "passes of which one or more have tags")
    return value


def check_peak_options(window: Any, top: Any, threshold: Any) -> tuple[int, int, float]:
    """Check the options of `aggregate_nms_topk`."""
    side = whole_number("window", window, 1, MAX_WINDOW)
    if side % 2 == 0:
        raise rejected("window", window, f"an odd number from 1 to {MAX_WINDOW}")
    return side, whole_number("top", top, 1, MAX_TOP), number("threshold", threshold)


def check_peaks(value: Any, *, device: bool = False) -> Peaks:
    """Check the `peaks` of `group`; return them as packed arrays.

    With `device`, all but the counts may be `DeviceView` objects, which stay as they are.
    """
    wanted = "a Peaks: xy (k, top, 2) int32, scores (k, top), tags (k, top, t) float32, count (k,) int32"
    if not isinstance(value, tuple) or len(value) != 4:
        raise rejected("peaks", value, wanted)
    for item, dtype, axes in zip(
        value, (np.int32, np.float32, np.float32, np.int32), (3, 2, 3, 1), strict=True
    ):
        known = isinstance(item, np.ndarray) or (device and isinstance(item, DeviceView))
        if not known or item.dtype != dtype or item.ndim != axes:
            raise rejected("peaks", item, wanted)
    xy, scores, tags, count = value
    k, top = scores.shape
    if k == 0 or xy.shape != (k, top, 2) or tags.shape[:2] != (k, top) or count.shape != (k,):
        shapes = ", ".join(str(item.shape) for item in value)
        raise rejected("peaks", f"an array of other sizes than the rest: {shapes}", wanted)
    if tags.shape[2] == 0:
        raise rejected("peaks", "an array of peaks without tags", "peaks with one or more tags each")
    if count.min() < 0 or count.max() > top:
        raise rejected("peaks", f"an array of counts beyond {top}", "counts from 0 to top")
    packed: list[Any] = [
        item if isinstance(item, DeviceView) else np.ascontiguousarray(item) for item in value
    ]
    return Peaks(*packed)


def check_joint_order(value: Any, joints: int) -> NDArray[np.int64]:
    """Check the `joint_order` of `group`: each joint once."""
    wanted = f"each joint index from 0 to {joints - 1} once"
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):
        raise rejected("joint_order", value, wanted) from None
    if found.dtype.kind not in "iu" or found.shape != (joints,):
        raise rejected("joint_order", value, wanted)
    if not np.array_equal(np.sort(found), np.arange(joints)):
        raise rejected("joint_order", value, wanted)
    return found.astype(np.int64)


def check_persons(value: object, maps: PoseMaps, *, tagged: bool = False) -> NDArray[np.float32]:
    """Check persons (p, k, 3 + t); with `tagged`, t must be that of the maps. Return them packed."""
    return np.require(check_persons_shape(value, maps, tagged=tagged), np.float32, ["C", "A"])


def check_persons_shape(value: Any, maps: PoseMaps, *, tagged: bool = False) -> Any:
    """The same for numpy arrays and `DeviceView` objects, which are returned as they are."""
    k, t = maps.joints, maps.tag_count
    wanted = (
        f"a float32 array (persons, {k}, {3 + t})" if tagged else f"a float32 array (persons, {k}, 3 or more)"
    )
    if not isinstance(value, (np.ndarray, DeviceView)) or value.dtype != np.float32 or value.ndim != 3:
        raise rejected("persons", value, wanted)
    if value.shape[1] != k or value.shape[2] < 3 or (tagged and value.shape[2] != 3 + t):
        raise rejected("persons", value, wanted)
    return value


def check_group_options(
    tag_threshold: Any, use_detection_val: Any, ignore_too_much: Any, max_persons: Any, official: Any
) -> tuple[float, bool, bool, int, bool]:
    """Check the options of `group`."""
    return (
        number("tag_threshold", tag_threshold),
        _checks.switch("use_detection_val", use_detection_val),
        _checks.switch("ignore_too_much", ignore_too_much),
        whole_number("max_persons", max_persons, 1, MAX_PERSONS),
        _checks.switch("official", official),
    )


def number(name: str, value: Any) -> float:
    """Check a number that is not NaN."""
    try:
        found = math.nan if isinstance(value, (str, bytes, bool, np.bool_)) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if math.isnan(found):
        raise rejected(name, value, "a number")
    return found


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """Check a whole number within bounds."""
    usable = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not usable or not low <= value <= high:
        raise rejected(name, value, f"a whole number from {low} to {high}")
    return int(value)
