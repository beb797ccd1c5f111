"""Losses on heatmaps."""

from __future__ import annotations

from torch import Tensor

__all__ = ["joints_mse"]


def joints_mse(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Joint-weighted mean squared error of SimpleBaseline, HRNet, LPN and FPD (``JointsMSELoss``).

    For a joint, half the mean over batch and pixels of ``(w * predicted - w * target) ** 2``;
    the loss is the mean over the joints.

    Args:
        predicted, target: heatmaps (n, k, h, w).
        weights: (n, k), 0 for joints that do not count.
    """
    return 0.5 * ((predicted.float() - target) * weights[:, :, None, None]).square().mean()
