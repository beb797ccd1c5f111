"""Argument checks of the numpy, numba and CUDA kernels; the native module makes the same ones in C++.

Those that a kernel on the device needs too take a `DeviceView` wherever they take an array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.kernels._device_view import DeviceView

__all__ = [
    "Maps",
    "affine_matrices",
    "byte_output",
    "check_coordinates",
    "check_image",
    "check_maps",
    "coordinates",
    "flip_permutation",
    "image",
    "maps",
    "numbers",
    "output",
    "output_size",
    "outputs",
    "own",
    "refine_name",
    "rejected",
    "switch",
    "temperature",
]

Maps = NDArray[np.float32] | NDArray[np.float16]

MAX_SIDE = 1 << 24
"""Largest height or width of a map, image or crop: float32 holds every pixel index exactly."""
MAX_AFFINE = 1e9
"""Largest magnitude of an affine's entries; beyond it no pixel could be addressed."""

MIN_BETA, MAX_BETA = 1e-9, 1e9


def describe(value: object) -> str:
    """What was found, for a message."""
    if isinstance(value, (np.ndarray, DeviceView)):
        place = " on the device" if isinstance(value, DeviceView) else ""
        return f"{value.dtype} array of shape {value.shape}{place}"
    return f"{type(value).__name__} {value!r}"[:120]


def rejected(name: str, found: object, wanted: str) -> InvalidInputError:
    """The error for an argument; `found` is the argument, or a phrase that begins with "an array"."""
    text = found if isinstance(found, str) and found.startswith("an array") else describe(found)
    return InvalidInputError(f"argument {name!r} is not usable; found {text}; give {wanted}")


def maps(name: str, value: object, like: Maps | None = None) -> NDArray[np.float32]:
    """Check a stack of maps; return it as packed float32, copied only where it is not so already.

    `like` is a checked stack whose shape and dtype it must have.
    """
    return np.require(check_maps(name, value, like), np.float32, ["C", "A"])


def check_maps(name: str, value: Any, like: Any = None) -> Any:
    """Check a stack of maps as `maps` does; return it as it is."""
    wanted = "a float32 or float16 array (n, k, h, w) with h and w of at least 1"
    if not isinstance(value, (np.ndarray, DeviceView)) or value.dtype not in (np.float32, np.float16):
        raise rejected(name, value, wanted)
    if value.ndim != 4 or not 1 <= min(value.shape[2:]) <= max(value.shape[2:]) <= MAX_SIDE:
        raise rejected(name, value, wanted)
    if like is not None and (value.shape != like.shape or value.dtype != like.dtype):
        raise rejected(name, value, f"the dtype and shape of 'heatmaps', {describe(like)}")
    return value


def coordinates(name: str, value: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Check map coordinates, a float32 array of exactly this shape."""
    return np.require(check_coordinates(name, value, shape), np.float32, ["C", "A"])


def check_coordinates(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Check map coordinates as `coordinates` does; return them as they are."""
    if not isinstance(value, (np.ndarray, DeviceView)) or value.dtype != np.float32 or value.shape != shape:
        raise rejected(name, value, f"a float32 array of shape {shape}")
    return value


def image(name: str, value: object) -> NDArray[np.uint8]:
    """Check an image; return it with packed pixels (rows may be strided)."""
    found: NDArray[np.uint8] = check_image(name, value)
    return found if found.strides[1:] == (3, 1) else np.ascontiguousarray(found)


def check_image(name: str, value: Any) -> Any:
    """Check an image as `image` does; return it as it is."""
    wanted = "a uint8 array (H, W, 3) with H and W of at least 1"
    if not isinstance(value, (np.ndarray, DeviceView)) or value.dtype != np.uint8:
        raise rejected(name, value, wanted)
    if value.ndim != 3 or value.shape[2] != 3 or not 1 <= min(value.shape) <= max(value.shape) <= MAX_SIDE:
        raise rejected(name, value, wanted)
    return value


def affine_matrices(name: str, value: object) -> NDArray[np.float64]:
    """Check affine maps: float64 (n, 2, 3), finite."""
    wanted = "a float64 array (n, 2, 3)"
    if not isinstance(value, np.ndarray) or value.dtype != np.float64:
        raise rejected(name, value, wanted)
    if value.ndim != 3 or value.shape[1:] != (2, 3):
        raise rejected(name, value, wanted)
    if not bool((np.abs(value) <= MAX_AFFINE).all()):  # false for NaN too
        raise rejected(name, "an array with NaN or entries beyond 1e9", "finite matrices of usable size")
    return np.require(value, np.float64, ["C", "A"])


def output_size(name: str, value: Any) -> tuple[int, int]:
    """Check a (height, width)."""
    try:
        height, width = value
        usable = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in (height, width))
    except (TypeError, ValueError):
        usable = False
    if not usable or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise rejected(name, value, "(height, width), two whole numbers of at least 1")
    return int(height), int(width)


def numbers(name: str, value: Any, *, positive: bool = False, scalar: bool = False) -> NDArray[np.float64]:
    """Check three finite numbers, or with `scalar` one number that stands for all three."""
    kind = "positive numbers" if positive else "finite numbers"
    wanted = f"one or three {kind}" if scalar else f"three {kind}"
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise rejected(name, value, wanted) from None
    if scalar and found.ndim == 0:
        found = np.repeat(found, 3)
    if found.shape != (3,) or not np.isfinite(found).all() or (positive and not (found > 0).all()):
        raise rejected(name, value, wanted)
    return found


def temperature(name: str, value: Any) -> float:
    """Check the `beta` of a soft-argmax."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not MIN_BETA <= found <= MAX_BETA:
        raise rejected(name, value, "a number from 1e-9 to 1e9")
    return found


def switch(name: str, value: object) -> bool:
    """Check a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise rejected(name, value, "True or False")
    return bool(value)


def refine_name(value: object) -> str | None:
    """Check the `refine` argument of `argmax_offset`."""
    if value is not None and not (isinstance(value, str) and value in ("quarter", "taylor")):
        raise rejected("refine", value, "'quarter', 'taylor' or None")
    return value


def flip_permutation(value: Any, joints: int) -> NDArray[np.int64]:
    """Turn flip pairs (m, 2), or a permutation (k,), into a permutation of the joints."""
    wanted = f"pairs of joint indices from 0 to {joints - 1}, each joint once, or a permutation"
    try:
        found = np.asarray(value)
        if found.size == 0:
            found = found.astype(np.int64)
    except (TypeError, ValueError):
        raise rejected("flip_pairs", value, wanted) from None
    if found.dtype.kind not in "iu":
        raise rejected("flip_pairs", value, wanted)
    found = found.astype(np.int64)
    order = np.arange(joints, dtype=np.int64)
    inside = found.size == 0 or (found.min() >= 0 and found.max() < joints)
    if inside and found.ndim == 1 and found.shape == (joints,) and (np.sort(found) == order).all():
        return found
    if found.size == 0 and found.ndim <= 2:
        return order
    distinct = np.unique(found).size == found.size
    if not (inside and distinct and found.ndim == 2 and found.shape[1] == 2):
        raise rejected("flip_pairs", value, wanted)
    order[found[:, 0]], order[found[:, 1]] = found[:, 1], found[:, 0]
    return order


def output(
    name: str,
    value: object,
    shape: tuple[int, ...],
    inputs: Sequence[object] = (),
) -> NDArray[np.float32]:
    """Check a float32 `out=` array, or make one when it is None.

    `inputs` are the arguments with which it must not share memory.
    """
    return np.empty(shape, np.float32) if value is None else own(name, value, np.float32, shape, inputs)


def byte_output(
    name: str,
    value: object,
    shape: tuple[int, ...],
    inputs: Sequence[object] = (),
) -> NDArray[np.uint8]:
    """The same for uint8."""
    return np.empty(shape, np.uint8) if value is None else own(name, value, np.uint8, shape, inputs)


def own(
    name: str, value: Any, kind: type[np.generic], shape: tuple[int, ...], inputs: Sequence[object]
) -> Any:
    """Check an `out=` array, which must not share memory with any of `inputs`."""
    if not isinstance(value, (np.ndarray, DeviceView)) or value.dtype != kind or value.shape != shape:
        raise rejected(name, value, f"a {kind.__name__} array of shape {shape}")
    if isinstance(value, DeviceView):
        usable = not value.readonly
    else:
        usable = value.flags.c_contiguous and value.flags.aligned and value.flags.writeable
    if not usable:
        raise rejected(name, "an array that is read-only or not C-contiguous", "a packed, writeable array")
    for other in inputs:
        if _share_memory(value, other):
            raise rejected(name, "an array that shares memory with an input", "an array of its own")
    return value


def _share_memory(one: NDArray[Any] | DeviceView, other: object) -> bool:
    if isinstance(one, DeviceView):
        return isinstance(other, DeviceView) and one.overlaps(other)
    return isinstance(other, np.ndarray) and np.may_share_memory(one, other)


def outputs(
    value: Any, shapes: dict[str, tuple[int, ...]], inputs: Sequence[object] = ()
) -> tuple[NDArray[np.float32], ...]:
    """Check a tuple of `out=` arrays, or make them when it is None."""
    if value is None:
        return tuple(np.empty(shape, np.float32) for shape in shapes.values())
    if not isinstance(value, (tuple, list)) or len(value) != len(shapes):
        raise rejected("out", value, f"({', '.join(shapes)})")
    found: list[NDArray[np.float32]] = []
    for (name, shape), item in zip(shapes.items(), value, strict=True):
        if item is None:
            raise rejected(f"out ({name})", item, f"a float32 array of shape {shape}")
        found.append(output(f"out ({name})", item, shape, [*inputs, *found]))
    return tuple(found)
