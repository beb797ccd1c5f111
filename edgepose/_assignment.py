"""The best one-to-one pairs of a small table of similarities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["assign"]


def assign(similarity: NDArray[np.floating], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair rows with columns, each at most once, so that the sum of the similarities is greatest.

    Args:
        similarity: (m, n), not negative.
        least: less similar pairs are not made, and none of similarity 0.

    Returns:
        The rows, rising, and their columns.
    """
    rows = np.zeros(0, np.int64)
    if not similarity.size:
        return rows, rows
    gain = np.where(similarity >= least, similarity, 0)
    rows = np.flatnonzero(gain.any(axis=1))
    columns = gain[rows].argmax(axis=1)
    if len(np.unique(columns)) == len(rows):  # nobody gets less than the best
        return rows, columns
    within = np.flatnonzero(gain.any(axis=0))
    gain = gain[np.ix_(rows, within)]
    if gain.shape[0] <= gain.shape[1]:
        chosen = _solve(gain)
    else:
        owners = _solve(gain.T)
        chosen = np.full(len(rows), -1)
        chosen[owners] = np.arange(len(owners))
    good = (chosen >= 0) & (gain[np.arange(len(rows)), chosen] > 0)
    return rows[good], within[chosen[good]]


def _solve(gain: NDArray[np.floating]) -> NDArray[np.int64]:
    """Column of each row in an assignment of greatest gain; no more rows than columns.

    Shortest augmenting paths with potentials (Kuhn and Munkres; Jonker and Volgenant, Computing 38, 1987).
    """
    table = gain.tolist()
    n, m = gain.shape
    row_price, column_price = [0.0] * n, [0.0] * m
    owner = [-1] * m
    for start in range(n):
        reach, before = [np.inf] * m, [-1] * m
        left = set(range(m))
        done: list[int] = []
        row, last = start, -1
        while True:
            values, price = table[row], row_price[row]
            for column in left:
                cost = -values[column] - price - column_price[column]
                if cost < reach[column]:
                    reach[column], before[column] = cost, last
            last = min(left, key=lambda column: (reach[column], column))
            step = reach[last]
            row_price[start] += step
            for column in done:
                row_price[owner[column]] += step
                column_price[column] -= step
            for column in left:
                reach[column] -= step
            left.remove(last)
            done.append(last)
            if owner[last] < 0:
                break
            row = owner[last]
        while last >= 0:
            previous = before[last]
            owner[last] = start if previous < 0 else owner[previous]
            last = previous
    columns = np.zeros(n, np.int64)
    for column, row in enumerate(owner):
        if row >= 0:
            columns[row] = column
    return columns
