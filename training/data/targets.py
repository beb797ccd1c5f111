"""Target heatmaps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepose.errors import InvalidInputError

__all__ = ["bottomup_targets", "gaussian_targets", "joint_indices"]


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
    x, y = centers.unbind(-1)
    inside = (centers + radius >= first).all(-1) & (x - radius < width) & (y - radius < height)
    weights = weights * inside
    axes = []
    for axis, length in ((1, height), (0, width)):
        offset = torch.arange(length, device=joints.device) - centers[..., axis, None]
        profile = torch.exp(-offset.square() / (2 * sigma**2))
        axes.append(profile if unbiased else profile * (offset.abs() <= radius))
    visible = (weights > 0.5).to(axes[0].dtype)
    return axes[0][..., :, None] * (axes[1] * visible[..., None])[..., None, :], weights


def bottomup_targets(
    joints: NDArray[np.floating],
    visible: NDArray[np.floating],
    size: tuple[int, int],
    sigma: float | NDArray[np.floating] = 2.0,
    *,
    unbiased: bool = False,
) -> NDArray[np.float32]:
    """Heatmaps of all people: unnormalised Gaussians of peak 1, the largest of them at each pixel.

    As HigherHRNet's: centred on the joint truncated to a pixel (towards zero, so that -0.4 is inside),
    cut at ``3 sigma + 1`` pixels, none for joints outside of the map. The unbiased form keeps the exact
    centre, half a pixel before the joint's position: where the decoding, which adds it, finds the joint.

    Args:
        joints: (p, k, 2) in pixels of the heatmap.
        visible: (p, k), 0 where not labelled.
        size: (height, width) of the heatmap.
        sigma: standard deviation in pixels of the heatmap, one or (p,) for each person.
        unbiased: keep the exact centre.

    Returns:
        (k, h, w).
    """
    height, width = size
    maps = np.zeros((visible.shape[1], height, width), np.float32)
    pixels, shown = _inside(joints, visible, size)
    centers = np.asarray(joints, np.float64) - 0.5 if unbiased else pixels.astype(np.float64)
    sigmas = np.broadcast_to(np.asarray(sigma, np.float64), (len(joints),))
    for person, joint in np.argwhere(shown):
        deviation = float(sigmas[person])
        radius = int(3 * deviation + 1)
        x, y = pixels[person, joint]
        left, top = max(x - radius, 0), max(y - radius, 0)
        right, bottom = min(x + radius + 1, width), min(y + radius + 1, height)
        dx = np.arange(left, right) - centers[person, joint, 0]
        dy = np.arange(top, bottom) - centers[person, joint, 1]
        profile = np.exp(-(dy[:, None] ** 2 + dx**2) / (2 * deviation**2)).astype(np.float32)
        part = maps[joint, top:bottom, left:right]
        np.maximum(part, profile, out=part)
    return maps


def joint_indices(
    joints: NDArray[np.floating],
    visible: NDArray[np.floating],
    size: tuple[int, int],
    persons: int,
    *,
    tag_per_joint: bool = True,
) -> NDArray[np.int64]:
    """Where each person's tags stand in a picture's flattened tags.

    Args:
        joints: (p, k, 2) in pixels of the tag maps, truncated as by `bottomup_targets`.
        visible: (p, k), 0 where not labelled.
        size: (height, width) of the tag maps.
        persons: rows of the result, at least p; the others stay empty.
        tag_per_joint: a map for each joint, or one for all.

    Returns:
        (persons, k, 2): index and 1, a person's labelled joints inside of the map first, in their
        order; then zeros.

    Raises:
        InvalidInputError: more people than rows.
    """
    people, count = visible.shape
    if people > persons:
        raise InvalidInputError(
            f"too many people for the grouping loss; found {people} for {persons} rows; give more rows"
        )
    pixels, shown = _inside(joints, visible, size)
    index = pixels[..., 1] * size[1] + pixels[..., 0]
    if tag_per_joint:
        index = index + np.arange(count) * (size[0] * size[1])
    rows = np.zeros((persons, count, 2), np.int64)
    order = np.argsort(~shown, axis=1, kind="stable")
    entries = np.stack([np.where(shown, index, 0), shown], -1)
    rows[:people] = np.take_along_axis(entries, order[..., None], 1)
    return rows


def _inside(
    joints: NDArray[np.floating], visible: NDArray[np.floating], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Joints truncated to pixels, and which of them are labelled and inside of the map."""
    shown = np.asarray(visible) > 0
    pixels = np.where(shown[..., None], joints, 0).astype(np.int64)
    shown = shown & ((pixels >= 0) & (pixels < [size[1], size[0]])).all(-1)
    return pixels, shown
