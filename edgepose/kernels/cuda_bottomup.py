"""The bottom-up kernels in CUDA (``csrc/cuda``): the same contract as `edgepose.kernels.reference_bottomup`
and `edgepose.kernels.reference_grouping`.

Two ways lead to them. The ops `aggregate_nms_topk`, `group`, `adjust` and `refine` take and give numpy arrays,
as all implementations do: they copy to the device and back, and wait. `PoseMapsOnDevice` is for maps that a
network left on the device: it runs all steps on a stream, without copies and without waiting, in memory that
it took once, so that a CUDA graph can record it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.kernels import _cuda, pose_maps
from edgepose.kernels.pose_maps import Groups, Peaks, PoseMaps

__all__ = [
    "MAPS",
    "PLANE",
    "DevicePass",
    "FoundPersons",
    "MapsAt",
    "PoseMapsOnDevice",
    "adjust",
    "aggregate_nms_topk",
    "group",
    "refine",
]

Array = NDArray[np.float32]

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
"""``Maps`` of csrc/core/kernels.hpp."""
PLANE = np.dtype(
    {
        "names": [
            "parts", "count", "height", "width", "final_height", "final_width", "flipped", "same_size",
        ],
        "formats": [np.uint64, *[np.int32] * 5, np.bool_, np.bool_],
        "offsets": [0, 8, 12, 16, 20, 24, 28, 29],
        "itemsize": 32,
    }
)  # fmt: skip
"""``PlaneSource`` of csrc/core/final_map.hpp."""

_ALIGNMENT = 256
_HEADER = 16
"""Bytes of ``GroupCounts`` in csrc/cuda/pose_kernels.hpp."""


@dataclass(frozen=True)
class MapsAt:
    """A stack of packed maps on the device.

    Attributes:
        pointer: device address.
        shape: (k, h, w).
        half: whether the maps are float16, else float32.
    """

    pointer: int
    shape: tuple[int, int, int]
    half: bool = False


@dataclass(frozen=True)
class DevicePass:
    """A `MapPass` whose maps lie on the device; the same rules hold for it.

    Attributes:
        heatmaps: at rising resolution.
        tags: of as many joints, or of one.
        flipped: whether the picture was mirrored.
    """

    heatmaps: tuple[MapsAt, ...]
    tags: tuple[MapsAt, ...] = ()
    flipped: bool = False


class FoundPersons(NamedTuple):
    """What `PoseMapsOnDevice` found.

    Attributes:
        persons: (p, k, 3 + t) float32, pixels of the final map.
        scores: (p,) float32: means of the joint scores before refining.
        truncated: as `edgepose.pipeline.bottomup.Decoded` has it.
    """

    persons: Array
    scores: Array
    truncated: bool


class _Block:
    """Pieces of one piece of device memory, freed with the last that holds it."""

    def __init__(self) -> None:
        self._size = 0
        self._pointer = 0

    def piece(self, size: int) -> int:
        """Reserve bytes; return their offset."""
        offset = self._size
        self._size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return offset

    def allocate(self) -> int:
        """Take the memory; return its address."""
        self._pointer = _cuda.allocate(max(self._size, _ALIGNMENT))
        return self._pointer

    def free(self) -> None:
        pointer, self._pointer = self._pointer, 0
        if pointer:
            _cuda.free(pointer)


def describe(
    passes: Sequence[DevicePass], size: tuple[int, int], base: int
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Maps and planes as the kernels read them, for maps that will lie at device address `base`.

    Returns:
        `MAPS` of all heatmaps and tags, and `PLANE` of all passes' heatmaps, then of all tags.
    """
    stacks = [item for run in passes for item in (*run.heatmaps, *run.tags)]
    maps = np.zeros(len(stacks), MAPS)
    for at, item in enumerate(stacks):
        maps[at] = (item.pointer, item.half, *item.shape)
    heat: list[tuple[int, ...]] = []
    tags: list[tuple[int, ...]] = []
    first = 0
    for run in passes:
        own = run.heatmaps[-1].shape[1:]
        rest = (*own, *size, run.flipped, own == size)
        heat.append((base + first * MAPS.itemsize, len(run.heatmaps), *rest))
        first += len(run.heatmaps)
        for _ in run.tags:
            tags.append((base + first * MAPS.itemsize, 1, *rest))
            first += 1
    return maps, np.array([*heat, *tags], PLANE)


class _FinalMaps:
    """The description of maps, on the host; `upload` puts it to the device.

    Attributes:
        maps: for `_cuda`, once `place` was called.
    """

    def __init__(self, passes: Sequence[DevicePass], size: tuple[int, int], flip: NDArray[np.int64]) -> None:
        self.passes, self.size, self.flip = tuple(passes), size, np.ascontiguousarray(flip, np.int64)
        self.joints = passes[0].heatmaps[0].shape[0]
        self.tag_count = sum(len(run.tags) for run in passes)
        self._stacks = sum(len(run.heatmaps) + len(run.tags) for run in passes)
        self._planes = len(passes) + self.tag_count
        self._text = np.empty(0, np.uint8)
        for item in (item for run in passes for item in (*run.heatmaps, *run.tags)):
            _check_pixels(item.shape[1:])
        _check_pixels(size)

    @property
    def bytes(self) -> int:
        """Device memory for `place`."""
        return self._stacks * MAPS.itemsize + self._planes * PLANE.itemsize + self.flip.nbytes

    def place(self, base: int) -> None:
        """Write the description for this device address."""
        maps, planes = describe(self.passes, self.size, base)
        self._text = np.concatenate([item.view(np.uint8).reshape(-1) for item in (maps, planes, self.flip)])
        planes_at = self._stacks * MAPS.itemsize
        flip_at = planes_at + self._planes * PLANE.itemsize
        self.maps = _cuda.FinalMaps(
            planes=base + planes_at,
            on_host=self._text.ctypes.data + planes_at,
            flip=base + flip_at,
            runs=len(self.passes),
            scales=sum(not run.flipped for run in self.passes),
            tag_count=self.tag_count,
            heat_parts=sum(len(run.heatmaps) for run in self.passes),
            height=self.size[0],
            width=self.size[1],
            joints=self.joints,
        )

    def upload(self, base: int, stream: int) -> None:
        """Copy the description to the address that `place` was given; it must outlast the copy."""
        _cuda.copy_in(base, self._text.ctypes.data, self._text.nbytes, stream)


class PoseMapsOnDevice:
    """All steps from a network's maps on the device to persons there, on a stream.

    Takes all its memory when made. `run` puts work on a stream and returns at once; it may be captured into
    a CUDA graph. What was found comes back in one copy of `result_bytes` from `result`, which `read` takes
    apart. Not for several threads or streams at a time.

    Args:
        passes: the runs' maps, scales in descending order; addresses are fixed from here on.
        size: (H, W) of the final map.
        flip_permutation: see `PoseMaps`.
        joint_order, window, detection_threshold, tag_threshold, use_detection_val, ignore_too_much: see the
            ops.
        limit: peaks per joint, and most persons (official: most that candidates can join).
        adjust, refine, official: as in `edgepose.pipeline.bottomup.decode_maps`, which does the same in the
            ops.
        stream: the description is copied to the device on it, which waits for that.

    Raises:
        InvalidInputError: the maps do not fit together, or there are no tags.

    Attributes:
        result: device address of the result block.
        result_bytes: its size.
    """

    def __init__(
        self,
        passes: Sequence[DevicePass],
        size: tuple[int, int],
        flip_permutation: NDArray[np.int64],
        joint_order: Sequence[int],
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
        stream: int = 0,
    ) -> None:
        _check_passes(passes, size, flip_permutation)
        top = limit if official else limit + 1  # one more, to know whether any is left out
        self._window, self._top, self._threshold = pose_maps.check_peak_options(
            window, top, detection_threshold
        )
        order = pose_maps.check_joint_order(joint_order, passes[0].heatmaps[0].shape[0])
        options = pose_maps.check_group_options(
            tag_threshold, use_detection_val, ignore_too_much, limit, official
        )
        self._maps = _FinalMaps(passes, size, flip_permutation)
        k, t = self._maps.joints, self._maps.tag_count
        self._rows = rows = k * limit if official else limit
        self._shape = (rows, k, 3 + t)
        self._persons_at = -(-(_HEADER + 4 * rows) // 16) * 16
        self.result_bytes = self._persons_at + 4 * math.prod(self._shape)

        self._block = block = _Block()
        description = block.piece(self._maps.bytes)
        order_at = block.piece(order.nbytes)
        xy, scores, tags = (block.piece(4 * k * top * each) for each in (2, 1, t))
        count, result = block.piece(4 * k), block.piece(self.result_bytes)

        def tasks(base: int) -> tuple[_cuda.Peaks, _cuda.GroupTask, _cuda.PersonsTask]:
            self._maps.place(base + description)
            peaks = _cuda.Peaks(k, top, t, base + xy, base + scores, base + tags, base + count)
            found, persons = base + result, base + result + self._persons_at
            grouping = _cuda.GroupTask(
                peaks, limit, top, base + order_at, *options,
                persons=persons, scores=found + _HEADER, rows=rows, counts=found,
            )  # fmt: skip
            settling = _cuda.PersonsTask(persons, rows, k, 3 + t, found, adjust, refine, peaks)
            return peaks, grouping, settling

        _, grouping, settling = tasks(0)
        maps = self._maps.maps
        self._scratch_at = block.piece(
            max(
                _cuda.find_peaks_scratch(maps, self._window, top, self._threshold),
                _cuda.group_scratch(grouping),
                _cuda.settle_scratch(maps, settling),
            )
        )
        base = block.allocate()
        self._peaks, self._grouping, self._settling = tasks(base)
        self._settles = adjust or refine
        self._scratch_at += base
        self.result = base + result
        try:
            self._maps.upload(base + description, stream)
            _cuda.copy_in(base + order_at, order.ctypes.data, order.nbytes, stream)
            _cuda.synchronize(stream)
        except BaseException:
            block.free()
            raise

    def run(self, stream: int) -> None:
        """Put all steps on a stream; the result block is complete when they are done."""
        _cuda.find_peaks(
            self._maps.maps, self._window, self._top, self._threshold, self._peaks, self._scratch_at, stream
        )
        _cuda.group(self._grouping, self._scratch_at, stream)
        if self._settles:
            _cuda.settle(self._maps.maps, self._settling, self._scratch_at, stream)

    def read(self, result: NDArray[np.uint8]) -> FoundPersons:
        """Take a copy of the result block apart.

        Args:
            result: (result_bytes,) uint8, of the host. What is returned shares its memory.
        """
        count, truncated, left_out, _ = result[:_HEADER].view(np.int32).tolist()
        scores = result[_HEADER : _HEADER + 4 * self._rows].view(np.float32)
        persons = result[self._persons_at :].view(np.float32).reshape(self._shape)
        return FoundPersons(persons[:count], scores[:count], bool(truncated or left_out))

    def close(self) -> None:
        """Free the memory; no work that reads it may be under way."""
        self._block.free()

    def __enter__(self) -> PoseMapsOnDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_block"):
            self._block.free()


def _check_passes(passes: Sequence[DevicePass], size: tuple[int, int], flip: NDArray[np.int64]) -> None:
    """Check the maps by the rules of `PoseMaps`, on arrays of their shapes without memory."""

    def stand_in(item: MapsAt) -> NDArray[Any]:
        return np.broadcast_to(np.zeros((), np.float16 if item.half else np.float32), item.shape)

    runs = tuple(
        pose_maps.MapPass(tuple(map(stand_in, run.heatmaps)), tuple(map(stand_in, run.tags)), run.flipped)
        for run in passes
    )
    pose_maps.check_maps(PoseMaps(runs, size, flip), tagged=True)
    for item in (item for run in passes for item in (*run.heatmaps, *run.tags)):
        if item.pointer == 0:
            raise InvalidInputError("a map has no memory; found the null address; give device addresses")


def _check_pixels(size: Sequence[int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InvalidInputError(
            f"a map is too large for the device's kernels; found {size[0]} x {size[1]} pixels, at most "
            f"{MAX_PIXELS} are taken; give smaller maps, or use the kernels of the CPU"
        )


# --- the ops ----------------------------------------------------------------------------------


class _Call:
    """Device memory of one op: arrays copied in, room for others, results copied out, then all freed."""

    def __init__(self) -> None:
        self._block = _Block()
        self._arrays: list[tuple[int, NDArray[Any]]] = []
        self.base = 0

    def given(self, array: NDArray[Any]) -> int:
        """Offset of an array that is copied to the device."""
        packed = np.ascontiguousarray(array)
        offset = self._block.piece(packed.nbytes)
        self._arrays.append((offset, packed))
        return offset

    def room(self, size: int) -> int:
        """Offset of memory without content."""
        return self._block.piece(size)

    def __enter__(self) -> int:
        self.base = self._block.allocate()
        for offset, array in self._arrays:
            _cuda.copy_in(self.base + offset, array.ctypes.data, array.nbytes, 0)
        return self.base

    def __exit__(self, *_: object) -> None:
        _cuda.synchronize(0)
        self._block.free()

    def taken(self, offset: int, array: NDArray[Any]) -> None:
        """Copy out."""
        _cuda.copy_out(array.ctypes.data, self.base + offset, array.nbytes, 0)


class _GivenMaps:
    """`PoseMaps` on their way to the device, as part of a call."""

    def __init__(self, call: _Call, maps: PoseMaps) -> None:
        self._call = call
        self._offsets: list[int] = []

        def stack(item: NDArray[Any]) -> MapsAt:
            self._offsets.append(call.given(item))
            k, h, w = item.shape
            return MapsAt(self._offsets[-1], (k, h, w), item.dtype == np.float16)

        self._passes = [
            DevicePass(tuple(map(stack, run.heatmaps)), tuple(map(stack, run.tags)), run.flipped)
            for run in maps.passes
        ]
        self._final = _FinalMaps(self._passes, maps.size, maps.flip_permutation)
        self._at = call.room(self._final.bytes)
        self._final.place(0)

    @property
    def maps(self) -> _cuda.FinalMaps:
        return self._final.maps

    def upload(self) -> None:
        """Copy the description to the device; the call has its memory."""

        def moved(item: MapsAt) -> MapsAt:
            return MapsAt(self._call.base + item.pointer, item.shape, item.half)

        self._final.passes = tuple(
            DevicePass(tuple(map(moved, run.heatmaps)), tuple(map(moved, run.tags)), run.flipped)
            for run in self._passes
        )
        self._final.place(self._call.base + self._at)
        self._final.upload(self._call.base + self._at, 0)


def aggregate_nms_topk(maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1) -> Peaks:
    """See `edgepose.kernels.reference.aggregate_nms_topk`."""
    maps = pose_maps.check_maps(maps)
    window, top, threshold = pose_maps.check_peak_options(window, top, threshold)
    k, t = maps.joints, maps.tag_count
    found = Peaks(
        np.empty((k, top, 2), np.int32),
        np.empty((k, top), np.float32),
        np.empty((k, top, t), np.float32),
        np.empty(k, np.int32),
    )
    call = _Call()
    given = _GivenMaps(call, maps)
    places = [call.room(item.nbytes) for item in found]
    scratch = call.room(_cuda.find_peaks_scratch(given.maps, window, top, threshold))
    with call as base:
        given.upload()
        out = _cuda.Peaks(k, top, t, *(base + place for place in places))
        _cuda.find_peaks(given.maps, window, top, threshold, out, base + scratch, 0)
        for place, item in zip(places, found, strict=True):
            call.taken(place, item)
    return found


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
    peaks = pose_maps.check_peaks(peaks)
    k, _, t = peaks.tags.shape
    order = pose_maps.check_joint_order(joint_order, k)
    options = pose_maps.check_group_options(
        tag_threshold, use_detection_val, ignore_too_much, max_persons, official
    )
    most = int(peaks.count.max())  # what no joint uses stays here
    total = int(peaks.count.sum())
    rows = total if official else min(total, max_persons)
    if rows == 0:
        return Groups(np.zeros((0, k, 3 + t), np.float32), False)
    persons, counts = np.empty((rows, k, 3 + t), np.float32), np.empty(4, np.int32)
    call = _Call()
    used = [peaks.xy[:, :most], peaks.scores[:, :most], peaks.tags[:, :most], peaks.count]
    places = [call.given(item) for item in used]
    order_at, persons_at, counts_at = call.given(order), call.room(persons.nbytes), call.room(counts.nbytes)

    def task(base: int) -> _cuda.GroupTask:
        device_peaks = _cuda.Peaks(k, most, t, *(base + place for place in places))
        return _cuda.GroupTask(
            device_peaks, most, 0, base + order_at, *options,
            persons=base + persons_at, scores=0, rows=rows, counts=base + counts_at,
        )  # fmt: skip

    scratch = call.room(_cuda.group_scratch(task(0)))
    with call as base:
        _cuda.group(task(base), base + scratch, 0)
        call.taken(persons_at, persons)
        call.taken(counts_at, counts)
    count, truncated, _, _ = counts.tolist()
    return Groups(persons[:count], bool(truncated))


def adjust(maps: PoseMaps, persons: Array) -> Array:
    """See `edgepose.kernels.reference.adjust`."""
    maps = pose_maps.check_maps(maps)
    return _settled(maps, pose_maps.check_persons(persons, maps), adjust=True)


def refine(maps: PoseMaps, persons: Array) -> Array:
    """See `edgepose.kernels.reference.refine`."""
    maps = pose_maps.check_maps(maps, tagged=True)
    return _settled(maps, pose_maps.check_persons(persons, maps, tagged=True), adjust=False)


def _settled(maps: PoseMaps, persons: Array, *, adjust: bool) -> Array:
    result = np.empty(persons.shape, np.float32)
    rows, k, stride = persons.shape
    if rows == 0:
        return result
    call = _Call()
    given = _GivenMaps(call, maps)
    persons_at, count_at = call.given(persons), call.given(np.array([rows], np.int32))

    def task(base: int) -> _cuda.PersonsTask:
        return _cuda.PersonsTask(
            base + persons_at, rows, k, stride, base + count_at, adjust, not adjust, None
        )

    scratch = call.room(_cuda.settle_scratch(given.maps, task(0)))
    with call as base:
        given.upload()
        _cuda.settle(given.maps, task(base), base + scratch, 0)
        call.taken(persons_at, result)
    return result
