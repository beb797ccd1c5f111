"""`group`, compiled by numba: the same contract as `edgepose.kernels.reference_grouping`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import pose_maps
from edgepose.kernels._numba import compiled
from edgepose.kernels.pose_maps import Groups, Peaks
from edgepose.kernels.reference_grouping import FIXED_POINT, MAX_DISTANCE, MAX_SCORE, UNREAL_COST

__all__ = ["group"]

Array = NDArray[np.float32]


@compiled
def _optimal(
    primary: NDArray[np.int64], secondary: NDArray[np.int64], rows: int, columns: int, transposed: bool
) -> NDArray[np.int64]:
    """Column of each row, as `reference_grouping.optimal_assignment` finds it; rows <= columns."""
    row_p, row_s = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    column_p, column_s = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    near_p, near_s = np.empty(columns, np.int64), np.empty(columns, np.int64)
    row_at, before = np.full(columns, -1), np.empty(columns, np.int64)
    is_settled, settled = np.zeros(columns, np.bool_), np.empty(columns, np.int64)
    for new in range(rows):
        is_settled[:] = False
        before[:] = -1
        count = 0
        row, base_p, base_s, here = new, np.int64(0), np.int64(0), -1
        while True:
            # Relax the columns from `row`, and find the nearest, of equal ones the first.
            best = -1
            for column in range(columns):
                if is_settled[column]:
                    continue
                if transposed:
                    p, s = primary[column, row], secondary[column, row]
                else:
                    p, s = primary[row, column], secondary[row, column]
                p += base_p - row_p[row] - column_p[column]
                s += base_s - row_s[row] - column_s[column]
                if here < 0 or p < near_p[column] or (p == near_p[column] and s < near_s[column]):
                    near_p[column], near_s[column], before[column] = p, s, here
                p, s = near_p[column], near_s[column]
                if best < 0 or p < near_p[best] or (p == near_p[best] and s < near_s[best]):
                    best = column
            here = best
            if row_at[here] < 0:
                break
            is_settled[here] = True
            settled[count] = here
            count += 1
            row, base_p, base_s = row_at[here], near_p[here], near_s[here]
        row_p[new], row_s[new] = near_p[here], near_s[here]
        for i in range(count):
            column = settled[i]
            p, s = near_p[here] - near_p[column], near_s[here] - near_s[column]
            row_p[row_at[column]] += p
            row_s[row_at[column]] += s
            column_p[column] -= p
            column_s[column] -= s
        while before[here] >= 0:
            row_at[here] = row_at[before[here]]
            here = before[here]
        row_at[here] = new
    result = np.full(rows, -1)
    for column in range(columns):
        if row_at[column] >= 0:
            result[row_at[column]] = column
    return result


@compiled
def _munkres(c: NDArray[np.float64]) -> NDArray[np.int64]:
    """Column of each row of a square matrix, as `reference_grouping.munkres_assignment` finds it."""
    n = len(c)
    star_of_row, star_of_column, prime_of_row = np.full(n, -1), np.full(n, -1), np.empty(n, np.int64)
    row_covered, column_covered = np.empty(n, np.bool_), np.empty(n, np.bool_)
    for i in range(n):
        least = c[i].min()
        for j in range(n):
            c[i, j] -= least
        for j in range(n):
            if c[i, j] == 0 and star_of_column[j] < 0:
                star_of_row[i], star_of_column[j] = j, i
                break
    while True:
        covered = 0
        for j in range(n):
            column_covered[j] = star_of_column[j] >= 0
            covered += column_covered[j]
        if covered == n:
            return star_of_row
        row_covered[:] = False
        prime_of_row[:] = -1
        row, column = 0, 0
        while True:
            found = -1
            for a in range(n):
                i = (row + a) % n
                if row_covered[i]:
                    continue
                for b in range(n):
                    j = column + b
                    j = j - n if j >= n else j
                    if c[i, j] == 0 and not column_covered[j]:
                        found = j
                if found >= 0:
                    row, column = i, found
                    break
            if found < 0:
                least = math.inf
                for i in range(n):
                    if not row_covered[i]:
                        for j in range(n):
                            if not column_covered[j] and c[i, j] < least:
                                least = c[i, j]
                for i in range(n):
                    for j in range(n):
                        if row_covered[i]:
                            c[i, j] += least
                        if not column_covered[j]:
                            c[i, j] -= least
                row, column = 0, 0
                continue
            prime_of_row[row] = column
            if star_of_row[row] < 0:
                break
            column = star_of_row[row]
            row_covered[row], column_covered[column] = True, False
        while row >= 0:
            column = prime_of_row[row]
            following = star_of_column[column]
            star_of_row[row], star_of_column[column] = column, row
            row = following


@compiled
def _value(score: float) -> float:
    """A score as it counts in costs."""
    return 0.0 if math.isnan(score) else min(max(np.float64(score), -MAX_SCORE), MAX_SCORE)


@compiled
def _assign(
    distance: NDArray[np.float64], scores: Array, use_detection_val: bool, official: bool
) -> NDArray[np.int64]:
    """Reference of each candidate, -1 for none."""
    n, m = distance.shape
    result = np.full(n, -1)
    if official:
        square = np.zeros((max(n, m), max(n, m)))
        for i in range(n):
            for j in range(m):
                d = distance[i, j]
                square[i, j] = np.rint(d) * 100 - _value(scores[i]) if use_detection_val else d
            square[i, m:] = UNREAL_COST
        columns = _munkres(square)
        for i in range(n):
            if columns[i] < m:
                result[i] = columns[i]
        return result
    primary, secondary = np.empty((n, m), np.int64), np.empty((n, m), np.int64)
    for i in range(n):
        value = np.int64(np.rint(_value(scores[i]) * FIXED_POINT))
        for j in range(m):
            d = distance[i, j]
            secondary[i, j] = primary[i, j] = np.int64(np.rint(d * FIXED_POINT))
            if use_detection_val:
                primary[i, j] = np.int64(np.rint(d) * 100 * FIXED_POINT) - value
    if n <= m:
        return _optimal(primary, secondary, n, m, False)
    for j, i in enumerate(_optimal(primary, secondary, m, n, True)):
        result[i] = j
    return result


@compiled
def _group(
    xy: NDArray[np.int32],
    scores: Array,
    tags: Array,
    count: NDArray[np.int32],
    order: NDArray[np.int64],
    tag_threshold: float,
    use_detection_val: bool,
    ignore_too_much: bool,
    max_persons: int,
    official: bool,
) -> tuple[Array, bool]:
    k, _, t_count = tags.shape
    capacity = count.sum() if official else min(count.sum(), max_persons)
    persons = np.zeros((capacity, k, 3 + t_count), np.float32)
    tag_sum = np.empty((capacity, t_count), np.float32)
    members, key = np.empty(capacity, np.int64), np.empty(capacity, np.float32)
    total = 0
    truncated = False
    for joint in order:
        n = count[joint]
        m = min(total, max_persons)
        reference = np.full(n, -1)
        distance = np.empty((n, m))
        if n > 0 and m > 0:
            if ignore_too_much and m == max_persons:
                continue
            for j in range(m):
                for t in range(t_count):
                    mean = np.float64(tag_sum[j, t] / np.float32(members[j]))
                    for i in range(n):
                        difference = np.float64(tags[joint, i, t]) - mean
                        square = difference * difference
                        distance[i, j] = square if t == 0 else distance[i, j] + square
                for i in range(n):
                    root = math.sqrt(distance[i, j])
                    distance[i, j] = root if root < MAX_DISTANCE else MAX_DISTANCE  # NaN too
            reference = _assign(distance, scores[joint], use_detection_val, official)
        for i in range(n):
            j = reference[i]
            if j >= 0 and distance[i, j] < tag_threshold:
                members[j] += 1
                for t in range(t_count):
                    tag_sum[j, t] += tags[joint, i, t]
            else:
                j = 0 if official else total
                while j < total and key[j] != tags[joint, i, 0]:
                    j += 1
                if j == total:
                    if j == capacity:
                        truncated = True
                        continue
                    total += 1
                    key[j] = tags[joint, i, 0]
                members[j] = 1
                tag_sum[j] = tags[joint, i]
            persons[j, joint, 0], persons[j, joint, 1] = xy[joint, i, 0], xy[joint, i, 1]
            persons[j, joint, 2] = scores[joint, i]
            persons[j, joint, 3:] = tags[joint, i]
    return persons[:total].copy(), truncated


def group(
    peaks: Peaks,
    joint_order: Sequence[int] | NDArray[np.int64],
    tag_threshold: float = 1.0,
    use_detection_val: bool = True,
    ignore_too_much: bool = False,
    max_persons: int = 30,
    official: bool = False,
) -> Groups:
    """See `edgepose.kernels.reference_grouping.group`."""
    peaks = pose_maps.check_peaks(peaks)
    order = pose_maps.check_joint_order(joint_order, len(peaks.scores))
    options: Any = pose_maps.check_group_options(
        tag_threshold, use_detection_val, ignore_too_much, max_persons, official
    )
    persons, truncated = _group(peaks.xy, peaks.scores, peaks.tags, peaks.count, order, *options)
    return Groups(persons, truncated)
