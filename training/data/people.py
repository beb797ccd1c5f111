"""People of any top-down data set, and the crops that a network is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edgepose.errors import InvalidInputError
from edgepose.pipeline.geometry import Coordinates, box_to_region
from edgepose.skeleton import Skeleton
from training.data.transforms import (
    Augmentation,
    View,
    mirror_joints,
    scale_colors,
    view_affines,
    warp,
)

__all__ = ["Crops", "People", "Pictures", "Views", "pad_boxes", "read_picture"]


def read_picture(path: Path) -> NDArray[Any]:
    """BGR uint8 (h, w, 3); an orientation in the file's header is ignored, as annotations ignore it.

    Raises:
        InvalidInputError: the file is missing or damaged.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        found = "a damaged file" if path.is_file() else "no such file"
        raise InvalidInputError(f"cannot read picture {path}; found {found}; fetch the data set again")
    return image


def pad_boxes(boxes: NDArray[np.floating], padding: float) -> NDArray[np.float32]:
    """Grow boxes (n, 4) xyxy around their centres by a factor."""
    boxes = np.asarray(boxes, np.float64)
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (padding / 2)
    return np.concatenate([center - half, center + half], 1).astype(np.float32)


class Pictures(Sequence[NDArray[np.uint8]]):
    """Pictures in memory (arrays) and in files (paths), which are read whenever they are asked for.

    The last file read is kept, so that people of one picture who follow each other share it; what is
    handed out must not be written to.
    """

    def __init__(self, sources: Sequence[NDArray[np.uint8] | Path]) -> None:
        self._sources = sources
        self._last: tuple[Path, NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: Any) -> Any:
        found = self._sources[index]
        if isinstance(index, slice):
            return Pictures(found)
        if not isinstance(found, Path):
            return found
        if self._last is None or self._last[0] != found:
            self._last = found, read_picture(found)
        return self._last[1]

    def __add__(self, other: Sequence[NDArray[np.uint8]]) -> Pictures:
        added = other._sources if isinstance(other, Pictures) else other
        return Pictures([*self._sources, *added])

    @property
    def sources(self) -> Sequence[NDArray[np.uint8] | Path]:
        """The arrays and paths."""
        return self._sources


@dataclass
class People:
    """Annotated people, one picture each.

    Attributes:
        skeleton: order of the joints.
        images: BGR uint8 pictures (h, w, 3).
        joints: (n, k, 2) in pixels of their picture.
        visible: (n, k), 0 where not labelled.
        boxes: (n, 4) xyxy, the region to be looked at, padding included, before it grows to the input's
            aspect.
    """

    skeleton: Skeleton
    images: Sequence[NDArray[np.uint8]]
    joints: NDArray[np.float32]
    visible: NDArray[np.float32]
    boxes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice) -> People:
        return People(
            self.skeleton,
            self.images[chosen],
            self.joints[chosen],
            self.visible[chosen],
            self.boxes[chosen],
        )

    def __add__(self, other: People) -> People:
        if self.skeleton != other.skeleton:
            raise InvalidInputError(
                f"data sets do not fit together; found skeletons {self.skeleton.name} and "
                f"{other.skeleton.name}; use sets of one skeleton"
            )
        return People(
            self.skeleton,
            Pictures([]) + self.images + other.images,
            np.concatenate([self.joints, other.joints]),
            np.concatenate([self.visible, other.visible]),
            np.concatenate([self.boxes, other.boxes]),
        )


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
