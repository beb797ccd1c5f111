"""Pictures of many people, laid out from pictures of one person each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.evaluation.people import People
from training.data.transforms import Augmentation, View, mirror_joints, view_affine

__all__ = ["Mosaic", "Mosaics", "lay_out"]


@dataclass(frozen=True)
class Mosaic:
    """A picture of several people.

    Attributes:
        image: (size, size, 3) uint8 BGR.
        joints: (p, k, 2) pixels of the picture.
        visible: (p, k), 0 where not labelled or outside of the person's cell.
        boxes: (p, 4) xyxy, the cells.
        labelled: (p, k), where the picture says nothing of a joint that may be seen: False.
    """

    image: NDArray[np.uint8]
    joints: NDArray[np.float32]
    visible: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labelled: NDArray[np.bool_]


@dataclass(frozen=True)
class Layout:
    """How people are laid out in the cells of a grid.

    Attributes:
        grids: probability of 1 x 1, 2 x 2, ... cells.
        split: largest shift of the lines between the cells, as a share of a cell.
        context: range of the cell's size over that of the person's joints.
        rotation: largest angle in degrees.
        flip: probability of mirroring a person.
        color: largest relative change of each colour channel and of the brightness.
    """

    grids: tuple[float, ...] = (0.1, 0.4, 0.35, 0.15)
    split: float = 0.2
    context: tuple[float, float] = (1.1, 1.8)
    rotation: float = 25.0
    flip: float = 0.5
    color: float = 0.15


def lay_out(
    people: People, chosen: NDArray[np.int64], size: int, layout: Layout, rng: np.random.Generator
) -> Mosaic:
    """One mosaic of a square number of people, row by row."""
    side = round(len(chosen) ** 0.5)
    lines = [np.linspace(0, size, side + 1) for _ in range(2)]
    for line in lines:
        line[1:-1] += rng.uniform(-layout.split, layout.split, side - 1) * size / side
    columns, rows = (np.round(line).astype(int) for line in lines)
    image = np.zeros((size, size, 3), np.uint8)
    joints = np.zeros((len(chosen), len(people.skeleton), 2), np.float32)
    visible = np.zeros(joints.shape[:2], np.float32)
    boxes = np.zeros((len(chosen), 4), np.float32)
    labelled = np.zeros(visible.shape, bool)
    recolor = Augmentation(color=layout.color).recolor
    for i, index in enumerate(chosen):
        row, column = divmod(i, side)
        x, y, right, bottom = columns[column], rows[row], columns[column + 1], rows[row + 1]
        shape = int(bottom - y), int(right - x)
        view = _view(people, int(index), shape, layout, rng)
        matrix = view_affine(view, shape, "udp")
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(
            people.images[index], matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        image[y:bottom, x:right] = recolor(np.asarray(crop, np.uint8), rng)
        placed = np.linalg.solve(matrix[:, :2], (people.joints[index] - matrix[:, 2]).T).T
        inside = ((placed >= 0) & (placed <= np.array(shape[::-1]) - 1)).all(-1)
        shown, known = people.visible[index] * inside, people.visible[index] > 0
        if view.flip:
            placed, shown, known = (mirror_joints(v, people.skeleton) for v in (placed, shown, known))
        joints[i], visible[i], labelled[i] = placed + np.array((x, y)), shown, known
        boxes[i] = x, y, right - 1, bottom - 1
    return Mosaic(image, joints * (visible[..., None] > 0), visible, boxes, labelled)


def _view(
    people: People, index: int, shape: tuple[int, int], layout: Layout, rng: np.random.Generator
) -> View:
    """A random view of a person that fills a cell of (height, width)."""
    labelled = people.joints[index][people.visible[index] > 0]
    low, high = labelled.min(0), labelled.max(0)
    width, height = np.maximum(high - low, 1)
    scale = max(width / shape[1], height / shape[0]) * rng.uniform(*layout.context)
    extent = np.array([shape[1], shape[0]]) * scale
    slack = np.maximum(extent - (width, height), 0) / 2
    return View(
        center=(low + high) / 2 + rng.uniform(-1, 1, 2) * slack * 0.7,
        extent=extent,
        rotation=rng.uniform(-layout.rotation, layout.rotation),
        flip=bool(rng.random() < layout.flip),
    )


class Mosaics:
    """Random mosaics; each person stands in one an epoch, on the average.

    Attributes:
        most: largest number of people of a mosaic.
        epoch: which mosaics are drawn, together with the seed.
    """

    def __init__(self, people: People, size: int, layout: Layout | None = None, seed: int = 0) -> None:
        self.people = people
        self.size = size
        self.layout = layout or Layout()
        self.seed = seed
        self.epoch = 0
        sides = np.arange(1, len(self.layout.grids) + 1)
        self.most = int(sides[-1] ** 2)
        self._length = max(int(len(people) / (sides**2 * np.array(self.layout.grids)).sum()), 1)

    def __len__(self) -> int:
        return self._length

    def draw(self, index: int) -> Mosaic:
        """The mosaic of an index in this epoch."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        side = 1 + rng.choice(len(self.layout.grids), p=self.layout.grids)
        chosen = rng.choice(len(self.people), side * side, replace=len(self.people) < side * side)
        return lay_out(self.people, chosen, self.size, self.layout, rng)
