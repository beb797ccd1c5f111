"""Crops and augmentation of the common top-down pipeline (SimpleBaseline, HRNet, LPN)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.pipeline.geometry import Coordinates, crop_affine
from edgepose.skeleton import Skeleton

__all__ = ["Augmentation", "View", "mirror_joints", "view_affine", "warp"]


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
    """

    rotation: float = 40.0
    rotation_probability: float = 0.6
    scale: float = 0.3
    translation: float = 0.0
    flip: float = 0.5
    color: float = 0.0

    def sample(self, view: View, rng: np.random.Generator) -> View:
        """Draw a random view around a given one."""
        angle = 0.0
        if rng.random() < self.rotation_probability:
            angle = float(np.clip(rng.standard_normal() * self.rotation, -2 * self.rotation, 2 * self.rotation))
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
        return cv2.LUT(crop, table.reshape(1, 256, 3))


@dataclass(frozen=True)
class View:
    """Region of a picture that becomes a crop: centre and (width, height) in pixels, degrees, mirrored."""

    center: NDArray[np.floating]
    extent: NDArray[np.floating]
    rotation: float = 0.0
    flip: bool = False


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
