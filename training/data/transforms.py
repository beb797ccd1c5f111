"""Crops and augmentation of the common top-down pipeline (SimpleBaseline, HRNet, LPN)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.pipeline.geometry import Coordinates, crop_affine
from edgepose.skeleton import Skeleton

__all__ = ["Augmentation", "View", "half_body", "mirror_joints", "view_affine", "warp"]

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
            angle = float(np.clip(rng.standard_normal() * self.rotation, -limit, limit))
        factor = np.clip(1 + self.scale * rng.standard_normal(), 1 - self.scale, 1 + self.scale)
        shift = self.translation * rng.uniform(-1, 1, 2)
        return View(
            center=view.center + shift * view.extent,
            extent=view.extent * factor,
            rotation=angle,
            flip=bool(rng.random() < self.flip),
        )

    def recolor(self, crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Scale brightness and each channel at random."""
        if self.color == 0:
            return crop
        gain = (1 + self.color * rng.uniform(-1, 1, 3)) * (1 + self.color * rng.uniform(-1, 1))
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
    below = ("hip", "knee", "ankle", "pelvis")
    lower = np.array([name.endswith(below) for name in skeleton.joints])
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


def view_affine(view: View, size: tuple[int, int], coordinates: Coordinates) -> NDArray[np.float64]:
    """Affine map (2, 3) from the pixels of a crop or heatmap of `size` (h, w) to those of the picture.

    A mirrored view equals the same region of the mirrored picture, exactly as the official data
    sets make it.
    """
    matrix = crop_affine(view.center, view.extent, size, coordinates)[0]
    if view.rotation:
        angle = np.deg2rad(view.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        center = np.asarray(view.center, np.float64)
        matrix[:, :2] = turn @ matrix[:, :2]
        matrix[:, 2] = center + turn @ (matrix[:, 2] - center)
    if view.flip:
        last = size[1] if coordinates == "legacy" else size[1] - 1
        matrix[:, 2] += matrix[:, 0] * last
        matrix[:, 0] *= -1
    return matrix


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Crop of `size` (h, w) by an output-to-picture affine: bilinear, black outside."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, matrix, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(crop, np.uint8)


def mirror_joints(values: NDArray[np.floating], skeleton: Skeleton) -> NDArray[np.floating]:
    """Swap the rows (k, ...) of left and right joints, as a mirrored picture demands."""
    return values[skeleton.flip_permutation]
