"""Boxes to crops and heatmaps back to the picture.

Coordinates are pixels with an integer at a pixel's centre. Two mappings exist
(`ModelSpec.coordinates`):

``"legacy"``
    what the official checkpoints were trained with: column ``j`` of a crop of width ``W`` lies at
    ``c_x + (j - W / 2) * w / W``, and rows use the same factor ``w / W``.
``"udp"``
    the unbiased mapping (Huang et al. 2020, "The Devil is in the Details"): column ``j`` lies at
    ``c_x + w * (j / (W - 1) - 1 / 2)``, rows likewise with height, so that input and heatmap
    share their outermost pixel centres and mirroring needs no shift.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["apply_affine", "box_to_region", "crop_affine", "crop_scale", "picture_box"]

Coordinates = Literal["legacy", "udp"]


def picture_box(height: int, width: int) -> NDArray[np.float32]:
    """The box of a whole picture: xyxy of its outermost pixel centres, ``(0, 0, W - 1, H - 1)``."""
    return np.array([0, 0, width - 1, height - 1], np.float32)


def box_to_region(
    boxes: NDArray[np.floating], size: tuple[int, int], padding: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Grow boxes to the aspect ratio of the network's input, then by a factor.

    Source: the common top-down pipeline of SimpleBaseline, HRNet and LPN.

    Args:
        boxes: (n, 4) xyxy in pixels.
        size: (height, width) of the input, which gives the aspect.
        padding: factor on both sides; 1.25 for the official models.

    Returns:
        centres (n, 2) and extents (n, 2) as (width, height), float32 pixels.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    aspect = np.float32(size[1] / size[0])
    centers = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    extents = boxes[:, 2:] - boxes[:, :2]
    width = np.maximum(extents[:, 0], extents[:, 1] * aspect)
    extents = np.stack([width, width / aspect], axis=1) * np.float32(padding)
    return centers, extents


def crop_affine(
    centers: NDArray[np.floating],
    extents: NDArray[np.floating],
    size: tuple[int, int],
    coordinates: Coordinates,
) -> NDArray[np.float64]:
    """Affine maps from the pixels of a crop (or heatmap) to the pixels of the picture.

    Args:
        centers: (n, 2) region centres in pixels.
        extents: (n, 2) region width and height in pixels.
        size: (height, width) of the crop or heatmap.
        coordinates: ``"legacy"`` or ``"udp"``.

    Returns:
        (n, 2, 3) float64; ``x_image = m[0, 0] * x + m[0, 1] * y + m[0, 2]``.
    """
    scale, shift = crop_scale(centers, extents, size, coordinates)
    matrices = np.zeros((len(scale), 2, 3))
    matrices[:, 0, 0] = scale[:, 0]
    matrices[:, 1, 1] = scale[:, 1]
    matrices[:, :, 2] = shift
    return matrices


def crop_scale(
    centers: NDArray[np.floating],
    extents: NDArray[np.floating],
    size: tuple[int, int],
    coordinates: Coordinates,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`crop_affine`, which neither turns nor shears, as ``scale * point + shift``: two (n, 2) float64."""
    centers = np.asarray(centers, np.float64).reshape(-1, 2)
    extents = np.asarray(extents, np.float64).reshape(-1, 2)
    height, width = size
    if coordinates == "legacy":
        scale = np.repeat(extents[:, :1] / width, 2, axis=1)
        return scale, centers - scale * (width / 2, height / 2)
    last = (width - 1, height - 1)
    scale = extents / (max(last[0], 1), max(last[1], 1))
    return scale, centers - scale * (last[0] / 2, last[1] / 2)


def apply_affine(matrices: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map points by their affine: matrices (n, 2, 3), points (n, k, 2) -> (n, k, 2) float64."""
    linear: NDArray[np.float64] = np.einsum(
        "nij,nkj->nki", matrices[:, :, :2], np.asarray(points, np.float64)
    )
    return linear + matrices[:, None, :, 2]
