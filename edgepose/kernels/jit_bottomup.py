"""The bottom-up kernels on maps, compiled by numba: the contract of `edgepose.kernels.reference_bottomup`.

One joint at a time: its heatmap of each pass is made at the pass's own size (a *mid map*), and the final
map is computed from these in square tiles, only where it matters. A resized pixel never exceeds the largest
of its taps, but for rounding, so the largest tap under a tile bounds the tile: `aggregate_nms_topk` skips
tiles not above the threshold, and `refine` searches tiles in which the best pixel so far can be beaten.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import pose_maps
from edgepose.kernels._checks import Maps
from edgepose.kernels._numba import compiled
from edgepose.kernels.pose_maps import MapPass, Peaks, PoseMaps
from edgepose.kernels.reference_bottomup import resize_taps

__all__ = ["adjust", "aggregate_nms_topk", "refine"]

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

PEAK_TILE, FIT_TILE = 8, 16
"""Side of the tiles in which peaks, and best fits, are sought."""
SLACK = 4e-6
"""More than the relative rounding error of a pixel resized twice."""


class Taps(NamedTuple):
    """First and second tap of each output pixel along an axis, and their weights."""

    first: Indices
    second: Indices
    w0: Array
    w1: Array


class Resize(NamedTuple):
    """Several resizes of maps, one per row: what they read, and where the result lies in a flat array.

    Attributes:
        layout: (n, LAYOUT) whole numbers per map; see the constants below.
        rows, columns: taps (n, length of the longest axis) along either axis.
    """

    layout: Indices
    rows: Taps
    columns: Taps


OFFSET, HEIGHT, WIDTH, SAME, FLIPPED, LAST, PASS = range(7)
"""Columns of `Resize.layout`: place in the flat array, size, whether the resize does nothing, whether the
pass is flipped and whether it is its scale's last, and (of tags) the number of the pass."""


@compiled
def _lerp(p: float, q: float, r: float, s: float, w0: float, w1: float, h0: float, h1: float) -> float:
    return h0 * (w0 * p + w1 * q) + h1 * (w0 * r + w1 * s)


@compiled
def _add_level(
    level: Array, rows: Taps, columns: Taps, same: bool, add: bool, divisor: float, mirror: bool, mid: Array
) -> None:
    """Put a level, resized, into a mid map, or add it; with a divisor above 0 this is the last level."""
    height, width = mid.shape
    line = np.empty((2, width), np.float32)
    held = [-1, -1]
    for y in range(height):
        target = mid[y]
        if same:
            source = level[y]
            if add:
                for x in range(width):
                    target[x] += source[x]
            else:
                target[:] = source
        else:
            top, bottom = rows.first[y], rows.second[y]
            upper = _held_line(held, top, bottom)
            if held[upper] != top:
                held[upper] = top
                _level_line(level[top], columns, line[upper])
            lower = _held_line(held, bottom, top)
            if held[lower] != bottom:
                held[lower] = bottom
                _level_line(level[bottom], columns, line[lower])
            h0, h1 = rows.w0[y], rows.w1[y]
            over, under = line[upper], line[lower]
            if add:
                for x in range(width):
                    target[x] += h0 * over[x] + h1 * under[x]
            else:
                for x in range(width):
                    target[x] = h0 * over[x] + h1 * under[x]
        if divisor > 1:
            for x in range(width):
                target[x] = target[x] / divisor
        if divisor > 0 and mirror:
            for x in range(width // 2):
                target[x], target[width - 1 - x] = target[width - 1 - x], target[x]


@compiled
def _held_line(held: list[int], wanted: int, other: int) -> int:
    """Which of two lines holds, or shall hold, a row, so that the other row is not lost."""
    if held[0] == wanted:
        return 0
    if held[1] == wanted:
        return 1
    return 1 if held[0] == other else 0


@compiled
def _level_line(source: Array, columns: Taps, line: Array) -> None:
    first, second, w0, w1 = columns.first, columns.second, columns.w0, columns.w1
    for x in range(len(line)):
        line[x] = w0[x] * source[first[x]] + w1[x] * source[second[x]]


@compiled
def _heat_tile(
    g: Resize, mids: Array, y0: int, y1: int, x0: int, x1: int, line: Array, tile: Array, final: Array
) -> None:
    """Compute final[y0:y1, x0:x1] of a joint, NaN as -inf."""
    scales = 0
    held = [-1, -1]
    for p in range(len(g.layout)):
        offset, width = g.layout[p, OFFSET], g.layout[p, WIDTH]
        held[0] = held[1] = -1
        first, second = g.columns.first[p], g.columns.second[p]
        w0, w1 = g.columns.w0[p], g.columns.w1[p]
        flipped, last = g.layout[p, FLIPPED] == 1, g.layout[p, LAST] == 1
        scales += last
        for y in range(y0, y1):
            row = tile[y - y0]
            if g.layout[p, SAME] == 1:
                start = offset + y * width
                for x in range(x0, x1):
                    line[0, x - x0] = mids[start + x]
                over, under = line[0], line[0]
                h0, h1 = np.float32(1), np.float32(0)
            else:
                top, bottom = g.rows.first[p, y], g.rows.second[p, y]
                upper = _held_line(held, top, bottom)
                if held[upper] != top:
                    held[upper] = top
                    start = offset + top * width
                    for x in range(x0, x1):
                        line[upper, x - x0] = w0[x] * mids[start + first[x]] + w1[x] * mids[start + second[x]]
                lower = _held_line(held, bottom, top)
                if held[lower] != bottom:
                    held[lower] = bottom
                    start = offset + bottom * width
                    for x in range(x0, x1):
                        line[lower, x - x0] = w0[x] * mids[start + first[x]] + w1[x] * mids[start + second[x]]
                over, under = line[upper], line[lower]
                h0, h1 = g.rows.w0[p, y], g.rows.w1[p, y]
            for x in range(x1 - x0):
                value = over[x]
                if g.layout[p, SAME] == 0:
                    value = h0 * value + h1 * under[x]
                row[x] = (row[x] + value) * np.float32(0.5) if flipped else value
            if last:
                target = final[y, x0:x1]
                for x in range(x1 - x0):
                    target[x] = row[x] if scales == 1 else target[x] + row[x]
    divisor = np.float32(scales)
    for y in range(y0, y1):
        for x in range(x0, x1):
            value = final[y, x] / divisor
            final[y, x] = np.float32(-np.inf) if math.isnan(value) else value


@compiled
def _heat_bounds(g: Resize, mids: Array, size: tuple[int, int], side: int) -> NDArray[np.float64]:
    """What no pixel of a tile is above; -inf where none can be above that."""
    height, width = size
    down, across = (height + side - 1) // side, (width + side - 1) // side
    scale, total = np.zeros((down, across)), np.zeros((down, across))
    scales = 0
    for p in range(len(g.layout)):
        offset, wide = g.layout[p, OFFSET], g.layout[p, WIDTH]
        line = np.empty(wide, np.float32)
        for i in range(down):
            low, high = g.rows.first[p, i * side], g.rows.second[p, min(height, (i + 1) * side) - 1]
            line[:] = -np.inf
            for y in range(low, high + 1):
                source = mids[offset + y * wide : offset + (y + 1) * wide]
                for x in range(wide):
                    line[x] = source[x] if source[x] > line[x] else line[x]
            for j in range(across):
                left = g.columns.first[p, j * side]
                right = g.columns.second[p, min(width, (j + 1) * side) - 1]
                most = np.float32(-np.inf)
                for x in range(left, right + 1):
                    most = line[x] if line[x] > most else most
                if g.layout[p, FLIPPED] == 1:
                    scale[i, j] = (scale[i, j] + most) / 2
                else:
                    scale[i, j] = most
        if g.layout[p, LAST] == 1:
            scales += 1
            total += scale
    for i in range(down):
        for j in range(across):
            bound = total[i, j] / scales
            # Of -inf and inf in two passes comes NaN, which no pixel is above either.
            total[i, j] = bound + SLACK * abs(bound) if bound > -np.inf else -np.inf
    return total


@compiled
def _better(score: float, index: int, other: float, other_index: int) -> bool:
    return score > other or (score == other and index < other_index)


@compiled
def _sift(scores: Array, at: Indices, count: int, score: float, index: int) -> None:
    """Replace the root, which is the worst, of a heap of `count` peaks."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and _better(scores[child], at[child], scores[child + 1], at[child + 1]):
            child += 1
        if not _better(score, index, scores[child], at[child]):
            break
        scores[i], at[i] = scores[child], at[child]
        i = child
    scores[i], at[i] = score, index


@compiled
def _is_peak(final: Array, y: int, x: int, reach: int) -> bool:
    height, width = final.shape
    value = final[y, x]
    if reach and x + 1 < width and final[y, x + 1] > value:
        return False
    for v in range(max(y - reach, 0), min(y + reach + 1, height)):
        for u in range(max(x - reach, 0), min(x + reach + 1, width)):
            if final[v, u] > value:
                return False
    return True


@compiled
def _find_peaks(
    g: Resize, mids: Array, side: int, reach: int, threshold: float, final: Array, scores: Array, at: Indices
) -> int:
    """The best peaks of a joint, best first; `final` is -inf all over, before and after."""
    height, width = final.shape
    top = len(scores)
    bounds = _heat_bounds(g, mids, (height, width), side)
    line, tile = np.empty((2, side), np.float32), np.empty((side, side), np.float32)
    for i in range(bounds.shape[0]):
        for j in range(bounds.shape[1]):
            if bounds[i, j] > threshold:
                y, x = i * side, j * side
                _heat_tile(g, mids, y, min(y + side, height), x, min(x + side, width), line, tile, final)
    # What was not computed is not above the threshold, so cannot keep a pixel from being a peak.
    count = 0
    for i in range(bounds.shape[0]):
        for j in range(bounds.shape[1]):
            if not bounds[i, j] > threshold:
                continue
            for y in range(i * side, min((i + 1) * side, height)):
                for x in range(j * side, min((j + 1) * side, width)):
                    value, index = final[y, x], y * width + x
                    if not np.float64(value) > threshold:
                        continue
                    if count == top and not _better(value, index, scores[0], at[0]):
                        continue
                    if not _is_peak(final, y, x, reach):
                        continue
                    if count == top:
                        _sift(scores, at, count, value, index)
                        continue
                    place = count
                    count += 1
                    while place > 0:
                        parent = (place - 1) // 2
                        if not _better(scores[parent], at[parent], value, index):
                            break
                        scores[place], at[place] = scores[parent], at[parent]
                        place = parent
                    scores[place], at[place] = value, index
    for i in range(bounds.shape[0]):
        for j in range(bounds.shape[1]):
            if bounds[i, j] > threshold:
                final[i * side : (i + 1) * side, j * side : (j + 1) * side] = -np.inf
    for left in range(count - 1, 0, -1):
        score, index = scores[left], at[left]
        scores[left], at[left] = scores[0], at[0]
        _sift(scores, at, left, score, index)
    return count


@compiled
def _mid_tag(inner: Resize, flat: Array, t: int, y: int, x: int, mid_width: int) -> float:
    """A tag map's pixel at its pass's size."""
    offset, width = inner.layout[t, OFFSET], inner.layout[t, WIDTH]
    if inner.layout[t, FLIPPED] == 1:
        x = mid_width - 1 - x
    if inner.layout[t, SAME] == 1:
        value: float = flat[offset + y * width + x]
        return value
    top, bottom = offset + inner.rows.first[t, y] * width, offset + inner.rows.second[t, y] * width
    left, right = inner.columns.first[t, x], inner.columns.second[t, x]
    return _lerp(
        flat[top + left], flat[top + right], flat[bottom + left], flat[bottom + right],
        inner.columns.w0[t, x], inner.columns.w1[t, x], inner.rows.w0[t, y], inner.rows.w1[t, y],
    )  # fmt: skip


@compiled
def _tag(g: Resize, inner: Resize, flat: Array, t: int, y: int, x: int) -> float:
    """A final tag."""
    p = inner.layout[t, PASS]
    width = g.layout[p, WIDTH]
    if g.layout[p, SAME] == 1:
        return _mid_tag(inner, flat, t, y, x, width)
    top, bottom, left, right = (
        g.rows.first[p, y],
        g.rows.second[p, y],
        g.columns.first[p, x],
        g.columns.second[p, x],
    )
    return _lerp(
        _mid_tag(inner, flat, t, top, left, width), _mid_tag(inner, flat, t, top, right, width),
        _mid_tag(inner, flat, t, bottom, left, width), _mid_tag(inner, flat, t, bottom, right, width),
        g.columns.w0[p, x], g.columns.w1[p, x], g.rows.w0[p, y], g.rows.w1[p, y],
    )  # fmt: skip


@compiled
def _peak_tags(
    g: Resize,
    inner: Resize,
    flat: Array,
    at: Indices,
    count: int,
    width: int,
    xy: NDArray[np.int32],
    tags: Array,
) -> None:
    for i in range(count):
        y, x = at[i] // width, at[i] % width
        xy[i, 0], xy[i, 1] = x, y
        for t in range(tags.shape[1]):
            tags[i, t] = _tag(g, inner, flat, t, y, x)


@compiled
def _pixel(coordinate: float, length: int) -> int:
    return 0 if math.isnan(coordinate) else int(min(max(coordinate, 0), length - 1))


@compiled
def _add_tags(
    g: Resize,
    inner: Resize,
    flat: Array,
    size: tuple[int, int],
    persons: Array,
    joint: int,
    total: Array,
    count: Indices,
) -> None:
    """Add the tags of one joint of each person to the person's sum, unless one is NaN."""
    height, width = size
    t_count = total.shape[1]
    tags = np.empty(t_count, np.float32)
    for i in range(len(persons)):
        entry = persons[i, joint]
        if not entry[2] > 0:
            continue
        usable = True
        for t in range(t_count):
            tags[t] = _tag(g, inner, flat, t, _pixel(entry[1], height), _pixel(entry[0], width))
            usable &= not math.isnan(tags[t])
        if usable:
            for t in range(t_count):
                total[i, t] = tags[t] if count[i] == 0 else total[i, t] + tags[t]
            count[i] += 1


@compiled
def _tag_bounds(
    g: Resize, inner: Resize, flat: Array, size: tuple[int, int], side: int, least: Array, most: Array
) -> None:
    """The range of the tags in each tile, (t, tiles down, tiles across); empty where all are NaN."""
    height, width = size
    for t in range(len(inner.layout)):
        p = inner.layout[t, PASS]
        offset, wide, mid_width = inner.layout[t, OFFSET], inner.layout[t, WIDTH], g.layout[p, WIDTH]
        low, high = np.empty(wide, np.float32), np.empty(wide, np.float32)
        for i in range(least.shape[1]):
            above = inner.rows.first[t, g.rows.first[p, i * side]]
            below = inner.rows.second[t, g.rows.second[p, min(height, (i + 1) * side) - 1]]
            low[:] = np.inf
            high[:] = -np.inf
            for y in range(above, below + 1):
                source = flat[offset + y * wide : offset + (y + 1) * wide]
                for x in range(wide):
                    low[x] = source[x] if source[x] < low[x] else low[x]
                    high[x] = source[x] if source[x] > high[x] else high[x]
            for j in range(least.shape[2]):
                left = g.columns.first[p, j * side]
                right = g.columns.second[p, min(width, (j + 1) * side) - 1]
                if inner.layout[t, FLIPPED] == 1:
                    left, right = mid_width - 1 - right, mid_width - 1 - left
                smallest, largest = np.float32(np.inf), np.float32(-np.inf)
                for x in range(inner.columns.first[t, left], inner.columns.second[t, right] + 1):
                    smallest = low[x] if low[x] < smallest else smallest
                    largest = high[x] if high[x] > largest else largest
                least[t, i, j] = smallest - np.float32(SLACK) * abs(smallest)
                most[t, i, j] = largest + np.float32(SLACK) * abs(largest)


@compiled
def _fill(
    g: Resize,
    inner: Resize,
    mids: Array,
    flat: Array,
    side: int,
    joint: int,
    means: Array,
    usable: NDArray[np.bool_],
    persons: Array,
    final: Array,
) -> None:
    """Fill one joint where it is missing."""
    height, width = final.shape
    t_count = means.shape[1]
    bounds = _heat_bounds(g, mids, (height, width), side)
    down, across = bounds.shape
    least = np.empty((t_count, down, across), np.float32)
    most = np.empty((t_count, down, across), np.float32)
    _tag_bounds(g, inner, flat, (height, width), side, least, most)
    known = np.zeros((down, across), np.bool_)
    line, tile = np.empty((2, side), np.float32), np.empty((side, side), np.float32)
    limits, farthest = np.empty((down, across), np.float32), np.empty((down, across), np.float32)
    nothing = np.float32(-np.inf)
    for n in range(len(persons)):
        if persons[n, joint, 2] != 0 or not usable[n]:
            continue
        mean = means[n]
        # What a tile's best fit is not above, and the most promising tile.
        first, best_limit = -1, nothing
        for i in range(down):
            for j in range(across):
                limits[i, j] = nothing
                if bounds[i, j] == -np.inf:
                    continue
                square = 0.0
                for t in range(t_count):
                    if least[t, i, j] > most[t, i, j]:  # NaN all over
                        square = math.inf
                    away = max(np.float64(least[t, i, j]) - mean[t], np.float64(mean[t]) - most[t, i, j])
                    if away > 0:
                        square += away * away
                near = np.float32(np.rint(math.sqrt(square) * (1 - 4 * SLACK)))
                farthest[i, j] = near
                limits[i, j] = np.float32(bounds[i, j] - near)
                if limits[i, j] > best_limit:
                    first, best_limit = i * across + j, limits[i, j]
        if first < 0:
            continue
        best, at = nothing, height * width
        for number in range(-1, down * across):
            i, j = (first if number < 0 else number) // across, (first if number < 0 else number) % across
            y0, x0 = i * side, j * side
            if (
                number == first
                or limits[i, j] == nothing
                or not _better(limits[i, j], y0 * width + x0, best, at)
            ):
                continue
            y1, x1 = min(y0 + side, height), min(x0 + side, width)
            if not known[i, j]:
                known[i, j] = True
                _heat_tile(g, mids, y0, y1, x0, x1, line, tile, final)
            for y in range(y0, y1):
                for x in range(x0, x1):
                    value, index = final[y, x], y * width + x
                    if not _better(value - farthest[i, j], index, best, at):
                        continue
                    total = np.float32(0)
                    for t in range(t_count):
                        difference = _tag(g, inner, flat, t, y, x) - mean[t]
                        total += difference * difference
                    fit = value - np.rint(np.sqrt(total))
                    if fit > nothing and _better(fit, index, best, at):
                        best, at = fit, index
        if best == nothing:
            continue
        y, x = at // width, at % width
        value = final[y, x]
        if not value > 0:
            continue
        for v, u in (
            (y, min(x + 1, width - 1)),
            (y, max(x - 1, 0)),
            (min(y + 1, height - 1), x),
            (max(y - 1, 0), x),
        ):
            i, j = v // side, u // side
            if not known[i, j]:
                known[i, j] = True
                y0, x0 = i * side, j * side
                _heat_tile(g, mids, y0, min(y0 + side, height), x0, min(x0 + side, width), line, tile, final)
        right, left = final[y, min(x + 1, width - 1)], final[y, max(x - 1, 0)]
        under, over = final[min(y + 1, height - 1), x], final[max(y - 1, 0), x]
        persons[n, joint, 0] = x + 0.5 + (0.25 if right > left else -0.25)
        persons[n, joint, 1] = y + 0.5 + (0.25 if under > over else -0.25)
        persons[n, joint, 2] = value


@compiled
def _add_samples(
    level: Array,
    rows: Taps,
    columns: Taps,
    same: bool,
    g: Resize,
    p: int,
    order: Indices,
    points: Indices,
    add: bool,
    samples: Array,
) -> None:
    """Put a level's share of a pass's heatmap into the four taps of each point (joint, y, x), or add it."""
    width = g.layout[p, WIDTH]
    for n in range(len(points)):
        source, y, x = level[order[points[n, 0]]], points[n, 1], points[n, 2]
        for q in range(4):
            row = g.rows.first[p, y] if q < 2 else g.rows.second[p, y]
            column = g.columns.first[p, x] if q % 2 == 0 else g.columns.second[p, x]
            if g.layout[p, FLIPPED] == 1:
                column = width - 1 - column
            if same:
                value = source[row, column]
            else:
                top, bottom, left, right = (
                    rows.first[row],
                    rows.second[row],
                    columns.first[column],
                    columns.second[column],
                )
                value = _lerp(
                    source[top, left], source[top, right], source[bottom, left], source[bottom, right],
                    columns.w0[column], columns.w1[column], rows.w0[row], rows.w1[row],
                )  # fmt: skip
            samples[n, q] = samples[n, q] + value if add else value


@compiled
def _merge_samples(
    g: Resize, p: int, levels: int, points: Indices, samples: Array, scale: Array, values: Array, add: bool
) -> None:
    """Resize the taps of each point, and merge them into its scale's value and into its final value."""
    divisor = np.float32(levels)
    for n in range(len(points)):
        y, x = points[n, 1], points[n, 2]
        value = samples[n, 0] / divisor
        if g.layout[p, SAME] == 0:
            value = _lerp(
                value, samples[n, 1] / divisor, samples[n, 2] / divisor, samples[n, 3] / divisor,
                g.columns.w0[p, x], g.columns.w1[p, x], g.rows.w0[p, y], g.rows.w1[p, y],
            )  # fmt: skip
        scale[n] = (scale[n] + value) * np.float32(0.5) if g.layout[p, FLIPPED] == 1 else value
        if g.layout[p, LAST] == 1:
            values[n] = values[n] + scale[n] if add else scale[n]


@compiled
def _neighbours(persons: Array, size: tuple[int, int]) -> Indices:
    """(joint, y, x) of the pixels right of, left of, below and above each detected joint."""
    height, width = size
    points = np.empty((4 * persons.shape[0] * persons.shape[1], 3), np.int64)
    n = 0
    for i in range(persons.shape[0]):
        for joint in range(persons.shape[1]):
            if persons[i, joint, 2] > 0:
                y, x = _pixel(persons[i, joint, 1], height), _pixel(persons[i, joint, 0], width)
                points[n : n + 4, 0] = joint
                points[n : n + 4, 1] = y
                points[n : n + 4, 2] = x
                points[n, 2], points[n + 1, 2] = min(x + 1, width - 1), max(x - 1, 0)
                points[n + 2, 1], points[n + 3, 1] = min(y + 1, height - 1), max(y - 1, 0)
                n += 4
    return points[:n]


@compiled
def _step(persons: Array, values: Array) -> None:
    n = 0
    for i in range(persons.shape[0]):
        for joint in range(persons.shape[1]):
            if persons[i, joint, 2] > 0:
                for axis in range(2):
                    after, before = values[n], values[n + 1]
                    # NaN is -inf: below all but NaN and -inf.
                    up = after > before or (math.isnan(before) and after > -np.inf)
                    step = np.float32(0.25 if up else -0.25)
                    persons[i, joint, axis] = persons[i, joint, axis] + step + np.float32(0.5)
                    n += 2


@functools.lru_cache(maxsize=256)
def _taps(size: int, result: int) -> Taps:
    return Taps(*resize_taps(size, result))


def _resizes(layout: list[list[int]], results: list[tuple[int, int]]) -> Resize:
    """The table of resizes to `results` of maps whose sizes stand in `layout`."""
    axes = []
    for axis in (0, 1):
        longest = max([size[axis] for size in results], default=1)
        first, second = np.zeros((2, len(results), longest), np.int64)
        w0, w1 = np.zeros((2, len(results), longest), np.float32)
        for n, (row, size) in enumerate(zip(layout, results, strict=True)):
            taps = _taps(row[(HEIGHT, WIDTH)[axis]], size[axis])
            one = slice(size[axis])
            if row[SAME]:
                first[n, one] = second[n, one] = np.arange(size[axis])
            else:
                first[n, one], second[n, one], w0[n, one], w1[n, one] = taps
        axes.append(Taps(first, second, w0, w1))
    return Resize(np.array(layout, np.int64).reshape(-1, PASS + 1), *axes)


def _layouts(maps: PoseMaps) -> tuple[Resize, Resize]:
    """The resizes of one joint's mid maps to the final size, and of its tag maps to mid size."""
    outer: list[list[int]] = []
    inner: list[list[int]] = []
    mid_sizes: list[tuple[int, int]] = []
    heat_end = tag_end = 0
    for p, run in enumerate(maps.passes):
        h, w = run.map_size
        last = p + 1 == len(maps.passes) or not maps.passes[p + 1].flipped
        outer.append([heat_end, h, w, run.map_size == maps.size, run.flipped, last, p])
        heat_end += h * w
        for tag in run.tags:
            same = tag.shape[1:] == run.map_size
            inner.append([tag_end, *tag.shape[1:], same, run.flipped, last, p])
            mid_sizes.append(run.map_size)
            tag_end += tag.shape[1] * tag.shape[2]
    return _resizes(outer, [maps.size] * len(outer)), _resizes(inner, mid_sizes)


def _memory(resize: Resize) -> tuple[Array, list[Array]]:
    """Flat memory for the maps of a table, and each map in it."""
    ends = (resize.layout[:, HEIGHT] * resize.layout[:, WIDTH]).cumsum().tolist()
    flat = np.empty(ends[-1] if ends else 0, np.float32)
    spans = zip([0, *ends], ends, resize.layout[:, HEIGHT].tolist(), strict=False)
    return flat, [flat[start:end].reshape(height, -1) for start, end, height in spans]


class _Plan:
    """The resizes of a `PoseMaps`, and memory for one joint.

    Attributes:
        outer: from mid maps, in `mids`, to the final size.
        inner: from tag maps, in `tags`, to mid size.
        mids, tags: the maps of one joint; see `load_heat` and `load_tags`.
    """

    def __init__(self, maps: PoseMaps) -> None:
        self.maps = maps
        self.outer, self.inner = _layouts(maps)
        self.mids, self._mid_maps = _memory(self.outer)
        self.tags, self._tag_maps = _memory(self.inner)

    def _joint(self, run: MapPass, stack: Maps, joint: int) -> Maps:
        """The map of a joint of the picture."""
        source = int(self.maps.flip_permutation[joint]) if run.flipped else joint
        result: Maps = stack[source if len(stack) == self.maps.joints else 0]
        return result

    def load_heat(self, joint: int) -> None:
        """Make the joint's mid maps."""
        for run, mid in zip(self.maps.passes, self._mid_maps, strict=True):
            levels = len(run.heatmaps)
            for i, stack in enumerate(run.heatmaps):
                level = np.require(self._joint(run, stack, joint), np.float32, ["C", "A"])
                divisor = np.float32(levels if i + 1 == levels else 0)
                taps = _taps(level.shape[0], mid.shape[0]), _taps(level.shape[1], mid.shape[1])
                _add_level(level, *taps, level.shape == mid.shape, i > 0, divisor, run.flipped, mid)

    def load_tags(self, joint: int) -> None:
        """Copy the joint's tag maps."""
        sources = ((run, stack) for run in self.maps.passes for stack in run.tags)
        for (run, stack), target in zip(sources, self._tag_maps, strict=True):
            target[...] = self._joint(run, stack, joint)


def aggregate_nms_topk(maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1) -> Peaks:
    """See `edgepose.kernels.reference_bottomup.aggregate_nms_topk`."""
    maps = pose_maps.check_maps(maps)
    window, top, threshold = pose_maps.check_peak_options(window, top, threshold)
    plan = _Plan(maps)
    k, t = maps.joints, maps.tag_count
    xy, scores = np.zeros((k, top, 2), np.int32), np.zeros((k, top), np.float32)
    tags, count = np.zeros((k, top, t), np.float32), np.zeros(k, np.int32)
    final, at = np.full(maps.size, -np.inf, np.float32), np.empty(top, np.int64)
    for j in range(k):
        plan.load_heat(j)
        n = _find_peaks(plan.outer, plan.mids, PEAK_TILE, window // 2, threshold, final, scores[j], at)
        count[j] = n
        if n:
            plan.load_tags(j)
            _peak_tags(plan.outer, plan.inner, plan.tags, at, n, maps.size[1], xy[j], tags[j])
    return Peaks(xy, scores, tags, count)


def adjust(maps: PoseMaps, persons: Array) -> Array:
    """See `edgepose.kernels.reference_bottomup.adjust`."""
    maps = pose_maps.check_maps(maps)
    result: Array = pose_maps.check_persons(persons, maps).copy()
    points = _neighbours(result, maps.size)
    if not len(points):
        return result
    outer, _ = _layouts(maps)
    samples = np.empty((len(points), 4), np.float32)
    scale, values = np.empty((2, len(points)), np.float32)
    scales = 0
    for p, run in enumerate(maps.passes):
        order = maps.flip_permutation if run.flipped else np.arange(maps.joints)
        h, w = run.map_size
        for i, stack in enumerate(run.heatmaps):
            level = np.require(stack, np.float32, ["C", "A"])
            taps = _taps(level.shape[1], h), _taps(level.shape[2], w)
            same = level.shape[1:] == run.map_size
            _add_samples(level, *taps, same, outer, p, order, points, i > 0, samples)
        _merge_samples(outer, p, len(run.heatmaps), points, samples, scale, values, scales > 0)
        scales += int(outer.layout[p, LAST])
    _step(result, values)
    return result


def refine(maps: PoseMaps, persons: Array) -> Array:
    """See `edgepose.kernels.reference_bottomup.refine`."""
    maps = pose_maps.check_maps(maps, tagged=True)
    result: Array = pose_maps.check_persons(persons, maps, tagged=True).copy()
    if not (result[:, :, 2] == 0).any():
        return result
    plan = _Plan(maps)
    total, count = np.zeros((len(result), maps.tag_count), np.float32), np.zeros(len(result), np.int64)
    for j in np.flatnonzero((result[:, :, 2] > 0).any(axis=0)).tolist():
        plan.load_tags(j)
        _add_tags(plan.outer, plan.inner, plan.tags, maps.size, result, j, total, count)
    with np.errstate(all="ignore"):
        means: Array = np.divide(total, count[:, None], dtype=np.float32)
    final = np.empty(maps.size, np.float32)
    for j in np.flatnonzero((result[count > 0, :, 2] == 0).any(axis=0)).tolist():
        plan.load_heat(j)
        plan.load_tags(j)
        _fill(plan.outer, plan.inner, plan.mids, plan.tags, FIT_TILE, j, means, count > 0, result, final)
    return result
