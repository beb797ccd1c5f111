"""The crops that a top-down network is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edgepose.evaluation.people import People
from edgepose.pipeline.geometry import Coordinates, box_to_region
from training.data.transforms import (
    Augmentation,
    View,
    mirror_joints,
    scale_colors,
    view_affines,
    warp,
)

__all__ = ["Crops", "Views"]


class Views(Dataset[dict[str, Tensor]]):
    """Random views of people: where their crops lie in their pictures, and their joints in the heatmap.

    An item holds ``index`` of the picture, ``matrix`` (2, 3) float64 from the crop's pixels to the
    picture's, ``joints`` (k, 2) in pixels of the heatmap, ``weights`` (k,), ``labelled``, 1 where any joint
    of the person is, else 0, and, where colours change, ``gain`` (3,) float64. It depends on the seed, the
    epoch and its index alone, so a resumed run sees what an uninterrupted one sees, with any number of
    worker processes.
    """

    def __init__(
        self,
        people: People,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        coordinates: Coordinates,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.skeleton = people.skeleton
        self.joints = people.joints
        self.visible = people.visible
        self.input_size = input_size
        self.heatmap_size = heatmap_size
        self.coordinates = coordinates
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.centers, self.extents = box_to_region(people.boxes, input_size, padding=1.0)

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.batch([index]).items()}

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Several items at once, stacked."""
        views, gains = [], []
        for i in indices:
            view = View(self.centers[i], self.extents[i])
            if self.augmentation is not None:
                rng = np.random.default_rng((self.seed, self.epoch, i))
                view = self.augmentation.sample(view, self.joints[i], self.visible[i], self.skeleton, rng)
                gains.append(self.augmentation.gain(rng))
            views.append(view)
        to_picture = view_affines(views, self.heatmap_size, self.coordinates)
        joints = (self.joints[indices] - to_picture[:, None, :, 2]) @ np.linalg.inv(
            to_picture[:, :, :2]
        ).transpose(0, 2, 1)
        weights = self.visible[indices]
        for row, view in enumerate(views):
            if view.flip:
                joints[row] = mirror_joints(joints[row], self.skeleton)
                weights[row] = mirror_joints(weights[row], self.skeleton)
        drawn = {
            "index": np.array(indices),
            "matrix": view_affines(views, self.input_size, self.coordinates),
            "joints": joints.astype(np.float32),
            "weights": weights,
            "labelled": weights.any(1).astype(np.float32),
        }
        if self.augmentation is not None and self.augmentation.color:
            drawn["gain"] = np.array(gains)
        return {name: torch.from_numpy(values) for name, values in drawn.items()}


class Crops(Views):
    """`Views` cut out: ``image`` (h, w, 3) uint8 BGR, ``joints``, ``weights`` and ``labelled``."""

    def __init__(
        self,
        people: People,
        input_size: tuple[int, int],
        heatmap_size: tuple[int, int],
        coordinates: Coordinates,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(people, input_size, heatmap_size, coordinates, augmentation, seed)
        self.images = people.images

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        drawn = super().batch(indices)
        crops = np.empty((len(indices), *self.input_size, 3), np.uint8)
        for row, index in enumerate(indices):
            crop = warp(self.images[index], drawn["matrix"][row].numpy(), self.input_size)
            crops[row] = scale_colors(crop, drawn["gain"][row].numpy()) if "gain" in drawn else crop
        labels = {name: drawn[name] for name in ("joints", "weights", "labelled")}
        return {"image": torch.from_numpy(crops), **labels}
