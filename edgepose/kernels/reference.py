"""The kernels in plain numpy: the specification that every other implementation must meet.

Those of bottom-up networks stand, with conventions of their own, in
`edgepose.kernels.reference_bottomup` and `edgepose.kernels.reference_grouping`.

Conventions of all map kernels:

* Maps are float32 or float16 arrays (n, k, h, w), n crops and k joints; float16 is widened to
  float32 first. They need not be contiguous (a copy is made then). h and w are at least 1; n and k
  may be 0. Results are float32 and come without clipping or thresholds.
* Coordinates are (x, y) in map pixels, an integer at a pixel's centre.
* A NaN pixel counts as -inf: it is never a peak and has no weight. Where no pixel of a map is above
  -inf the map is *unusable*: coordinates, score and covariance are NaN.
* The *peak* is the largest pixel; of equal ones the first in row order. The first +inf is a peak like
  any other.
* ``out=`` takes the result arrays themselves (float32, packed, writeable, not overlapping the
  arguments unless said otherwise); they are returned, and nothing of their size is allocated.

Other implementations return the same indices, and floats within 1e-5 relative (2e-3 for float16 maps),
with these absolute floors: 1e-5 px for coordinates, 1e-5 px^2 for covariances (or 1e-5 of
sqrt(c_xx c_yy) where that is larger, for c_xy), 1e-6 / std for normalised pixels. `crop_pixels` gives the
same bytes everywhere.

Every function raises `InvalidInputError` that names the argument which cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import _checks
from edgepose.kernels._checks import Maps
from edgepose.kernels.reference_bottomup import adjust, aggregate, aggregate_nms_topk, refine
from edgepose.kernels.reference_grouping import group

__all__ = [
    "adjust",
    "aggregate",
    "aggregate_nms_topk",
    "argmax_offset",
    "bgr_of_nv12",
    "crop_normalize",
    "crop_pixels",
    "flip_average",
    "group",
    "quarter_offset",
    "refine",
    "soft_argmax",
]

Array = NDArray[np.float32]

POSITION_BITS = 8
"""`crop_pixels` samples at whole multiples of 1/256 px."""
WEIGHT_CUTOFF = 50.0
"""Pixels whose exponent lies this far below the peak's weigh nothing (2e-22 of the peak)."""
ROUNDING_STEP = 2.0**-14
"""Soft coordinates are rounded to this step before the nearest pixel is sought, so that a tie
between two pixels is not decided by the last bit of a sum."""
LOG_FLOOR = 1e-10
MIN_CURVATURE = 1e-6
MAX_CONDITION = 1e-4
MAX_TAYLOR_STEP = 1.0


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
    """Cut n regions out of an image, bilinearly, and normalise them for a network.

    Output pixel (x, y) is sampled at ``affine @ (x, y, 1)``. Outside the image lies a border of
    constant `fill`, which takes part in the interpolation (as OpenCV's ``BORDER_CONSTANT``).
    Samples keep their fraction; none are rounded to whole grey levels.

    Args:
        image: (H, W, 3) uint8. Views are fine; only a view whose pixels are not packed is copied.
        affine: (n, 2, 3) float64, from output pixels to image pixels; entries up to 1e9.
        size: (h, w) of the crops.
        mean, std: by channel position of the result, for ``(value / 255 - mean) / std``.
        swap_rb: exchange channels 0 and 2, before `mean` and `std` are applied.
        fill: border value in grey levels, one number or one per channel of `image`.
        out: (n, 3, h, w) float32.

    Returns:
        (n, 3, h, w) float32.
    """
    pixels = _checks.image("image", image)
    matrices = _checks.affine_matrices("affine", affine)
    height, width = _checks.output_size("size", size)
    means = _checks.numbers("mean", mean)
    stds = _checks.numbers("std", std, positive=True)
    swap = _checks.switch("swap_rb", swap_rb)
    border = _checks.numbers("fill", fill, scalar=True)
    result = _checks.output("out", out, (len(matrices), 3, height, width), [image, affine])

    rows, columns = pixels.shape[:2]
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float64)

    def tap(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.float64]:
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        values = pixels[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)]
        return np.where(inside[..., None], values, border)

    for matrix, crop in zip(matrices, result, strict=True):
        # Everything from -1 or beyond the last pixel on is border, so nothing is lost by the clip.
        x = np.clip(matrix[0, 0] * grid_x + (matrix[0, 1] * grid_y + matrix[0, 2]), -2, columns + 1)
        y = np.clip(matrix[1, 0] * grid_x + (matrix[1, 1] * grid_y + matrix[1, 2]), -2, rows + 1)
        left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        along_x, along_y = (x - left)[..., None], (y - top)[..., None]
        upper = tap(top, left) + (tap(top, left + 1) - tap(top, left)) * along_x
        lower = tap(top + 1, left) + (tap(top + 1, left + 1) - tap(top + 1, left)) * along_x
        values = upper + (lower - upper) * along_y
        if swap:
            values = values[..., ::-1]
        crop[...] = ((values / 255 - means) / stds).transpose(2, 0, 1)
    return result


def crop_pixels(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    rgb: bool,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Cut n regions out of an image, bilinearly, as whole grey levels.

    The regions and the border are those of `crop_normalize`, with a `fill` of 0. Positions are rounded to
    1/256 px, halves up; from there on all arithmetic is on whole numbers, so that every implementation
    returns the same bytes. With s and t the shares of the next column and row in 1/256, floors throughout:

        row(a, b)      = (256 a + (b - a) s) / 2             128 times the level between a and b
        upper, lower   = row(p00, p01), row(p10, p11)
        level          = (upper + ((lower - upper) t + 128) / 256 + 64) / 128

    A level differs by at most 1 from that of `crop_normalize` without normalisation, rounded.

    Args:
        image: (H, W, 3) uint8. Views are fine; only a view whose pixels are not packed is copied.
        affine: (n, 2, 3) float64, from output pixels to image pixels; entries up to 1e9.
        size: (h, w) of the crops.
        rgb: exchange channels 0 and 2, so that a BGR image gives RGB crops.
        out: (n, h, w, 3) uint8.

    Returns:
        (n, h, w, 3) uint8.
    """
    pixels = _checks.image("image", image)
    matrices = _checks.affine_matrices("affine", affine)
    height, width = _checks.output_size("size", size)
    swap = _checks.switch("rgb", rgb)
    result = _checks.byte_output("out", out, (len(matrices), height, width, 3), [image, affine])

    rows, columns = pixels.shape[:2]
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float64)
    steps = 1 << POSITION_BITS

    def tap(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        values = pixels[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)].astype(np.int64)
        return np.where(inside[..., None], values, 0)

    for matrix, crop in zip(matrices, result, strict=True):
        x = np.clip(matrix[0, 0] * grid_x + (matrix[0, 1] * grid_y + matrix[0, 2]), -2, columns + 1)
        y = np.clip(matrix[1, 0] * grid_x + (matrix[1, 1] * grid_y + matrix[1, 2]), -2, rows + 1)
        at_x, at_y = (np.floor(at * steps + 0.5).astype(np.int64) for at in (x, y))
        left, top = at_x >> POSITION_BITS, at_y >> POSITION_BITS
        along_x, along_y = (at_x % steps)[..., None], (at_y % steps)[..., None]
        upper, lower = (
            (tap(at, left) * steps + (tap(at, left + 1) - tap(at, left)) * along_x) >> 1
            for at in (top, top + 1)
        )
        values = (upper + (((lower - upper) * along_y + steps // 2) >> POSITION_BITS) + 64) >> 7
        crop[...] = values[..., ::-1] if swap else values
    return result


def bgr_of_nv12(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture that an NV12 frame holds, as the crops on a device see it.

    Not an op: only `edgepose.kernels.cuda` takes NV12, and there a crop equals one of this picture. The
    colours are those of ITU-R BT.601 in the limited range, in whole numbers of 2**-20, which each 2 x 2
    pixels share (`cv2.COLOR_YUV2BGR_NV12` gives the same):

        y' = 1220542 max(0, y - 16) + 2**19,  and then  r, g, b from 0 to 255, floors:
        r = (y' + 1673527 (v - 128)) / 2**20
        g = (y' - 852492 (v - 128) - 409993 (u - 128)) / 2**20
        b = (y' + 2116026 (u - 128)) / 2**20

    Args:
        frame: (3 H / 2, W) uint8, H and W even: H rows of luma, then H / 2 of U and V in turn.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 2:
        raise _checks.rejected("frame", frame, "a uint8 array (3 H / 2, W)")
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    if min(height, width) < 2 or height % 2 or width % 2 or height * 3 != frame.shape[0] * 2:
        raise _checks.rejected("frame", frame, "a uint8 array (3 H / 2, W) with H and W even")
    chroma = frame[height:].astype(np.int64).reshape(height // 2, width // 2, 2) - 128
    u, v = np.moveaxis(chroma.repeat(2, axis=0).repeat(2, axis=1), 2, 0)
    base = 1220542 * np.maximum(frame[:height].astype(np.int64) - 16, 0) + (1 << 19)
    blue, red = base + 2116026 * u, base + 1673527 * v
    green = base - 852492 * v - 409993 * u
    result: NDArray[np.uint8] = np.clip(np.stack([blue, green, red], axis=2) >> 20, 0, 255).astype(np.uint8)
    return result


def soft_argmax(
    heatmaps: Maps, beta: float = 160.0, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Beta-Soft-Argmax: mean position under ``p = softmax(beta * map)``.

    Source: Zhang, Tang, Wu 2019, "Simple and Lightweight Human Pose Estimation" (LPN), section 3.4.
    The covariance is not part of the paper; it is the second central moment under the same `p`.

    The score is the map's raw value, possibly NaN, at the pixel nearest to the mean (halves to the
    even neighbour, as in the official code), after rounding the float32 coordinates to 2**-14 px.
    Pixels with ``beta * (peak - value) > 50`` have no weight. A map with a +inf pixel puts all
    weight on the first one. A flat map gives the map's centre.

    Args:
        heatmaps: (n, k, h, w).
        beta: temperature, from 1e-9 to 1e9.
        out: (coords, scores, covariance).

    Returns:
        coords (n, k, 2), scores (n, k) and covariance (n, k, 2, 2) in px^2, ordered (x, y).
    """
    stack = _checks.maps("heatmaps", heatmaps)
    beta = _checks.temperature("beta", beta)
    n, k, height, width = stack.shape
    shapes = {"coords": (n, k, 2), "scores": (n, k), "covariance": (n, k, 2, 2)}
    coords, scores, covariance = _checks.outputs(out, shapes, [heatmaps])
    if n * k == 0:
        return coords, scores, covariance

    flat = stack.reshape(n * k, height * width)
    values = np.where(np.isnan(flat), -np.inf, flat.astype(np.float64))
    first = values.argmax(axis=1)
    each = np.arange(n * k)
    peak = values[each, first]
    single = peak == np.inf
    values[single], values[each[single], first[single]], peak[single] = -np.inf, 0.0, 0.0
    unusable = peak == -np.inf
    peak[unusable] = 0.0

    exponent = beta * (values - peak[:, None])
    weight = np.where(exponent >= -WEIGHT_CUTOFF, np.exp(exponent), 0.0)
    weight[unusable] = np.nan
    weight /= weight.sum(axis=1, keepdims=True)
    weight = weight.reshape(n * k, height, width)
    rows, columns = weight.sum(axis=2), weight.sum(axis=1)
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    mean_x, mean_y = columns @ x, rows @ y
    from_x, from_y = x - mean_x[:, None], y - mean_y[:, None]
    xx, yy = (columns * from_x**2).sum(axis=1), (rows * from_y**2).sum(axis=1)
    xy = np.einsum("mhw,mh,mw->m", weight, from_y, from_x)

    coords[...] = np.stack([mean_x, mean_y], axis=1).reshape(n, k, 2)
    covariance[...] = np.stack([xx, xy, xy, yy], axis=1).reshape(n, k, 2, 2)
    snapped = np.rint(coords.astype(np.float64) / ROUNDING_STEP) * ROUNDING_STEP
    nearest = np.nan_to_num(np.rint(snapped)).astype(np.int64)
    nearest = np.clip(nearest, 0, [width - 1, height - 1]).reshape(-1, 2)
    score = flat[each, nearest[:, 1] * width + nearest[:, 0]]
    scores[...] = np.where(unusable, np.float32(np.nan), score).reshape(n, k)
    return coords, scores, covariance


def argmax_offset(
    heatmaps: Maps,
    refine: Literal["quarter", "taylor"] | None = "quarter",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Position of the peak, with an optional sub-pixel step.

    A map whose peak is not above 0 gives coordinates (0, 0), as in the official top-down code, and
    no step. The score is the peak's value.

    ``refine="quarter"``
        `quarter_offset`.
    ``refine="taylor"``
        One Newton step on the logarithm of the map (Zhang et al. 2020, "Distribution-Aware Coordinate
        Representation", section 3.2), exact for a Gaussian, with the paper's central differences
        over two pixels. Values are floored at 1e-10 before the logarithm. The map is *not*
        smoothed here; smooth it beforehand where the network's maps are rugged. No step is made
        where the peak lies within two pixels of the border, where a neighbour is not finite, or
        where the log-map does not curve downwards in all directions (each curvature below -1e-6,
        determinant above 1e-4 of their product). Each component of the step is clipped to 1 px.

    Args:
        heatmaps: (n, k, h, w).
        refine: ``"quarter"``, ``"taylor"`` or None.
        out: (coords, scores).

    Returns:
        coords (n, k, 2) and scores (n, k).
    """
    stack = _checks.maps("heatmaps", heatmaps)
    refine = _checks.refine_name(refine)  # type: ignore[assignment]
    n, k, height, width = stack.shape
    coords, scores = _checks.outputs(out, {"coords": (n, k, 2), "scores": (n, k)}, [heatmaps])
    if n * k == 0:
        return coords, scores

    flat = stack.reshape(n * k, height * width)
    values = np.where(np.isnan(flat), np.float32(-np.inf), flat)
    first = values.argmax(axis=1)
    peak = values[np.arange(n * k), first]
    unusable = peak == -np.inf
    x = np.where(peak > 0, first % width, 0)
    y = np.where(peak > 0, first // width, 0)
    points = np.stack([x, y], axis=1).astype(np.float32)
    points[unusable] = np.nan
    grids = values.reshape(n * k, height, width)
    if refine == "quarter":
        points = _quarter_step(grids, points)
    elif refine == "taylor":
        points += _taylor_step(grids, x, y, peak > 0)
    coords[...] = points.reshape(n, k, 2)
    scores[...] = np.where(unusable, np.float32(np.nan), peak).reshape(n, k)
    return coords, scores


def quarter_offset(heatmaps: Maps, coords: Array, out: Array | None = None) -> Array:
    """Move coordinates a quarter pixel towards the larger neighbour, along each axis.

    The pixel is ``floor(coordinate + 0.5)``; a step is made only where ``1 < x < w - 1`` and
    ``1 < y < h - 1`` (index 1 is excluded and w - 2 included, as in the official top-down code) and
    only if the two neighbours differ. LPN's official evaluation applies this to soft coordinates.
    NaN coordinates stay NaN.

    Args:
        heatmaps: (n, k, h, w).
        coords: (n, k, 2) float32.
        out: (n, k, 2); may be `coords` itself.

    Returns:
        (n, k, 2) float32.
    """
    stack = _checks.maps("heatmaps", heatmaps)
    n, k, height, width = stack.shape
    points = _checks.coordinates("coords", coords, (n, k, 2))
    result = _checks.output("out", out, (n, k, 2), [heatmaps] if out is coords else [heatmaps, coords])
    values = np.where(np.isnan(stack), np.float32(-np.inf), stack).reshape(n * k, height, width)
    result[...] = _quarter_step(values, points.reshape(n * k, 2)).reshape(n, k, 2)
    return result


def flip_average(
    heatmaps: Maps,
    flipped: Maps,
    flip_pairs: Any,
    shift: bool,
    out: Array | None = None,
) -> Array:
    """Average the maps of an image with those of its mirror image.

    The mirrored maps are turned back along the width, their joints change places, and with `shift`
    they move one pixel to the right, column 0 keeping its value (needed where input and map pixels
    do not share their outermost centres: ``coordinates="legacy"``). Then ``0.5 * (a + b)`` in
    float32; a pixel that is NaN on either side is NaN.

    Args:
        heatmaps: (n, k, h, w).
        flipped: raw maps for the mirrored input, of the same shape and dtype.
        flip_pairs: (m, 2) indices of joints that change places, or a permutation (k,).
        shift: whether to move the mirrored maps.
        out: (n, k, h, w) float32; may be `heatmaps` itself.

    Returns:
        (n, k, h, w) float32.
    """
    stack = _checks.maps("heatmaps", heatmaps)
    other = _checks.maps("flipped", flipped, heatmaps)
    order = _checks.flip_permutation(flip_pairs, stack.shape[1])
    move = _checks.switch("shift", shift)
    inputs = [flipped] if out is heatmaps else [heatmaps, flipped]
    result = _checks.output("out", out, stack.shape, inputs)

    back = other[:, order, :, ::-1]
    if move:
        back = np.concatenate([back[..., :1], back[..., :-1]], axis=3)
    with np.errstate(over="ignore", invalid="ignore"):
        np.add(stack, back, out=result)
        result *= np.float32(0.5)
    return result


def _quarter_step(values: Array, points: Array) -> Array:
    """Quarter step for maps (m, h, w) without NaN and points (m, 2)."""
    height, width = values.shape[1:]
    pixel = np.floor(points.astype(np.float64) + 0.5)
    with np.errstate(invalid="ignore"):
        inside = ((pixel > 1) & (pixel < [width - 1, height - 1])).all(axis=1)
    at = np.flatnonzero(inside)
    x, y = pixel[at].astype(np.int64).T
    result: Array = points.copy()
    for axis, dx, dy in ((0, 1, 0), (1, 0, 1)):
        after, before = values[at, y + dy, x + dx], values[at, y - dy, x - dx]
        step = (after > before).astype(np.float32) - (after < before).astype(np.float32)
        result[at, axis] += np.float32(0.25) * step
    return result


def _taylor_step(
    values: Array, x: NDArray[np.int64], y: NDArray[np.int64], positive: NDArray[np.bool_]
) -> Array:
    """Newton step on the log-map for maps (m, h, w) without NaN and peaks (m,)."""
    height, width = values.shape[1:]
    result = np.zeros((len(values), 2), np.float32)
    inside = positive & (x >= 2) & (x < width - 2) & (y >= 2) & (y < height - 2)
    at = np.flatnonzero(inside)
    column, row = x[at], y[at]

    def log(dx: int, dy: int) -> NDArray[np.float64]:
        value = values[at, row + dy, column + dx].astype(np.float64)
        return np.log(np.maximum(value, LOG_FLOOR))

    with np.errstate(invalid="ignore", divide="ignore"):
        middle = log(0, 0)
        gx, gy = 0.5 * (log(1, 0) - log(-1, 0)), 0.5 * (log(0, 1) - log(0, -1))
        xx = 0.25 * (log(2, 0) - 2 * middle + log(-2, 0))
        yy = 0.25 * (log(0, 2) - 2 * middle + log(0, -2))
        xy = 0.25 * (log(1, 1) - log(-1, 1) - log(1, -1) + log(-1, -1))
        determinant = xx * yy - xy * xy
        usable = (xx < -MIN_CURVATURE) & (yy < -MIN_CURVATURE) & (determinant > MAX_CONDITION * (xx * yy))
        step = np.stack([(xy * gy - yy * gx) / determinant, (xy * gx - xx * gy) / determinant], axis=1)
        usable &= np.isfinite(step).all(axis=1)
    result[at] = np.clip(np.where(usable[:, None], step, 0.0), -MAX_TAYLOR_STEP, MAX_TAYLOR_STEP)
    return result
