"""`group` in plain numpy: the specification that every other implementation must meet.

Source: Newell et al. 2017, "Associative Embedding: End-to-End Learning for Joint Detection and Grouping"
(section 3.2), as in the published code of Cheng et al. 2020, "HigherHRNet: Scale-Aware Representation
Learning for Bottom-Up Human Pose Estimation".

**Non-finite and huge values.** A distance that is NaN or beyond 65536 counts as 65536. In costs a NaN score
counts as 0, and one beyond 2^22 or -2^22 as that; persons get the scores as they are. This holds for both
assignments.

**Matching.** Joints are visited in `joint_order`. The candidates of a joint are its peaks, in order. Let
there be a person or more; the *references* are the first `max_persons` persons, each with the mean of its
tag vectors: their float32 sum, in the order in which they came, divided by their number. With
``ignore_too_much`` and `max_persons` references the joint is skipped. Else:

    distance[i, j] = min(sqrt(sum over t of (float64(tag[i, t]) - float64(mean[j, t]))^2), 65536)
    cost[i, j] = rint(distance) * 100 - float64(score[i])     with use_detection_val, rint to even, else
    cost[i, j] = distance

and each candidate is assigned to at most one reference and each reference to at most one candidate, as
many as possible, at least cost. A candidate *joins* its reference if ``distance < tag_threshold``: the
joint becomes (x, y, score, tags) of it and its tag vector is appended to the person's. Each other
candidate, in order, is a new person. Where no person exists all candidates are new persons.

*Official assignment* (``official=True``), as in the published code: the Munkres algorithm of
`munkres_assignment` on the cost matrix in float64, with columns of 1e10 appended where there are more
candidates than references. Which of several optimal assignments is found depends on that algorithm's order
of search. The number of persons is unbounded, but one is known by the first tag of the candidate that made
it: if a new person's first tag equals that of an existing one (NaN equals nothing, -0 equals 0), its joint
is set in that person, in place of what was there, and that person's tag vectors become this one alone.

*Default assignment.* Costs are whole numbers, so that sums are exact and every implementation finds the
same assignment:

    primary[i, j] = rint(distance) * 100 * 2^28 - rint(score[i] * 2^28)
    primary[i, j] = rint(distance * 2^28)                     without use_detection_val
    secondary[i, j] = rint(distance * 2^28)

The least sum of `primary` decides; of equal ones the least sum of `secondary`, that is of unrounded
distances; of equal ones again the order of search of `optimal_assignment`, which prefers low indices and
compares (primary, secondary) lexicographically. Pairs add and subtract by component, so 64 bits per
component suffice. New persons stand each by itself, those with equal tags too, as tags of low precision
often are. Once there are `max_persons` persons, a candidate that would be a new one is dropped, and the
result is `truncated`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import pose_maps
from edgepose.kernels.pose_maps import Groups, Peaks

__all__ = ["group", "mean_tag", "munkres_assignment", "optimal_assignment"]

Array = NDArray[np.float32]

FIXED_POINT = 2.0**28
"""One, in the whole numbers of the default assignment's costs."""
MAX_DISTANCE = 2.0**16
MAX_SCORE = 2.0**22
UNREAL_COST = 1e10
"""Cost of the official assignment's columns that are no person."""


def group(
    peaks: Peaks,
    joint_order: Sequence[int] | NDArray[np.int64],
    tag_threshold: float = 1.0,
    use_detection_val: bool = True,
    ignore_too_much: bool = False,
    max_persons: int = 30,
    official: bool = False,
) -> Groups:
    """Put peaks with similar tags together to persons; `edgepose.kernels.reference_grouping` says how.

    Args:
        peaks: of `aggregate_nms_topk`, with one tag or more.
        joint_order: each joint once, in the order in which they are matched.
        tag_threshold: a candidate joins a person if their tags are nearer than this.
        use_detection_val: match by rounded distance, then by score; else by the distance alone.
        ignore_too_much: skip a joint once there are `max_persons` persons.
        max_persons: most persons (official: most that candidates can join), from 1 to 1024.
        official: assign exactly as the published code does, and put no bound on the number of persons.

    Returns:
        `Groups`, persons in the order in which they were made.
    """
    peaks = pose_maps.check_peaks(peaks)
    k, _, t = peaks.tags.shape
    order = pose_maps.check_joint_order(joint_order, k)
    tag_threshold, use_detection_val, ignore_too_much, max_persons, official = pose_maps.check_group_options(
        tag_threshold, use_detection_val, ignore_too_much, max_persons, official
    )
    persons: list[Array] = []
    members: list[list[Array]] = []  # the tag vectors
    person_of: dict[float, int] = {}  # by first tag, in the official assignment
    truncated = False
    for joint in order:
        count = int(peaks.count[joint])
        scores, tags = peaks.scores[joint, :count], peaks.tags[joint, :count]
        joined: dict[int, int] = {}
        if persons and count:
            references = [mean_tag(vectors) for vectors in members[:max_persons]]
            if ignore_too_much and len(references) == max_persons:
                continue
            distance = _distances(tags, np.stack(references))
            if official:
                pairs = _official_pairs(distance, scores, use_detection_val)
            else:
                pairs = _optimal_pairs(distance, scores, use_detection_val)
            joined = {i: j for i, j in pairs if distance[i, j] < tag_threshold}
        for i in range(count):
            row = np.concatenate([peaks.xy[joint, i].astype(np.float32), scores[i : i + 1], tags[i]])
            if i in joined:
                persons[joined[i]][joint] = row
                members[joined[i]].append(tags[i])
                continue
            key = float(tags[i, 0])
            if official and key in person_of:
                persons[person_of[key]][joint] = row
                members[person_of[key]] = [tags[i]]
            elif official or len(persons) < max_persons:
                if not math.isnan(key):
                    person_of[key] = len(persons)
                persons.append(np.zeros((k, 3 + t), np.float32))
                persons[-1][joint] = row
                members.append([tags[i]])
            else:
                truncated = True
    return Groups(np.stack(persons) if persons else np.zeros((0, k, 3 + t), np.float32), truncated)


def optimal_assignment(cost: Sequence[Sequence[int]]) -> list[int]:
    """Assign each row to a column of its own at least total cost, by shortest augmenting paths.

    Rows enter in order. From the new row a search (Dijkstra's, on reduced costs) settles columns one by
    one, always the nearest, of equally near ones the lowest, until it settles a free one; a path to a column
    is replaced only by a shorter one. Potentials and assignment are updated along the path found. Which
    of several optimal assignments results depends on nothing else.

    Args:
        cost: whole numbers of any size, with no more rows than columns. `group` gives
            ``primary * 2^64 + secondary``, whose order is that of the pairs.

    Returns:
        The column of each row.
    """
    rows, columns = len(cost), len(cost[0])
    of_row, of_column = [0] * rows, [0] * columns  # potentials
    row_at = [-1] * columns  # assignment
    for new in range(rows):
        nearest = [cost[new][column] - of_column[column] for column in range(columns)]
        before = [-1] * columns  # the column before on the shortest path
        unsettled, settled = list(range(columns)), []
        while True:
            here = min(unsettled, key=nearest.__getitem__)  # the first of equal ones
            if row_at[here] < 0:
                break
            unsettled.remove(here)
            settled.append(here)
            row = row_at[here]
            for column in unsettled:
                length = nearest[here] + cost[row][column] - of_row[row] - of_column[column]
                if length < nearest[column]:
                    nearest[column], before[column] = length, here
        of_row[new] = nearest[here]
        for column in settled:
            slack = nearest[here] - nearest[column]
            of_row[row_at[column]] += slack
            of_column[column] -= slack
        while before[here] >= 0:
            row_at[here] = row_at[before[here]]
            here = before[here]
        row_at[here] = new
    result = [-1] * rows
    for column, row in enumerate(row_at):
        if row >= 0:
            result[row] = column
    return result


def munkres_assignment(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Assign rows to columns at least total cost, with the published code's choice among equals.

    The Hungarian method in float64 on the matrix made square with rows of zeros; every comparison with
    zero is exact, so the order of operations matters:

    1. Subtract each row's smallest entry from it.
    2. In row order, star a zero whose row and column have no star: the first such column of a row.
    3. Cover each column that has a star. If all are covered, the stars are the result.
    4. From cell (0, 0): search rows cyclically from the cell's row, in each the columns cyclically from the
       cell's column, for the first row with an uncovered zero, and take the *last* zero found in it. Prime
       it. If its row has a star, cover the row, uncover the star's column, and search on from the star.
       If not: from this prime go to the star in its column, from there to the prime in its row, and so on;
       turn primes on that path to stars and stars to nothing, clear covers and primes, and go to 3.
    5. If there is no such zero: let m be the least uncovered entry; add m to each entry in a covered row,
       then subtract m from each in an uncovered column (those in both are rounded twice). Go to 4.

    Args:
        cost: (rows, columns) finite, with no more rows than columns.

    Returns:
        (row, column) in row order.
    """
    rows, n = cost.shape
    c = np.zeros((n, n))
    c[:rows] = cost
    c -= c.min(axis=1, keepdims=True)
    star_of_row, star_of_column = [-1] * n, [-1] * n
    for i in range(n):
        for j in np.flatnonzero(c[i] == 0):
            if star_of_column[j] < 0:
                star_of_row[i], star_of_column[j] = int(j), i
                break
    while True:
        covered_row = np.zeros(n, np.bool_)
        covered_column = np.array([i >= 0 for i in star_of_column])
        if covered_column.all():
            return [(i, star_of_row[i]) for i in range(rows)]
        prime_of_row = [-1] * n
        row, column = 0, 0
        while True:
            for i in (*range(row, n), *range(row)):
                zeros = np.flatnonzero((c[i] == 0) & ~covered_column & (not covered_row[i]))
                if len(zeros):
                    before = zeros[zeros < column]
                    row, column = i, int((before if len(before) else zeros)[-1])
                    break
            else:
                least = c[np.ix_(~covered_row, ~covered_column)].min()
                c[covered_row] += least
                c[:, ~covered_column] -= least
                row, column = 0, 0
                continue
            prime_of_row[row] = column
            if star_of_row[row] < 0:
                break
            column = star_of_row[row]
            covered_row[row], covered_column[column] = True, False
        while row >= 0:
            column = prime_of_row[row]
            row_before = star_of_column[column]
            star_of_row[row], star_of_column[column] = column, row
            row = row_before


def mean_tag(vectors: Sequence[Array]) -> Array:
    """Mean of tag vectors, summed in order."""
    total = vectors[0]
    with np.errstate(over="ignore", invalid="ignore"):
        for vector in vectors[1:]:
            total = total + vector
    result: Array = total / np.float32(len(vectors))
    return result


def _distances(tags: Array, means: Array) -> NDArray[np.float64]:
    """Distance of each tag vector (n, t) to each mean (m, t)."""
    squares = np.zeros((len(tags), len(means)))
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(tags.shape[1]):
            squares += np.square(tags[:, None, t].astype(np.float64) - means[None, :, t])
        return np.fmin(np.sqrt(squares), MAX_DISTANCE)


def _values(scores: Array) -> NDArray[np.float64]:
    """Scores as they count in costs."""
    return np.clip(np.nan_to_num(scores.astype(np.float64), nan=0), -MAX_SCORE, MAX_SCORE)


def _official_pairs(
    distance: NDArray[np.float64], scores: Array, use_detection_val: bool
) -> list[tuple[int, int]]:
    candidates, references = distance.shape
    cost = distance
    if use_detection_val:
        cost = np.rint(distance) * 100 - _values(scores)[:, None]
    if candidates > references:
        unreal = np.full((candidates, candidates - references), UNREAL_COST)
        cost = np.concatenate([cost, unreal], axis=1)
    return [(i, j) for i, j in munkres_assignment(cost) if j < references]


def _optimal_pairs(
    distance: NDArray[np.float64], scores: Array, use_detection_val: bool
) -> list[tuple[int, int]]:
    secondary = np.rint(distance * FIXED_POINT).astype(np.int64)
    primary = secondary
    if use_detection_val:
        value = np.rint(_values(scores) * FIXED_POINT)
        primary = (np.rint(distance) * 100 * FIXED_POINT).astype(np.int64) - value.astype(np.int64)[:, None]
    candidates, references = distance.shape
    cost = [
        [int(primary[i, j]) * 2**64 + int(secondary[i, j]) for j in range(references)]
        for i in range(candidates)
    ]
    if candidates <= references:
        return list(enumerate(optimal_assignment(cost)))
    columns = optimal_assignment(list(zip(*cost, strict=True)))
    return sorted((i, j) for j, i in enumerate(columns))
