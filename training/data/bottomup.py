"""Whole pictures with all their people, as bottom-up networks are trained (HigherHRNet, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from edgepose.evaluation.coco import PictureSet
from edgepose.skeleton import Skeleton
from training.data.mosaics import Mosaics
from training.data.targets import bottomup_targets, joint_indices
from training.data.transforms import Augmentation, View, view_affine, warp

__all__ = [
    "Labels",
    "MosaicPictures",
    "PictureAugmentation",
    "Together",
    "WholePictures",
    "picture_affine",
]


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


@dataclass(frozen=True)
class Labels:
    """How the people of a square picture become targets at every resolution of a network's outputs.

    Attributes:
        input_size: side of the picture.
        strides: input pixels per pixel of each output.
        sigma: standard deviation of the targets in heatmap pixels, the same at each resolution.
        scale_aware: let it grow with a person, ``sigma`` being that of one who is 256 input pixels large.
        unbiased: targets at the exact position, as `bottomup_targets`.
        tag_per_joint: a tag for each joint, or one for all.
        joint_masks: a mask for each joint, for data where some people lack the labels of some joints.
    """

    input_size: int
    strides: tuple[int, ...] = (4, 2)
    sigma: float = 2.0
    scale_aware: bool = False
    unbiased: bool = False
    tag_per_joint: bool = True
    joint_masks: bool = False

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the outputs."""
        return tuple(self.input_size // stride for stride in self.strides)

    def targets(
        self,
        side: int,
        joints: NDArray[np.floating],
        visible: NDArray[np.floating],
        sizes: NDArray[np.floating],
        persons: int,
    ) -> tuple[Tensor, Tensor]:
        """Heatmaps (k, side, side) and joint indices (persons, k, 2).

        Args:
            side: of the output.
            joints: (p, k, 2) in pixels of the output.
            visible: (p, k), 0 where not labelled.
            sizes: (p,) extents of the people in input pixels.
            persons: rows of the indices.
        """
        sigma: float | NDArray[np.floating] = self.sigma
        if self.scale_aware:
            sigma = np.maximum(self.sigma * sizes / 256, 0.5)
        maps = bottomup_targets(joints, visible, (side, side), sigma, unbiased=self.unbiased)
        rows = joint_indices(joints, visible, (side, side), persons, tag_per_joint=self.tag_per_joint)
        return torch.from_numpy(maps), torch.from_numpy(rows)


class WholePictures(Dataset[dict[str, Any]]):
    """Views of whole pictures with targets at every resolution of a network's outputs.

    An item holds ``image`` (s, s, 3) uint8 BGR and, in lists, for each resolution ``targets`` (k, r, r),
    ``masks`` (r, r) or (k, r, r), 0 on crowds, on people without labels and for joints that the set does
    not label, and ``joints`` (p, k, 2) int64, see `joint_indices`. It depends on the seed, the epoch and
    its index alone.

    Args:
        pictures: the pictures, loaded when they are used.
        labels: how targets are made.
        augmentation: of the view; None: the whole picture's short side, unturned.
        repeat: views of each picture an epoch.
        persons: p; None: the most people of a picture of the set.
        seed: of the views.
    """

    def __init__(
        self,
        pictures: PictureSet,
        labels: Labels,
        augmentation: PictureAugmentation | None = None,
        *,
        repeat: int = 1,
        persons: int | None = None,
        seed: int = 0,
    ) -> None:
        self.pictures = pictures
        self.labels = labels
        self.augmentation = augmentation
        self.repeat = repeat
        self.seed = seed
        self.epoch = 0
        self.persons = pictures.most if persons is None else persons

    def __len__(self) -> int:
        return len(self.pictures) * self.repeat

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels, skeleton = self.labels, self.pictures.skeleton
        picture = self.pictures.pictures[index % len(self.pictures)]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        fixed = PictureAugmentation(scale=(1, 1), rotation=0, translation=0, flip=0)
        augmentation = self.augmentation or fixed
        view = augmentation.sample(picture.size, rng)
        size = labels.input_size
        image = warp(picture.image(), picture_affine(view, size), (size, size))
        image = Augmentation(color=augmentation.color).recolor(image, rng)

        extents = (picture.boxes[:, 2:] - picture.boxes[:, :2]).max(1, initial=0)
        sizes = extents.astype(np.float64) / view.extent[0] * size
        counted = self.pictures.labelled_joints.astype(np.float32)
        if view.flip:
            counted = counted[skeleton.flip_permutation]
        whole = picture.mask()
        targets, masks, rows = [], [], []
        for side in labels.sides:
            if labels.unbiased:  # a mirrored picture's joints lie exactly where the picture shows them
                joints, visible = view_joints(view, size, picture.joints, picture.visible, skeleton)
                joints = joints * (side / size)
            else:
                joints, visible = view_joints(view, side, picture.joints, picture.visible, skeleton)
            maps, found = labels.targets(side, joints, visible, sizes, self.persons)
            mask = view_mask(view, side, whole)
            targets.append(maps)
            masks.append(torch.from_numpy(mask * counted[:, None, None] if labels.joint_masks else mask))
            rows.append(found)
        return {"image": torch.from_numpy(image), "targets": targets, "masks": masks, "joints": rows}


class MosaicPictures(Dataset[dict[str, Any]]):
    """Mosaics as items of `WholePictures`; a joint without label is masked in the whole of its cell."""

    def __init__(self, mosaics: Mosaics, labels: Labels, *, persons: int | None = None) -> None:
        self.mosaics = mosaics
        self.labels = labels
        self.persons = mosaics.most if persons is None else persons

    @property
    def epoch(self) -> int:
        return self.mosaics.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.mosaics.epoch = value

    def __len__(self) -> int:
        return len(self.mosaics)

    def __getitem__(self, index: int) -> dict[str, Any]:
        mosaic, labels = self.mosaics.draw(index), self.labels
        sizes = (mosaic.boxes[:, 2:] - mosaic.boxes[:, :2]).max(1).astype(np.float64)
        targets, masks, rows = [], [], []
        for side in labels.sides:
            scale = side / labels.input_size
            maps, found = labels.targets(side, mosaic.joints * scale, mosaic.visible, sizes, self.persons)
            mask = np.ones((len(maps), side, side), np.float32)
            for person, joint in np.argwhere(~mosaic.labelled):
                left, top, right, bottom = np.round(mosaic.boxes[person] * scale).astype(int)
                mask[joint, top : bottom + 1, left : right + 1] = 0
            targets.append(maps)
            masks.append(torch.from_numpy(mask if labels.joint_masks else mask.min(0)))
            rows.append(found)
        image = torch.from_numpy(mosaic.image)
        return {"image": image, "targets": targets, "masks": masks, "joints": rows}


class Together(Dataset[dict[str, Any]]):
    """Several data sets, one after another, that know of epochs."""

    def __init__(self, parts: Sequence[WholePictures | MosaicPictures]) -> None:
        self._parts = parts
        self._joined = ConcatDataset(parts)

    @property
    def epoch(self) -> int:
        return self._parts[0].epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        for part in self._parts:
            part.epoch = value

    def __len__(self) -> int:
        return len(self._joined)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._joined[index]

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Several items, stacked."""
        stacked: dict[str, Any] = default_collate([self[index] for index in indices])
        return stacked


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
