"""The bottom-up kernels on maps in plain numpy: the specification that every other implementation must meet.

`edgepose.kernels.reference_grouping` specifies `group`.

Source: Cheng et al. 2020, "HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose
Estimation" (section 3.4), with the associative embedding of Newell et al. 2017 (section 3.2), and their
published code where the papers leave something open.

All arithmetic on maps is float32, each operation rounded on its own (no multiply-add in one step), in the
order written here; so other implementations return the same numbers, bit for bit.

**The final map** is made by `aggregate`, which builds it whole and is there to be read. The others must
not: they may hold one joint's map, never all joints' at the final size.

A resize from `a` to `b` pixels along an axis reads, for output pixel `i`:

    scale = float32(a) / float32(b)
    source = max((i + 0.5) * scale - 0.5, 0)
    first = min(floor(source), a - 1);  second = min(first + 1, a - 1)
    w1 = min(source - first, 1);  w0 = 1 - w1

and gives, of the taps p = (first row, first column), q = (first, second), r = (second, first) and
s = (second, second), with h0, h1 the weights of the rows:

    h0 * (w0 * p + w1 * q) + h1 * (w0 * r + w1 * s)

as PyTorch's ``interpolate(mode="bilinear", align_corners=False)``. Where the sizes are equal nothing is
computed. Note that NaN, and infinity times a weight of 0, make NaN.

1. A pass's heatmap: each of its heatmaps resized to the last one's size, added up in order, divided by
   their number. Its tags: each resized to the same size.
2. Of a flipped pass both are then mirrored, and joint j takes map ``flip_permutation[j]`` (a tag map that
   serves all joints stays).
3. Each is resized to the final size.
4. A scale's heatmap is that of its normal pass, or (normal + flipped) / 2. The final heatmap is the sum over
   scales, in order, divided by their number. The final tags are all the passes' tag maps, in order.

**Non-finite values.** A NaN heatmap pixel counts as -inf: it is never a peak, and no neighbour is below it.
A pixel with a NaN tag is not one from which `refine` can fill a joint.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import pose_maps
from edgepose.kernels.pose_maps import Peaks, PoseMaps
from edgepose.kernels.reference_grouping import mean_tag

__all__ = [
    "adjust",
    "aggregate",
    "aggregate_nms_topk",
    "refine",
    "resize_taps",
]

Array = NDArray[np.float32]


def aggregate(maps: PoseMaps) -> tuple[Array, Array]:
    """Build the final map whole, for all joints: what the ops of this module read.

    The ops do the same without materialising it; this function specifies their arithmetic, and is not
    one of them.

    Returns:
        heatmaps (k, H, W) and tags (k, H, W, t), float32; NaN stays NaN.
    """
    maps = pose_maps.check_maps(maps)
    k, (height, width) = maps.joints, maps.size
    final = np.zeros((k, height, width), np.float32)
    tags = np.empty((k, height, width, maps.tag_count), np.float32)
    of_scale: list[Array] = []
    t = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for number, run in enumerate(maps.passes):

            def finish(stack: Array, flipped: bool = run.flipped) -> Array:
                if flipped:
                    stack = stack[..., ::-1]
                    stack = stack[maps.flip_permutation] if len(stack) == k else stack
                return _resize(stack, maps.size)

            total = _resize(run.heatmaps[0].astype(np.float32), run.map_size)
            for level in run.heatmaps[1:]:
                total = total + _resize(level.astype(np.float32), run.map_size)
            heatmaps = finish(total / np.float32(len(run.heatmaps)))
            if number == 0:
                of_scale.append(heatmaps)
            elif run.flipped:
                of_scale[-1] = (of_scale[-1] + heatmaps) / np.float32(2)
            else:
                of_scale.append(heatmaps)
            for level in run.tags:
                tags[..., t] = finish(_resize(level.astype(np.float32), run.map_size))
                t += 1
        final = of_scale[0]
        for heatmaps in of_scale[1:]:
            final = final + heatmaps
        final = final / np.float32(len(of_scale))
    return final, tags


def aggregate_nms_topk(maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1) -> Peaks:
    """The best peaks of each joint's final heatmap, with their tags.

    A peak is a pixel that is above `threshold` (compared in float64) and equals the largest pixel of the
    window x window around it, clipped at the border; so all pixels of a plateau are peaks. Of more than
    `top` the best stay; of equal ones those that come first in row order.

    Args:
        maps: the network's maps.
        window: an odd number of pixels, from 1 to 255.
        top: most peaks per joint, from 1 to 65536.
        threshold: peaks are above it.

    Returns:
        `Peaks`, in descending order of score, equal scores in row order.
    """
    maps = pose_maps.check_maps(maps)
    window, top, threshold = pose_maps.check_peak_options(window, top, threshold)
    final, tags = aggregate(maps)
    heatmaps = _without_nan(final)
    k, width = maps.joints, maps.size[1]
    best = heatmaps
    for axis in (1, 2):
        ends = [(0, 0)] * 3
        ends[axis] = (window // 2, window // 2)
        padded = np.pad(best, ends, constant_values=-np.inf)
        best = np.lib.stride_tricks.sliding_window_view(padded, window, axis).max(axis=-1)
    peaks = Peaks(
        np.zeros((k, top, 2), np.int32),
        np.zeros((k, top), np.float32),
        np.zeros((k, top, maps.tag_count), np.float32),
        np.zeros(k, np.int32),
    )
    is_peak = (heatmaps == best) & (heatmaps.astype(np.float64) > threshold)
    for j in range(k):
        at = np.flatnonzero(is_peak[j])
        values = heatmaps[j].reshape(-1)[at]
        order = np.argsort(-values, kind="stable")[:top]
        rows, columns = np.divmod(at[order], width)
        n = len(order)
        peaks.xy[j, :n] = np.stack([columns, rows], axis=1)
        peaks.scores[j, :n] = values[order]
        peaks.tags[j, :n] = tags[j, rows, columns]
        peaks.count[j] = n
    return peaks


def adjust(maps: PoseMaps, persons: Array) -> Array:
    """Move the joints of new persons a quarter pixel towards the larger neighbour, then half a pixel.

    For each joint whose score is above 0, at the pixel (truncated coordinate, clamped to the map; NaN
    counts as 0): x + 0.25 if the final heatmap's right neighbour is larger than the left one, else
    x - 0.25, equal ones included; a neighbour outside is the pixel itself. Likewise y. Then + 0.5 to both:
    from here on a pixel's centre lies at its index + 0.5, as in the published code.

    Args:
        maps: those of which the persons were made.
        persons: (p, k, 3 or more) float32, of `group`.

    Returns:
        A new array like `persons`.
    """
    maps = pose_maps.check_maps(maps)
    result: Array = pose_maps.check_persons(persons, maps).copy()
    heatmaps = _without_nan(aggregate(maps)[0])
    for person in result:
        for joint, entry in enumerate(person):
            if entry[2] > 0:
                column, row = _pixel(entry, maps.size)
                step = _quarter_step(heatmaps[joint], column, row)
                entry[:2] = entry[:2] + step + np.float32(0.5)
    return result


def refine(maps: PoseMaps, persons: Array) -> Array:
    """Fill the missing joints of persons where the final map fits them best.

    A person's tag is the mean of the final tags at the pixels (as in `adjust`) of its joints with a score
    above 0, in joint order, those with a NaN left out: their float32 sum divided by their number. For each
    joint whose score is 0 it looks for the pixel with the largest:

        heatmap - rint(sqrt(sum over t of (tag - mean)^2))        float32, rint to even

    of equal ones the first in row order; NaN counts as -inf. If there is a pixel above -inf, and the heatmap
    is above 0 there, the joint becomes (x + 0.5 +- 0.25, y + 0.5 +- 0.25, heatmap), the quarter as in
    `adjust`. Its tags stay 0. Other joints stay as they are. A person none of whose joints can be used
    stays as it is.

    So nearly every joint of every person is filled, some with those of other people: good for the average
    precision of COCO, not always for the eye.

    Args:
        maps: those of which the persons were made, with one tag or more.
        persons: (p, k, 3 + t) float32, of `adjust`.

    Returns:
        A new array like `persons`.
    """
    maps = pose_maps.check_maps(maps, tagged=True)
    result: Array = pose_maps.check_persons(persons, maps, tagged=True).copy()
    final, tags = aggregate(maps)
    heatmaps = _without_nan(final)
    for person in result:
        found: list[Array] = []
        for joint, entry in enumerate(person):
            if entry[2] > 0:
                column, row = _pixel(entry, maps.size)
                if not np.isnan(tags[joint, row, column]).any():
                    found.append(tags[joint, row, column])
        if not found:
            continue
        mean = mean_tag(found)
        for joint in np.flatnonzero(person[:, 2] == 0).tolist():
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.square(tags[joint, ..., 0] - mean[0])
                for t in range(1, maps.tag_count):
                    squares = squares + np.square(tags[joint, ..., t] - mean[t])
                fit = _without_nan(heatmaps[joint] - np.rint(np.sqrt(squares)))
            row, column = (int(i) for i in np.unravel_index(fit.argmax(), fit.shape))
            value = heatmaps[joint, row, column]
            if fit[row, column] > -np.inf and value > 0:
                step = _quarter_step(heatmaps[joint], column, row)
                person[joint, :2] = np.array([column, row], np.float32) + np.float32(0.5) + step
                person[joint, 2] = value
    return result


def resize_taps(size: int, result: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """First and second tap of each output pixel along an axis, and their weights w0 and w1."""
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(result)
    source = np.maximum((np.arange(result, dtype=np.float32) + half) * scale - half, np.float32(0))
    first = np.minimum(np.floor(source).astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    w1 = np.minimum(source - first.astype(np.float32), np.float32(1))
    return first, second, np.float32(1) - w1, w1


def _resize(stack: Array, size: tuple[int, int]) -> Array:
    """Resize maps (n, h, w)."""
    if stack.shape[1:] == size:
        return stack
    top, bottom, h0, h1 = resize_taps(stack.shape[1], size[0])
    left, right, w0, w1 = resize_taps(stack.shape[2], size[1])
    across = w0 * stack[:, :, left] + w1 * stack[:, :, right]
    result: Array = h0[:, None] * across[:, top] + h1[:, None] * across[:, bottom]
    return result


def _without_nan(values: Array) -> Array:
    return np.where(np.isnan(values), np.float32(-np.inf), values)


def _pixel(entry: Array, size: tuple[int, int]) -> tuple[int, int]:
    """(column, row) of a joint's pixel."""
    x, y = (0.0 if math.isnan(v) else float(v) for v in entry[:2])
    return int(min(max(x, 0), size[1] - 1)), int(min(max(y, 0), size[0] - 1))


def _quarter_step(heatmap: Array, column: int, row: int) -> Array:
    """A quarter pixel towards the larger neighbour along x and y, for a map without NaN."""
    height, width = heatmap.shape
    right, left = heatmap[row, min(column + 1, width - 1)], heatmap[row, max(column - 1, 0)]
    below, above = heatmap[min(row + 1, height - 1), column], heatmap[max(row - 1, 0), column]
    return np.array([0.25 if right > left else -0.25, 0.25 if below > above else -0.25], np.float32)
