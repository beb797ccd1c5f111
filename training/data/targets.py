"""Target heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gaussian_targets"]


def gaussian_targets(
    joints: Tensor, weights: Tensor, size: tuple[int, int], sigma: float, *, unbiased: bool
) -> tuple[Tensor, Tensor]:
    """One unnormalised Gaussian of peak 1 per joint.

    The official form (SimpleBaseline, HRNet, LPN) centres it on the nearest pixel and cuts it at
    three standard deviations; the unbiased form keeps the exact centre and does not cut.

    Args:
        joints: (n, k, 2) in pixels of the heatmap.
        weights: (n, k), 0 for joints that are not labelled.
        size: (height, width) of the heatmap.
        sigma: standard deviation in pixels of the heatmap.

    Returns:
        targets (n, k, h, w) and weights (n, k): those of joints whose window of three standard
        deviations lies outside of the map become 0, and so do their targets.
    """
    height, width = size
    radius = 3 * sigma
    # The official rounding truncates towards zero after adding a half, and a window that ends one
    # pixel before the map still counts.
    centers = joints if unbiased else torch.trunc(joints + 0.5)
    first = 0 if unbiased else -1
    limits = torch.tensor([width, height], device=joints.device)
    inside = ((centers + radius >= first) & (centers - radius < limits)).all(-1)
    weights = weights * inside
    axes = []
    for axis, length in ((1, height), (0, width)):
        offset = torch.arange(length, device=joints.device) - centers[..., axis, None]
        profile = torch.exp(-offset.square() / (2 * sigma**2))
        axes.append(profile if unbiased else profile * (offset.abs() <= radius))
    visible = (weights > 0.5).to(axes[0].dtype)
    return axes[0][..., :, None] * (axes[1] * visible[..., None])[..., None, :], weights
