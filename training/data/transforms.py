"""Crops and augmentation of the common top-down pipeline (SimpleBaseline, HRNet, LPN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.pipeline.geometry import Coordinates, crop_affine
from edgepose.skeleton import Skeleton

__all__ = [
    "Augmentation",
    "View",
    "half_body",
    "mirror_joints",
    "scale_colors",
    "view_affine",
    "view_affines",
    "warp",
]

HALF_BODY_MIN_JOINTS = 8
"""People with more visible joints than this may be cut to a half."""
HALF_BODY_CONTEXT = 1.5
"""Size of a half body's region over that of its joints' bounding box."""


@dataclass(frozen=True)
class View:
    """Region of a picture that becomes a crop: centre and (width, height) in pixels, degrees, mirrored."""

    center: NDArray[np.floating]
    extent: NDArray[np.floating]
    rotation: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the view of a person; zeros change nothing.

    Attributes:
        rotation: standard deviation in degrees, clipped at twice this.
        rotation_probability: share of the views that are rotated at all.
        scale: standard deviation of the scale factor around 1, clipped at one deviation.
        translation: largest shift of the centre, as a share of the region's size.
        flip: probability of mirroring.
        color: largest relative change of each colour channel and of the brightness.
        half_body: probability of cutting a person to its upper or lower half (0.3 in HRNet).
    """

    rotation: float = 40.0
    rotation_probability: float = 0.6
    scale: float = 0.3
    translation: float = 0.0
    flip: float = 0.5
    color: float = 0.0
    half_body: float = 0.0

    def sample(
        self,
        view: View,
        joints: NDArray[np.floating],
        visible: NDArray[np.floating],
        skeleton: Skeleton,
        rng: np.random.Generator,
    ) -> View:
        """Draw a random view around a given one of a person with joints (k, 2) and visibility (k,)."""
        if self.half_body and (visible > 0).sum() > HALF_BODY_MIN_JOINTS and rng.random() < self.half_body:
            aspect = float(view.extent[0] / view.extent[1])
            half = half_body(joints, visible, skeleton, aspect, rng.standard_normal())
            if half is not None:
                view = replace(view, center=half.center, extent=half.extent)
        angle = 0.0
        if rng.random() < self.rotation_probability:
            limit = 2 * self.rotation
            angle = min(max(rng.standard_normal() * self.rotation, -limit), limit)
        factor = min(max(1 + self.scale * rng.standard_normal(), 1 - self.scale), 1 + self.scale)
        shift = self.translation * rng.uniform(-1, 1, 2)
        return View(
            center=view.center + shift * view.extent,
            extent=np.asarray(view.extent, np.float64) * factor,
            rotation=angle,
            flip=bool(rng.random() < self.flip),
        )

    def gain(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the factors (3,) of the colour channels; ones, and nothing drawn, where `color` is 0."""
        if self.color == 0:
            return np.ones(3)
        return (1 + self.color * rng.uniform(-1, 1, 3)) * (1 + self.color * rng.uniform(-1, 1))

    def recolor(self, crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Scale brightness and each channel at random."""
        return crop if self.color == 0 else scale_colors(crop, self.gain(rng))


def scale_colors(crop: NDArray[np.uint8], gain: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Multiply the channels of (h, w, 3) by factors (3,); clipped, fractions cut off."""
    table = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(crop, table.reshape(1, 256, 3)), np.uint8)


def half_body(
    joints: NDArray[np.floating],
    visible: NDArray[np.floating],
    skeleton: Skeleton,
    aspect: float,
    draw: float,
) -> View | None:
    """View of the upper or the lower half of a person, as HRNet's data sets cut it.

    Hips and all below are the lower half. The upper one is taken if `draw` is below 0.5; the official
    code draws from the normal distribution there, which prefers it with a probability of 0.69. A half
    of two joints or fewer gives way to the other one.

    Args:
        joints: (k, 2) in pixels.
        visible: (k,), above 0 where labelled.
        aspect: width over height of the view.
        draw: a sample of the standard normal distribution.

    Returns:
        the view, or None where the chosen half has fewer than two joints or no extent.
    """
    lower = _lower_half(skeleton)
    shown = np.asarray(visible) > 0
    upper_joints, lower_joints = joints[shown & ~lower], joints[shown & lower]
    prefer_upper = draw < 0.5 and len(upper_joints) > 2
    chosen = upper_joints if prefer_upper or len(lower_joints) <= 2 else lower_joints
    if len(chosen) < 2:
        return None
    width, height = np.asarray(chosen.max(0) - chosen.min(0), np.float64)
    width = max(width, aspect * height)
    if width <= 0:
        return None
    extent = np.array([width, width / aspect]) * HALF_BODY_CONTEXT
    return View(chosen.mean(0).astype(np.float32), extent.astype(np.float32))


@cache
def _lower_half(skeleton: Skeleton) -> NDArray[np.bool_]:
    """Which joints (k,) are hips and all below."""
    return np.array([name.endswith(("hip", "knee", "ankle", "pelvis")) for name in skeleton.joints])


def view_affine(view: View, size: tuple[int, int], coordinates: Coordinates) -> NDArray[np.float64]:
    """`view_affines` of one view: (2, 3)."""
    return view_affines([view], size, coordinates)[0]


def view_affines(
    views: Sequence[View], size: tuple[int, int], coordinates: Coordinates
) -> NDArray[np.float64]:
    """Affine maps (n, 2, 3) from the pixels of crops or heatmaps of `size` (h, w) to those of the pictures.

    A mirrored view equals the same region of the mirrored picture, exactly as the official data
    sets make it.
    """
    centers = np.array([view.center for view in views], np.float64)
    matrices = crop_affine(centers, np.array([view.extent for view in views]), size, coordinates)
    angles = np.deg2rad([view.rotation for view in views])
    turned = angles != 0  # the others stay exact
    cos, sin = np.cos(angles[turned]), np.sin(angles[turned])
    turns = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    centered = matrices[turned]
    centered[:, :, 2] -= centers[turned]
    matrices[turned] = turns @ centered
    matrices[turned, :, 2] += centers[turned]
    flips = np.array([view.flip for view in views])
    last = size[1] if coordinates == "legacy" else size[1] - 1
    matrices[flips, :, 2] += matrices[flips, :, 0] * last
    matrices[flips, :, 0] *= -1
    return matrices


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Crop of `size` (h, w) by an output-to-picture affine: bilinear, black outside."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, matrix, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(crop, np.uint8)


def mirror_joints(values: NDArray[np.floating], skeleton: Skeleton) -> NDArray[np.floating]:
    """Swap the rows (k, ...) of left and right joints, as a mirrored picture demands."""
    return values[skeleton.flip_permutation]
