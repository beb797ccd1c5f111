"""Suppression of boxes that lie on better ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nms"]


def nms(boxes: NDArray[np.floating], scores: NDArray[np.floating], threshold: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: the best box goes first and drops those that overlap it too much.

    Args:
        boxes: (n, 4) xyxy.
        scores: (n,).
        threshold: boxes whose intersection over union with a kept one is above this are dropped.

    Returns:
        Indices of the kept boxes by falling score, the first of equal ones first.
    """
    order = np.argsort(-scores, kind="stable")
    low, high = boxes[order, :2].astype(np.float64), boxes[order, 2:].astype(np.float64)
    areas = np.clip(high - low, 0, None).prod(axis=1)
    left = np.arange(len(order))
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        overlap = np.minimum(high[left], high[best])
        overlap -= np.maximum(low[left], low[best])
        np.maximum(overlap, 0, out=overlap)
        shared = overlap[:, 0] * overlap[:, 1]
        left = left[shared <= threshold * (areas[left] + areas[best] - shared)]
    return order[kept]
