"""Accuracy figures and similarity of poses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.oks import oks, oks_nms
from edgepose.skeleton import Skeleton, lsp14

__all__ = ["lsp_torso", "oks", "oks_nms", "pck", "pck_table"]


def lsp_torso(joints: NDArray[np.floating]) -> NDArray[np.float64]:
    """Reference length (n,) of PCK on LSP: left shoulder to right hip of the ground truth (n, 14, 2)."""
    shoulder, hip = (joints[:, lsp14.index(name), :2] for name in ("left_shoulder", "right_hip"))
    return np.linalg.norm(np.asarray(shoulder - hip, np.float64), axis=-1)


def pck(
    predicted: NDArray[np.floating],
    truth: NDArray[np.floating],
    reference: NDArray[np.floating],
    threshold: float = 0.2,
    counted: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Percentage of Correct Keypoints per joint (Yang and Ramanan 2013), in percent.

    A joint is correct if its distance is at most ``threshold`` times the person's reference length.
    On LSP all 14 joints of all people count, hidden ones included. NaN predictions are wrong.

    Args:
        predicted, truth: (n, k, 2) in the same pixels.
        reference: (n,) reference lengths.
        counted: (n, k), which joints count; None: all.

    Returns:
        (k,) percentages, NaN for a joint of which none counts; their mean is the usual single figure.
    """
    distance = np.linalg.norm(np.asarray(predicted, np.float64) - truth, axis=-1)
    if counted is None:
        counted = np.ones(distance.shape, bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        correct = distance <= threshold * np.asarray(reference)[:, None]
        return 100 * (correct & counted).sum(0) / counted.sum(0)


def pck_table(per_joint: NDArray[np.floating], skeleton: Skeleton) -> dict[str, float]:
    """PCK by joint name without its side (mean of left and right), and ``mean`` over all joints."""
    groups: dict[str, list[float]] = {}
    for joint, value in zip(skeleton.joints, per_joint, strict=True):
        groups.setdefault(joint.removeprefix("left_").removeprefix("right_"), []).append(float(value))
    table = {name: float(np.mean(values)) for name, values in groups.items()}
    return {**table, "mean": float(np.mean(per_joint))}
