"""Whole pictures with all their people, as bottom-up networks are trained (HigherHRNet, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from edgepose.skeleton import Skeleton
from training.data.coco import PictureSet
from training.data.targets import bottomup_targets, joint_indices
from training.data.transforms import Augmentation, View, view_affine, warp

__all__ = ["PictureAugmentation", "WholePictures", "picture_affine"]


@dataclass(frozen=True)
class PictureAugmentation:
    """Random square views of whole pictures; the defaults are the published ones.

    Attributes:
        side: the picture's side that the view spans at a scale of 1.
        scale: range of the view's size over that side.
        rotation: largest angle in degrees.
        translation: largest shift of the centre along each axis, as a share of the view's size
            (published: whole pixels up to 40 of a view of 200).
        flip: probability of mirroring.
        color: largest relative change of each colour channel and of the brightness.
    """

    side: Literal["short", "long"] = "short"
    scale: tuple[float, float] = (0.75, 1.5)
    rotation: float = 30.0
    translation: float = 0.2
    flip: float = 0.5
    color: float = 0.0

    def sample(self, size: tuple[int, int], rng: np.random.Generator) -> View:
        """Draw a view of a picture of (height, width)."""
        height, width = size
        side = (min if self.side == "short" else max)(height, width) * rng.uniform(*self.scale)
        angle = float(rng.uniform(-self.rotation, self.rotation))
        limit = int(self.translation * side)
        shift = rng.integers(-limit, limit, 2, endpoint=limit == 0)
        return View(
            center=np.array([width / 2, height / 2]) + shift,
            extent=np.array([side, side]),
            rotation=angle,
            flip=bool(rng.random() < self.flip),
        )


def picture_affine(view: View, side: int) -> NDArray[np.float64]:
    """Affine map (2, 3) from the pixels of a square crop or heatmap to those of the picture.

    At each resolution alike, column j of ``side`` becomes ``side - 1 - j`` where the view is mirrored,
    as in the official data set; mirrored outputs are then averaged without a shift.
    """
    matrix = view_affine(View(view.center, view.extent, view.rotation), (side, side), "legacy")
    if view.flip:
        matrix[:, 2] += matrix[:, 0] * (side - 1)
        matrix[:, 0] *= -1
    return matrix


class WholePictures(Dataset[dict[str, Any]]):
    """Views of whole pictures with targets at every resolution of a network's outputs.

    An item holds ``image`` (s, s, 3) uint8 BGR; for each resolution, in lists, ``targets`` (k, r, r)
    and ``masks`` (r, r), 0 on crowds and on people without labels; and ``joints`` (p, k, 2) int64 at the
    first resolution, see `joint_indices`, p being the most people of a picture of the set. It depends on
    the seed, the epoch and its index alone.

    Args:
        pictures: the pictures, loaded when they are used.
        input_size: side of the square input.
        strides: input pixels per pixel of each output; the first has the tags.
        augmentation: of the view; None: the whole picture's short side, unturned.
        sigma: standard deviation of the targets in heatmap pixels, the same at each resolution.
        scale_aware: let it grow with a person, ``sigma`` being that of one who is 256 input pixels large.
        tag_per_joint: a tag for each joint, or one for all.
        seed: of the views.
    """

    def __init__(
        self,
        pictures: PictureSet,
        input_size: int,
        strides: tuple[int, ...] = (4, 2),
        augmentation: PictureAugmentation | None = None,
        *,
        sigma: float = 2.0,
        scale_aware: bool = False,
        tag_per_joint: bool = True,
        seed: int = 0,
    ) -> None:
        self.pictures = pictures
        self.input_size = input_size
        self.sides = tuple(input_size // stride for stride in strides)
        self.augmentation = augmentation
        self.sigma = sigma
        self.scale_aware = scale_aware
        self.tag_per_joint = tag_per_joint
        self.seed = seed
        self.epoch = 0
        self.most = max((len(picture.joints) for picture in pictures.pictures), default=0)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = self.pictures.pictures[index]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        fixed = PictureAugmentation(scale=(1, 1), rotation=0, translation=0, flip=0)
        augmentation = self.augmentation or fixed
        view = augmentation.sample(picture.size, rng)
        matrix = picture_affine(view, self.input_size)
        image = warp(picture.image(), matrix, (self.input_size, self.input_size))
        image = Augmentation(color=augmentation.color).recolor(image, rng)

        sigma: float | NDArray[np.float64] = self.sigma
        if self.scale_aware:
            extents = (picture.boxes[:, 2:] - picture.boxes[:, :2]).max(1, initial=0).astype(np.float64)
            sigma = np.maximum(self.sigma * extents / view.extent[0] * self.input_size / 256, 0.5)
        whole = picture.mask()
        targets, masks = [], []
        for side in self.sides:
            placed = view_joints(view, side, picture.joints, picture.visible, self.pictures.skeleton)
            targets.append(torch.from_numpy(bottomup_targets(*placed, (side, side), sigma)))
            masks.append(torch.from_numpy(view_mask(view, side, whole)))
        side = self.sides[0]
        placed = view_joints(view, side, picture.joints, picture.visible, self.pictures.skeleton)
        rows = joint_indices(*placed, (side, side), self.most, tag_per_joint=self.tag_per_joint)
        return {
            "image": torch.from_numpy(image),
            "targets": targets,
            "masks": masks,
            "joints": torch.from_numpy(rows),
        }


def view_joints(
    view: View,
    side: int,
    joints: NDArray[np.floating],
    visible: NDArray[np.floating],
    skeleton: Skeleton,
) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """Joints (p, k, 2) and visibility (p, k) of a picture in pixels of its square view."""
    matrix = picture_affine(view, side)
    placed = (joints - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    if view.flip:
        placed, visible = (values[:, skeleton.flip_permutation] for values in (placed, visible))
    return placed, visible


def view_mask(view: View, side: int, mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture's mask in its square view, 0 or 1: (h, w) -> (side, side); 0 beyond the picture."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(mask, picture_affine(view, side), (side, side), flags=flags)
    return (np.asarray(warped) > 0.5).astype(np.float32)
