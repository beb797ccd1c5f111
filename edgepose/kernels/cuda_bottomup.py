"""The bottom-up kernels in CUDA (``csrc/cuda``): the same contract as `edgepose.kernels.reference_bottomup`
and `edgepose.kernels.reference_grouping`.

Two ways lead to them. The ops `aggregate_nms_topk`, `group`, `adjust` and `refine` take and give arrays as
all ops of `edgepose.kernels.cuda` do, and wait. `PoseMapsOnDevice` is for maps that a network left on the
device: it runs all steps on a stream, without copies and without waiting, in memory that it took once, so
that a CUDA graph can record it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import _cuda, pose_maps
from edgepose.kernels._checks import rejected
from edgepose.kernels._device_memory import STREAM, Call, DeviceArray, device_view
from edgepose.kernels._device_view import DeviceView
from edgepose.kernels.pose_maps import Groups, Peaks, PoseMaps

__all__ = [
    "MAPS",
    "PLANE",
    "FoundPersons",
    "MapsAt",
    "PoseMapsOnDevice",
    "adjust",
    "aggregate_nms_topk",
    "group",
    "refine",
]

MAX_PIXELS = (1 << 31) - 1
"""Most pixels of a map, and of the final one."""

MAPS = np.dtype(
    {
        "names": ["data", "half", "count", "height", "width"],
        "formats": [np.uint64, np.bool_, np.uint64, np.int32, np.int32],
        "offsets": [0, 8, 16, 24, 28],
        "itemsize": 32,
    }
)
"""``Maps`` of csrc/core/kernels.hpp: a stack of maps at a device address."""
PLANE = np.dtype(
    {
        "names": ["parts", "count", "height", "width", "final_height", "final_width", "flipped", "same_size"],
        "formats": [np.uint64, *[np.int32] * 5, np.bool_, np.bool_],
        "offsets": [0, 8, 12, 16, 20, 24, 28, 29],
        "itemsize": 32,
    }
)
"""``PlaneSource`` of csrc/core/final_map.hpp: what one run says, as an array of `MAPS`."""

_HEADER = 16
"""Bytes of ``GroupCounts`` in csrc/cuda/pose_kernels.hpp."""


@dataclass(frozen=True)
class MapsAt:
    """Packed maps at a device address, for a `MapPass`. Whoever makes it keeps the memory.

    Attributes:
        pointer: device address.
        shape: (k, h, w).
        half: whether the maps are float16, else float32.
    """

    pointer: int
    shape: tuple[int, int, int]
    half: bool = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": "<f2" if self.half else "<f4",
            "data": (self.pointer, True),
            "strides": None,
            "stream": None,
            "version": 3,
        }


class FoundPersons(NamedTuple):
    """What `PoseMapsOnDevice` found.

    Attributes:
        persons: (p, k, 3 + t) float32, pixels of the final map: x, y, score and tags; a missing joint is
            zero.
        scores: (p,) float32: means of the joint scores before refining.
        truncated: a person had to be dropped, or a joint has more peaks than are taken; official: as many as
            are taken.
    """

    persons: NDArray[np.float32]
    scores: NDArray[np.float32]
    truncated: bool


def _described(
    maps: PoseMaps, address: Callable[[Any], int], put: Callable[[NDArray[Any]], int]
) -> tuple[_cuda.FinalMaps, NDArray[Any]]:
    """Maps as the kernels take them.

    Args:
        maps: checked.
        address: gives the device address of a stack of maps.
        put: copies an array to the device and gives its address.

    Returns:
        the maps, and what must be kept on the host with them.
    """
    stacks = [device_view("maps", item) for run in maps.passes for item in (*run.heatmaps, *run.tags)]
    for size in (maps.size, *(item.shape[1:] for item in stacks)):
        if size[0] * size[1] > MAX_PIXELS:
            raise rejected(
                "maps", f"an array of {size[0]} x {size[1]} pixels", f"at most {MAX_PIXELS} pixels"
            )
    parts = np.zeros(len(stacks), MAPS)
    for at, item in enumerate(stacks):
        parts[at] = (address(item), item.dtype == np.float16, *item.shape)
    base = put(parts)
    heat: list[tuple[int, ...]] = []
    tags: list[tuple[int, ...]] = []
    for run in maps.passes:
        rest = (*run.map_size, *maps.size, run.flipped, run.map_size == maps.size)
        heat.append((base, len(run.heatmaps), *rest))
        base += len(run.heatmaps) * MAPS.itemsize
        for _ in run.tags:
            tags.append((base, 1, *rest))
            base += MAPS.itemsize
    planes = np.array([*heat, *tags], PLANE)
    final = _cuda.FinalMaps(
        planes=put(planes),
        on_host=planes.ctypes.data,
        flip=put(maps.flip_permutation),
        runs=len(maps.passes),
        scales=maps.scales,
        tag_count=maps.tag_count,
        heat_parts=sum(len(run.heatmaps) for run in maps.passes),
        height=maps.size[0],
        width=maps.size[1],
        joints=maps.joints,
    )
    return final, planes


class PoseMapsOnDevice:
    """All steps from a network's maps on the device to persons there, on a stream.

    Takes all its memory when made, and waits for it then. `run` puts the steps on a stream and returns at
    once; it may be captured into a CUDA graph. What was found comes back by one copy of `result_bytes` bytes
    from `result`, which `read` takes apart. One stream at a time.

    Args:
        maps: arrays on the device (`MapsAt`, or anything with ``__cuda_array_interface__``), with tags. Their
            addresses are fixed from here on; what stands there is read by the work of `run`.
        joint_order, window, tag_threshold, use_detection_val, ignore_too_much: see the ops.
        detection_threshold: peaks are above it.
        limit: peaks taken per joint, and most persons (official: most that candidates can join).
        adjust, refine: whether to take these steps.
        official: as in `group`.

    Raises:
        InvalidInputError: an argument is none of this; the message names it.

    Attributes:
        result: device address of the result block.
        result_bytes: its size.
    """

    def __init__(
        self,
        maps: PoseMaps,
        joint_order: Sequence[int] | NDArray[np.int64],
        *,
        window: int = 5,
        limit: int = 30,
        detection_threshold: float = 0.1,
        tag_threshold: float = 1.0,
        use_detection_val: bool = True,
        ignore_too_much: bool = False,
        adjust: bool = True,
        refine: bool = True,
        official: bool = False,
    ) -> None:
        maps = pose_maps.check_maps(maps, tagged=True, device=True)
        options = pose_maps.check_group_options(
            tag_threshold, use_detection_val, ignore_too_much, limit, official
        )
        top = limit if official else limit + 1  # one more, to know whether any is left out
        self._options = pose_maps.check_peak_options(window, top, detection_threshold)
        order = pose_maps.check_joint_order(joint_order, maps.joints)
        k, t = maps.joints, maps.tag_count
        self._shape = rows, _, _ = (k * limit if official else limit, k, 3 + t)
        self._persons_at = -(-(_HEADER + 4 * rows) // 16) * 16
        self.result_bytes = self._persons_at + 4 * math.prod(self._shape)

        self._memory: list[DeviceArray] = []
        self._maps, self._planes = _described(maps, _address_on_device, self._put)
        places = (self._room(size) for size in (8 * k * top, 4 * k * top, 4 * k * top * t, 4 * k))
        self._peaks = _cuda.Peaks(k, top, t, *places)
        self.result = self._room(self.result_bytes)
        persons = self.result + self._persons_at
        self._grouping = _cuda.GroupTask(
            self._peaks,
            limit,
            top,
            self._put(order),
            *options,
            persons=persons,
            scores=self.result + _HEADER,
            rows=rows,
            counts=self.result,
        )
        self._settling = _cuda.PersonsTask(persons, rows, k, 3 + t, self.result, adjust, refine, self._peaks)
        self._settles = adjust or refine
        self._scratch = self._room(
            max(
                _cuda.find_peaks_scratch(self._maps, *self._options),
                _cuda.group_scratch(self._grouping),
                _cuda.settle_scratch(self._maps, self._settling),
            )
        )

    def _put(self, array: NDArray[Any]) -> int:
        self._memory.append(DeviceArray.of(array, pooled=False))
        return self._memory[-1].pointer

    def _room(self, size: int) -> int:
        self._memory.append(DeviceArray((size,), np.uint8, pooled=False))
        return self._memory[-1].pointer

    def run(self, stream: int) -> None:
        """Put all steps on a stream; the result block is complete when they are done."""
        self.find_peaks(stream)
        self.group(stream)
        self.settle(stream)

    def find_peaks(self, stream: int) -> None:
        """The first step alone."""
        _cuda.find_peaks(self._maps, *self._options, self._peaks, self._scratch, stream)

    def group(self, stream: int) -> None:
        """The second step alone: persons and their scores out of the peaks."""
        _cuda.group(self._grouping, self._scratch, stream)

    def settle(self, stream: int) -> None:
        """The last step alone, adjusting and refining, as far as wanted; it changes the persons."""
        if self._settles:
            _cuda.settle(self._maps, self._settling, self._scratch, stream)

    def read(self, result: NDArray[np.uint8]) -> FoundPersons:
        """Take a copy of the result block apart.

        Args:
            result: (result_bytes,) uint8 on the host. What is returned shares its memory.
        """
        count, truncated, left_out, _ = result[:_HEADER].view(np.int32).tolist()
        scores = result[_HEADER : _HEADER + 4 * self._shape[0]].view(np.float32)
        persons = result[self._persons_at :].view(np.float32).reshape(self._shape)
        return FoundPersons(persons[:count], scores[:count], bool(truncated or left_out))

    def close(self) -> None:
        """Give the memory back; no work on it may be under way, and `run` must not be called any more."""
        for item in self._memory:
            item.free()

    def __enter__(self) -> PoseMapsOnDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address_on_device(item: Any) -> int:
    if not isinstance(item, DeviceView):
        raise rejected("maps", item, "arrays on the device")
    return item.pointer


def aggregate_nms_topk(maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1) -> Peaks:
    """See `edgepose.kernels.reference.aggregate_nms_topk`."""
    maps = pose_maps.check_maps(maps, device=True)
    options = pose_maps.check_peak_options(window, top, threshold)
    k, t, top = maps.joints, maps.tag_count, options[1]
    with Call() as call:
        final, _kept = _described(maps, call.put, call.put_host)
        out = _cuda.Peaks(
            k,
            top,
            t,
            call.result(None, (k, top, 2), np.int32),
            call.result(None, (k, top)),
            call.result(None, (k, top, t)),
            call.result(None, (k,), np.int32),
        )
        _cuda.find_peaks(final, *options, out, call.room(_cuda.find_peaks_scratch(final, *options)), STREAM)
        return Peaks(*call.finish())


def group(
    peaks: Peaks,
    joint_order: Sequence[int] | NDArray[np.int64],
    tag_threshold: float = 1.0,
    use_detection_val: bool = True,
    ignore_too_much: bool = False,
    max_persons: int = 30,
    official: bool = False,
) -> Groups:
    """See `edgepose.kernels.reference.group`."""
    if isinstance(peaks, tuple):
        views = [device_view("peaks", item) for item in peaks]
        if len(views) == 4 and isinstance(views[3], DeviceView):
            views[3] = _on_host(views[3])
        peaks = tuple(views)  # type: ignore[assignment]  # the check makes them Peaks
    peaks = pose_maps.check_peaks(peaks, device=True)
    k, top, t = peaks.tags.shape
    order = pose_maps.check_joint_order(joint_order, k)
    options = pose_maps.check_group_options(
        tag_threshold, use_detection_val, ignore_too_much, max_persons, official
    )
    total = int(peaks.count.sum())
    rows = total if official else min(total, max_persons)
    with Call() as call:
        given = _cuda.Peaks(k, top, t, *(call.put(item) for item in peaks))
        persons, counts = call.result(None, (rows, k, 3 + t)), np.empty(4, np.int32)
        counts_at = call.room(counts.nbytes)
        task = _cuda.GroupTask(
            given,
            int(peaks.count.max()),
            0,
            call.put_host(order),
            *options,
            persons=persons,
            scores=0,
            rows=rows,
            counts=counts_at,
        )
        _cuda.group(task, call.room(_cuda.group_scratch(task)), STREAM)
        _cuda.copy_out(counts.ctypes.data, counts_at, counts.nbytes, STREAM)
        (found,) = call.finish()
    count, truncated, _, _ = counts.tolist()
    if isinstance(found, DeviceArray):
        found.shape = (count, k, 3 + t)
    else:
        found = found[:count]
    return Groups(found, bool(truncated))


def _on_host(value: DeviceView) -> NDArray[Any]:
    if value.stream is not None:
        _cuda.synchronize(value.stream)
    result = np.empty(value.shape, value.dtype)
    _cuda.copy_out(result.ctypes.data, value.pointer, result.nbytes, STREAM)
    _cuda.synchronize(STREAM)
    return result


def adjust(maps: PoseMaps, persons: Any) -> Any:
    """See `edgepose.kernels.reference.adjust`."""
    maps = pose_maps.check_maps(maps, device=True)
    return _settled(maps, pose_maps.check_persons_shape(device_view("persons", persons), maps), adjust=True)


def refine(maps: PoseMaps, persons: Any) -> Any:
    """See `edgepose.kernels.reference.refine`."""
    maps = pose_maps.check_maps(maps, tagged=True, device=True)
    value = pose_maps.check_persons_shape(device_view("persons", persons), maps, tagged=True)
    return _settled(maps, value, adjust=False)


def _settled(maps: PoseMaps, persons: Any, *, adjust: bool) -> Any:
    rows, k, stride = persons.shape
    with Call() as call:
        final, _kept = _described(maps, call.put, call.put_host)
        given, count = call.put(persons), call.put_host(np.array([rows], np.int32))
        to = call.result(None, persons.shape)
        task = _cuda.PersonsTask(to, rows, k, stride, count, adjust, not adjust, None)
        _cuda.copy_within(to, given, 4 * rows * k * stride, STREAM)
        _cuda.settle(final, task, call.room(_cuda.settle_scratch(final, task)), STREAM)
        (found,) = call.finish()
    return found
