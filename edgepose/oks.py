"""Object Keypoint Similarity, and the suppression of persons that are too similar to a better one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["most_similar_pairs", "oks", "oks_and_common", "oks_matrix", "oks_nms"]


def oks(
    keypoints: NDArray[np.floating],
    others: NDArray[np.floating],
    area: float,
    other_areas: NDArray[np.floating],
    sigmas: NDArray[np.floating] | tuple[float, ...],
) -> NDArray[np.float64]:
    """Object Keypoint Similarity of one pose to others, as the official NMS takes it.

    The mean is over the joints that both poses have; it is 0 where there are none.

    Args:
        keypoints: (k, 2) pixels, NaN where missing.
        others: (n, k, 2) pixels, NaN where missing.
        area, other_areas: of the person boxes in square pixels, scalar and (n,).
        sigmas: (k,) constants of the skeleton.

    Returns:
        (n,) from 0 to 1.
    """
    pose = np.asarray(keypoints)[None]
    result: NDArray[np.float64] = oks_matrix(
        pose, others, np.atleast_1d(area), np.asarray(other_areas), sigmas
    )[0]
    return result


def oks_matrix(
    keypoints: NDArray[np.floating],
    others: NDArray[np.floating],
    areas: NDArray[np.floating],
    other_areas: NDArray[np.floating],
    sigmas: NDArray[np.floating] | tuple[float, ...],
) -> NDArray[np.float64]:
    """`oks` of each of m poses to each of n others.

    Args:
        keypoints, others: (m, k, 2) and (n, k, 2) pixels, NaN where missing.
        areas, other_areas: (m,) and (n,) of the persons in square pixels.
        sigmas: (k,) constants of the skeleton.

    Returns:
        (m, n) from 0 to 1.
    """
    return oks_and_common(keypoints, others, areas, other_areas, sigmas)[0]


def oks_and_common(
    keypoints: NDArray[np.floating],
    others: NDArray[np.floating],
    areas: NDArray[np.floating],
    other_areas: NDArray[np.floating],
    sigmas: NDArray[np.floating] | tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`oks_matrix`, and how many joints each pair has in common: both (m, n)."""
    squares = np.square(np.asarray(others, np.float64) - np.asarray(keypoints)[:, None])
    squared = squares[..., 0] + squares[..., 1]
    shared = ~np.isnan(squared)
    mean_areas = (np.asarray(other_areas, np.float64) + np.asarray(areas)[:, None]) / 2 + np.spacing(1)
    similarity = np.exp(
        -np.where(shared, squared, np.inf) / (2 * np.asarray(sigmas)) ** 2 / mean_areas[..., None] / 2
    )
    common = np.add.reduce(shared, axis=-1, dtype=np.int64)
    return np.add.reduce(similarity, axis=-1) / np.maximum(common, 1), common


def most_similar_pairs(similarity: NDArray[np.floating], least: float) -> list[tuple[int, int]]:
    """Pair rows with columns by falling similarity, each once, as long as it is at least so large.

    Args:
        similarity: (n, m), for instance of `oks`.
        least: above 0.
    """
    left = np.array(similarity, np.float64)
    pairs = []
    while left.size and left.max() >= least:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row], left[:, column] = 0, 0
    return pairs


def oks_nms(
    keypoints: NDArray[np.floating],
    scores: NDArray[np.floating],
    areas: NDArray[np.floating],
    sigmas: NDArray[np.floating] | tuple[float, ...],
    threshold: float = 0.9,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression by `oks`, as SimpleBaseline, HRNet and LPN evaluate on COCO.

    Args:
        keypoints: (n, k, 2) pixels, NaN where missing.
        scores: (n,); equal ones keep their order.
        areas: (n,) of the person boxes in square pixels.
        sigmas: (k,) constants of the skeleton.
        threshold: poses more similar than this to a better one are dropped.

    Returns:
        indices of the poses kept, the best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        similar = oks(keypoints[best], keypoints[rest], areas[best], areas[rest], sigmas)
        order = rest[similar <= threshold]
    return np.array(kept, np.int64)
