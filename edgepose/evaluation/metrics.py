"""Percentages of correct keypoints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.skeleton import Skeleton, lsp14, mpii16

__all__ = ["lsp_torso", "pck", "pck_table", "pckh_table"]

PCKH_PARTS = {
    "head": "head_top", "shoulder": "shoulder", "elbow": "elbow", "wrist": "wrist", "hip": "hip",
    "knee": "knee", "ankle": "ankle",
}  # fmt: skip
"""Rows of the usual PCKh table; the upper neck counts in the mean alone, pelvis and thorax nowhere."""


def lsp_torso(joints: NDArray[np.floating]) -> NDArray[np.float64]:
    """Reference length (n,) of PCK on LSP: left shoulder to right hip of the ground truth (n, 14, 2)."""
    shoulder, hip = (joints[:, lsp14.index(name), :2] for name in ("left_shoulder", "right_hip"))
    lengths: NDArray[np.float64] = np.linalg.norm(np.asarray(shoulder - hip, np.float64), axis=-1)
    return lengths


def pck(
    predicted: NDArray[np.floating],
    truth: NDArray[np.floating],
    reference: NDArray[np.floating],
    threshold: float = 0.2,
    counted: NDArray[np.bool_] | None = None,
    *,
    strict: bool = False,
) -> NDArray[np.float64]:
    """Percentage of Correct Keypoints per joint (Yang and Ramanan 2013), in percent.

    A joint is correct if its distance is at most ``threshold`` times the person's reference length.
    On LSP all 14 joints of all people count, hidden ones included. NaN predictions are wrong.

    Args:
        predicted, truth: (n, k, 2) in the same pixels.
        reference: (n,) reference lengths.
        counted: (n, k), which joints count; None: all.
        strict: a distance of exactly the threshold is wrong.

    Returns:
        (k,) percentages, NaN for a joint of which none counts; their mean is the usual single figure.
    """
    distance = np.linalg.norm(np.asarray(predicted, np.float64) - truth, axis=-1)
    if counted is None:
        counted = np.ones(distance.shape, bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        limit = threshold * np.asarray(reference)[:, None]
        correct = distance < limit if strict else distance <= limit
        shares: NDArray[np.float64] = 100 * (correct & counted).sum(0) / counted.sum(0)
    return shares


def pck_table(per_joint: NDArray[np.floating], skeleton: Skeleton) -> dict[str, float]:
    """PCK by joint name without its side (mean of left and right), and ``mean`` over all joints."""
    groups: dict[str, list[float]] = {}
    for joint, value in zip(skeleton.joints, per_joint, strict=True):
        groups.setdefault(joint.removeprefix("left_").removeprefix("right_"), []).append(float(value))
    table = {name: float(np.mean(values)) for name, values in groups.items()}
    return {**table, "mean": float(np.mean(per_joint))}


def pckh_table(
    predicted: NDArray[np.floating],
    truth: NDArray[np.floating],
    head_sizes: NDArray[np.floating],
    counted: NDArray[np.bool_],
) -> dict[str, float]:
    """PCKh on MPII (Andriluka et al. 2014): PCK with the head size as the reference length, in percent.

    ``mean`` is over all joints that count, as HRNet's evaluation takes it; ``mean@0.1`` likewise, at the
    threshold that stands behind the published figures of this name: entry 11 of 0, 0.01, ..., 0.5, which
    is 0.11. ``mean_strict`` is the plain mean of 14 joints with a distance below the threshold, as the
    hourglass's PyTorch evaluation takes it. Pelvis and thorax are in none of them.

    Args:
        predicted, truth: (n, 16, 2) in the same pixels; NaN predictions are wrong.
        head_sizes: (n,) pixels, 0.6 of the head box's diagonal.
        counted: (n, 16), which joints count.

    Returns:
        PCKh@0.5 of ``head`` to ``ankle``, and the means; NaN where nothing counts.
    """
    scored = [j for j, name in enumerate(mpii16.joints) if name not in ("pelvis", "thorax")]
    count = counted.sum(0)[scored]

    def at(threshold: float, *, strict: bool = False) -> NDArray[np.float64]:
        return pck(predicted, truth, head_sizes, threshold, counted, strict=strict)

    def mean(per_joint: NDArray[np.float64]) -> float:
        return float(np.nansum(per_joint[scored] * count) / count.sum()) if count.sum() else np.nan

    half = at(0.5)
    parts = pck_table(half, mpii16)
    return {
        **{name: parts[part] for name, part in PCKH_PARTS.items()},
        "mean": mean(half),
        "mean@0.1": mean(at(float(np.arange(0, 0.51, 0.01)[11]))),
        "mean_strict": float(at(0.5, strict=True)[scored].mean()),
    }
