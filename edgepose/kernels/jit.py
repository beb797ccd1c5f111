"""The kernels compiled by numba: the same contract as `edgepose.kernels.reference`.

Importing this module imports numba; nothing else in edgepose does. Compiled code is cached on disk
where numba finds a writable place, and kept in memory only where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import _checks
from edgepose.kernels._checks import Maps
from edgepose.kernels._numba import compiled
from edgepose.kernels.jit_bottomup import adjust, aggregate_nms_topk, refine
from edgepose.kernels.jit_grouping import group
from edgepose.kernels.reference import (
    LOG_FLOOR,
    MAX_CONDITION,
    MAX_TAYLOR_STEP,
    MIN_CURVATURE,
    POSITION_BITS,
    ROUNDING_STEP,
    WEIGHT_CUTOFF,
    Array,
)

__all__ = [
    "adjust",
    "aggregate_nms_topk",
    "argmax_offset",
    "crop_normalize",
    "crop_pixels",
    "flip_average",
    "group",
    "quarter_offset",
    "refine",
    "soft_argmax",
]

# How far the mean may lie from the point about which moments are taken: at most 15/16 of a second
# moment may be due to it. Beyond, the sums are taken again about the pixel nearest to the mean.
MAX_OFFSET_SHARE = 15.0 / 16.0


@compiled
def _value(value: float) -> float:
    """A pixel as it counts: NaN is -inf."""
    return -math.inf if math.isnan(value) else value


@compiled
def _peak(values: Array) -> int:
    """Index of the first largest pixel, or -1 where none is above -inf."""
    best, index = np.float32(-np.inf), -1
    for i in range(values.size):
        if values[i] > best:
            best, index = values[i], i
    return index


@compiled
def _quarter(values: Array, height: int, width: int, x: float, y: float) -> tuple[float, float]:
    column, row = np.floor(x + 0.5), np.floor(y + 0.5)
    if not (1 < column < width - 1 and 1 < row < height - 1):
        return x, y
    at = int(row) * width + int(column)
    right, left = _value(values[at + 1]), _value(values[at - 1])
    below, above = _value(values[at + width]), _value(values[at - width])
    step_x = (0.25 if right > left else 0.0) - (0.25 if right < left else 0.0)
    step_y = (0.25 if below > above else 0.0) - (0.25 if below < above else 0.0)
    return x + step_x, y + step_y


@compiled
def _log(value: float) -> float:
    return math.log(value if value > LOG_FLOOR else LOG_FLOOR)  # NaN is not above the floor


@compiled
def _taylor(values: Array, height: int, width: int, column: int, row: int) -> tuple[float, float]:
    if not (2 <= column < width - 2 and 2 <= row < height - 2):
        return 0.0, 0.0
    at = row * width + column
    middle = _log(values[at])
    gx = 0.5 * (_log(values[at + 1]) - _log(values[at - 1]))
    gy = 0.5 * (_log(values[at + width]) - _log(values[at - width]))
    xx = 0.25 * (_log(values[at + 2]) - 2 * middle + _log(values[at - 2]))
    yy = 0.25 * (_log(values[at + 2 * width]) - 2 * middle + _log(values[at - 2 * width]))
    xy = 0.25 * (
        _log(values[at + width + 1])
        - _log(values[at + width - 1])
        - _log(values[at - width + 1])
        + _log(values[at - width - 1])
    )
    determinant = xx * yy - xy * xy
    if not (xx < -MIN_CURVATURE and yy < -MIN_CURVATURE and determinant > MAX_CONDITION * (xx * yy)):
        return 0.0, 0.0
    step_x = (xy * gy - yy * gx) / determinant
    step_y = (xy * gx - xx * gy) / determinant
    if not (math.isfinite(step_x) and math.isfinite(step_y)):
        return 0.0, 0.0
    limit = MAX_TAYLOR_STEP
    return min(max(step_x, -limit), limit), min(max(step_y, -limit), limit)


@compiled
def _argmax_maps(maps: Array, height: int, width: int, mode: int, coords: Array, scores: Array) -> None:
    for m in range(len(maps)):
        values = maps[m]
        index = _peak(values)
        if index < 0:
            coords[m, 0] = coords[m, 1] = scores[m] = np.nan
            continue
        scores[m] = values[index]
        if values[index] <= 0:
            coords[m, 0] = coords[m, 1] = 0
            continue
        column, row = index % width, index // width
        x, y = float(column), float(row)
        if mode == 1:
            x, y = _quarter(values, height, width, x, y)
        elif mode == 2:
            step_x, step_y = _taylor(values, height, width, column, row)
            x += np.float32(step_x)
            y += np.float32(step_y)
        coords[m, 0], coords[m, 1] = x, y


@compiled
def _quarter_maps(maps: Array, height: int, width: int, coords: Array, out: Array) -> None:
    for m in range(len(maps)):
        out[m, 0], out[m, 1] = _quarter(maps[m], height, width, float(coords[m, 0]), float(coords[m, 1]))


@compiled
def _nearest(coordinate: float, length: int) -> int:
    snapped = np.rint(coordinate / ROUNDING_STEP) * ROUNDING_STEP
    return int(min(max(np.rint(snapped), 0), length - 1))


@compiled
def _soft_argmax_maps(
    maps: Array, height: int, width: int, beta: float, coords: Array, scores: Array, covariance: Array
) -> None:
    for m in range(len(maps)):
        values = maps[m]
        index = _peak(values)
        if index < 0:
            coords[m, :] = scores[m] = np.nan
            covariance[m, :] = np.nan
            continue
        peak = float(values[index])
        column, row = index % width, index // width
        if peak == math.inf:
            coords[m, 0], coords[m, 1], scores[m] = column, row, peak
            covariance[m, :] = 0
            continue
        threshold = np.float32(peak - WEIGHT_CUTOFF / beta)
        mean_x = mean_y = xx = xy = yy = 0.0
        for _ in range(2):
            total = sum_x = sum_y = sum_xx = sum_xy = sum_yy = 0.0
            for y in range(height):
                dy = float(y - row)
                for x in range(width):
                    value = values[y * width + x]
                    if value >= threshold:  # false for NaN
                        dx = float(x - column)
                        weight = math.exp(beta * (value - peak))
                        total += weight
                        sum_x += weight * dx
                        sum_y += weight * dy
                        sum_xx += weight * dx * dx
                        sum_xy += weight * dx * dy
                        sum_yy += weight * dy * dy
            mean_x, mean_y = sum_x / total, sum_y / total
            second_x, second_y = sum_xx / total, sum_yy / total
            xx = max(second_x - mean_x * mean_x, 0.0)
            yy = max(second_y - mean_y * mean_y, 0.0)
            xy = sum_xy / total - mean_x * mean_y
            share = MAX_OFFSET_SHARE
            if mean_x * mean_x <= share * second_x and mean_y * mean_y <= share * second_y:
                break
            shift_x, shift_y = int(np.rint(mean_x)), int(np.rint(mean_y))
            if shift_x == 0 and shift_y == 0:
                break
            column, row = column + shift_x, row + shift_y
            mean_x, mean_y = mean_x - shift_x, mean_y - shift_y
        coords[m, 0], coords[m, 1] = column + mean_x, row + mean_y
        covariance[m, 0], covariance[m, 1], covariance[m, 2], covariance[m, 3] = xx, xy, xy, yy
        near_x, near_y = _nearest(float(coords[m, 0]), width), _nearest(float(coords[m, 1]), height)
        scores[m] = values[near_y * width + near_x]


@compiled
def _flip_average_maps(
    maps: Array, flipped: Array, order: NDArray[np.int64], shift: bool, out: Array
) -> None:
    n, k, height, width = maps.shape
    half = np.float32(0.5)
    for i in range(n):
        for j in range(k):
            for y in range(height):
                source = flipped[i, order[j], y]
                target, own = out[i, j, y], maps[i, j, y]
                if shift:
                    target[0] = half * (own[0] + source[width - 1])
                    for x in range(1, width):
                        target[x] = half * (own[x] + source[width - x])
                else:
                    for x in range(width):
                        target[x] = half * (own[x] + source[width - 1 - x])


@compiled
def _level(image: NDArray[np.uint8], y: int, x: int, channel: int) -> int:
    """A byte of the image, or of the black border around it."""
    inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
    return int(image[y, x, channel]) if inside else 0


@compiled
def _crop_levels(
    image: NDArray[np.uint8], affine: NDArray[np.float64], swap: bool, out: NDArray[np.uint8]
) -> None:
    rows, columns = image.shape[:2]
    n, height, width, _ = out.shape
    steps = 1 << POSITION_BITS
    for i in range(n):
        a = affine[i]
        for y in range(height):
            start_x = a[0, 1] * y + a[0, 2]
            start_y = a[1, 1] * y + a[1, 2]
            for x in range(width):
                at_x = int(np.floor(min(max(a[0, 0] * x + start_x, -2.0), columns + 1.0) * steps + 0.5))
                at_y = int(np.floor(min(max(a[1, 0] * x + start_y, -2.0), rows + 1.0) * steps + 0.5))
                left, top = at_x >> POSITION_BITS, at_y >> POSITION_BITS
                along_x, along_y = at_x & (steps - 1), at_y & (steps - 1)
                inside = 0 <= left < columns - 1 and 0 <= top < rows - 1
                for channel in range(3):
                    if inside:
                        p00, p01 = int(image[top, left, channel]), int(image[top, left + 1, channel])
                        p10, p11 = int(image[top + 1, left, channel]), int(image[top + 1, left + 1, channel])
                    else:
                        p00, p01 = _level(image, top, left, channel), _level(image, top, left + 1, channel)
                        p10 = _level(image, top + 1, left, channel)
                        p11 = _level(image, top + 1, left + 1, channel)
                    upper = (p00 * steps + (p01 - p00) * along_x) >> 1
                    lower = (p10 * steps + (p11 - p10) * along_x) >> 1
                    value = upper + (((lower - upper) * along_y + steps // 2) >> POSITION_BITS)
                    out[i, y, x, 2 - channel if swap else channel] = (value + 64) >> 7


@compiled
def _crop_maps(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    swap: bool,
    fill: NDArray[np.float64],
    out: Array,
) -> None:
    rows, columns = image.shape[:2]
    n, _, height, width = out.shape
    for i in range(n):
        a = affine[i]
        for y in range(height):
            start_x = a[0, 1] * y + a[0, 2]
            start_y = a[1, 1] * y + a[1, 2]
            for x in range(width):
                at_x = min(max(a[0, 0] * x + start_x, -2.0), columns + 1.0)
                at_y = min(max(a[1, 0] * x + start_y, -2.0), rows + 1.0)
                left, top = int(np.floor(at_x)), int(np.floor(at_y))
                along_x, along_y = at_x - left, at_y - top
                inside = 0 <= left < columns - 1 and 0 <= top < rows - 1
                for channel in range(3):
                    source = 2 - channel if swap else channel
                    if inside:
                        p00, p01 = float(image[top, left, source]), float(image[top, left + 1, source])
                        p10 = float(image[top + 1, left, source])
                        p11 = float(image[top + 1, left + 1, source])
                    else:
                        p00 = p01 = p10 = p11 = fill[source]
                        if 0 <= top < rows:
                            if 0 <= left < columns:
                                p00 = float(image[top, left, source])
                            if 0 <= left + 1 < columns:
                                p01 = float(image[top, left + 1, source])
                        if 0 <= top + 1 < rows:
                            if 0 <= left < columns:
                                p10 = float(image[top + 1, left, source])
                            if 0 <= left + 1 < columns:
                                p11 = float(image[top + 1, left + 1, source])
                    upper = p00 + (p01 - p00) * along_x
                    lower = p10 + (p11 - p10) * along_x
                    value = upper + (lower - upper) * along_y
                    out[i, channel, y, x] = value * gain[channel] + offset[channel]


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
    pixels = _checks.image("image", image)
    matrices = _checks.affine_matrices("affine", affine)
    height, width = _checks.output_size("size", size)
    means = _checks.numbers("mean", mean)
    stds = _checks.numbers("std", std, positive=True)
    swap = _checks.switch("swap_rb", swap_rb)
    border = _checks.numbers("fill", fill, scalar=True)
    result = _checks.output("out", out, (len(matrices), 3, height, width), [image, affine])
    _crop_maps(_view(pixels), matrices, 1 / (255 * stds), -means / stds, swap, border, result)
    return result


def crop_pixels(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    rgb: bool,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """See `edgepose.kernels.reference.crop_pixels`."""
    pixels = _checks.image("image", image)
    matrices = _checks.affine_matrices("affine", affine)
    height, width = _checks.output_size("size", size)
    swap = _checks.switch("rgb", rgb)
    result = _checks.byte_output("out", out, (len(matrices), height, width, 3), [image, affine])
    _crop_levels(_view(pixels), matrices, swap, result)
    return result


def _view(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Always a read-only view, so that few signatures are compiled."""
    return np.lib.stride_tricks.as_strided(pixels, pixels.shape, (pixels.strides[0], 3, 1), writeable=False)


def soft_argmax(
    heatmaps: Maps, beta: float = 160.0, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """See `edgepose.kernels.reference.soft_argmax`."""
    stack = _checks.maps("heatmaps", heatmaps)
    beta = _checks.temperature("beta", beta)
    n, k, height, width = stack.shape
    shapes = {"coords": (n, k, 2), "scores": (n, k), "covariance": (n, k, 2, 2)}
    coords, scores, covariance = _checks.outputs(out, shapes, [heatmaps])
    _soft_argmax_maps(
        stack.reshape(n * k, height * width),
        height,
        width,
        beta,
        coords.reshape(n * k, 2),
        scores.reshape(n * k),
        covariance.reshape(n * k, 4),
    )
    return coords, scores, covariance


def argmax_offset(
    heatmaps: Maps,
    refine: Literal["quarter", "taylor"] | None = "quarter",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """See `edgepose.kernels.reference.argmax_offset`."""
    stack = _checks.maps("heatmaps", heatmaps)
    mode = {None: 0, "quarter": 1, "taylor": 2}[_checks.refine_name(refine)]
    n, k, height, width = stack.shape
    coords, scores = _checks.outputs(out, {"coords": (n, k, 2), "scores": (n, k)}, [heatmaps])
    flat = stack.reshape(n * k, height * width)
    _argmax_maps(flat, height, width, mode, coords.reshape(n * k, 2), scores.reshape(n * k))
    return coords, scores


def quarter_offset(heatmaps: Maps, coords: Array, out: Array | None = None) -> Array:
    """See `edgepose.kernels.reference.quarter_offset`."""
    stack = _checks.maps("heatmaps", heatmaps)
    n, k, height, width = stack.shape
    points = _checks.coordinates("coords", coords, (n, k, 2))
    result = _checks.output("out", out, (n, k, 2), [heatmaps] if out is coords else [heatmaps, coords])
    flat = stack.reshape(n * k, height * width)
    _quarter_maps(flat, height, width, points.reshape(n * k, 2), result.reshape(n * k, 2))
    return result


def flip_average(
    heatmaps: Maps, flipped: Maps, flip_pairs: Any, shift: bool, out: Array | None = None
) -> Array:
    """See `edgepose.kernels.reference.flip_average`."""
    stack = _checks.maps("heatmaps", heatmaps)
    other = _checks.maps("flipped", flipped, heatmaps)
    order = _checks.flip_permutation(flip_pairs, stack.shape[1])
    move = _checks.switch("shift", shift)
    inputs = [flipped] if out is heatmaps else [heatmaps, flipped]
    result = _checks.output("out", out, stack.shape, inputs)
    _flip_average_maps(stack, other, order, move, result)
    return result
