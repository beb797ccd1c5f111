"""The kernels in C++ (``csrc/core``): the same contract as `edgepose.kernels.reference`.

The extension module checks every argument itself. It carries each kernel for several instruction
sets and takes the best that the processor has; the environment variable ``EDGEPOSE_ISA`` forces one
(``portable``, ``avx2`` or ``avx512``; on 64-bit Arm ``portable`` means NEON).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import BackendUnavailableError
from edgepose.kernels import _checks, _native, pose_maps
from edgepose.kernels._checks import Maps
from edgepose.kernels.pose_maps import Groups, Peaks, PoseMaps

__all__ = [
    "adjust",
    "aggregate_nms_topk",
    "argmax_offset",
    "crop_normalize",
    "crop_pixels",
    "flip_average",
    "group",
    "isa",
    "isas",
    "quarter_offset",
    "refine",
    "soft_argmax",
    "use_isa",
]

Array = NDArray[np.float32]


def isas() -> tuple[str, ...]:
    """Instruction sets that this build and this processor both have, the best one last."""
    return tuple(_native.isas())


def isa() -> str:
    """Instruction set in use."""
    return _native.isa()


def use_isa(name: str = "auto") -> None:
    """Choose the instruction set for the whole process; ``"auto"`` takes the best one.

    Raises:
        BackendUnavailableError: the build or the processor does not have it.
    """
    if not _native.use_isa(name):
        raise BackendUnavailableError(
            f"instruction set {name!r} cannot serve; this build and processor have "
            f"{', '.join(isas())}; set EDGEPOSE_ISA to one of them, or leave it unset"
        )


def crop_normalize(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    swap_rb: bool,
    fill: float | Sequence[float] = 0,
    out: Array | None = None,
) -> Array:
    """See `edgepose.kernels.reference.crop_normalize`."""
    return _native.crop_normalize(image, affine, size, mean, std, swap_rb, fill, out)


def crop_pixels(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    rgb: bool,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """See `edgepose.kernels.reference.crop_pixels`."""
    return _native.crop_pixels(image, affine, size, rgb, out)


def soft_argmax(
    heatmaps: Maps, beta: float = 160.0, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """See `edgepose.kernels.reference.soft_argmax`."""
    return _native.soft_argmax(heatmaps, beta, out)


def argmax_offset(
    heatmaps: Maps,
    refine: Literal["quarter", "taylor"] | None = "quarter",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """See `edgepose.kernels.reference.argmax_offset`."""
    return _native.argmax_offset(heatmaps, refine, out)


def quarter_offset(heatmaps: Maps, coords: Array, out: Array | None = None) -> Array:
    """See `edgepose.kernels.reference.quarter_offset`."""
    return _native.quarter_offset(heatmaps, coords, out)


def flip_average(
    heatmaps: Maps, flipped: Maps, flip_pairs: Any, shift: bool, out: Array | None = None
) -> Array:
    """See `edgepose.kernels.reference.flip_average`."""
    order = np.empty(0, np.int64)
    if isinstance(heatmaps, np.ndarray) and heatmaps.ndim == 4:  # else the extension rejects them
        order = _checks.flip_permutation(flip_pairs, heatmaps.shape[1])
    return _native.flip_average(heatmaps, flipped, order, shift, out)


def aggregate_nms_topk(maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1) -> Peaks:
    """See `edgepose.kernels.reference.aggregate_nms_topk`."""
    maps = pose_maps.check_maps(maps)
    options = pose_maps.check_peak_options(window, top, threshold)
    return Peaks(*_native.aggregate_nms_topk(*_taken_apart(maps), *options))


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
    order = pose_maps.check_joint_order(joint_order, len(peaks.count))
    options = pose_maps.check_group_options(
        tag_threshold, use_detection_val, ignore_too_much, max_persons, official
    )
    persons, truncated = _native.group(peaks.xy, peaks.scores, peaks.tags, peaks.count, order, *options)
    return Groups(persons, truncated)


def adjust(maps: PoseMaps, persons: Array) -> Array:
    """See `edgepose.kernels.reference.adjust`."""
    maps = pose_maps.check_maps(maps)
    return _native.adjust(*_taken_apart(maps), pose_maps.check_persons(persons, maps))


def refine(maps: PoseMaps, persons: Array) -> Array:
    """See `edgepose.kernels.reference.refine`."""
    maps = pose_maps.check_maps(maps, tagged=True)
    return _native.refine(*_taken_apart(maps), pose_maps.check_persons(persons, maps, tagged=True))


def _taken_apart(
    maps: PoseMaps,
) -> tuple[
    list[tuple[tuple[Maps, ...], tuple[Maps, ...], bool]],
    tuple[int, int],
    NDArray[np.int64],
]:
    """Maps as the extension takes them."""
    passes = [(run.heatmaps, run.tags, run.flipped) for run in maps.passes]
    return passes, maps.size, maps.flip_permutation


use_isa(os.environ.get("EDGEPOSE_ISA") or "auto")
