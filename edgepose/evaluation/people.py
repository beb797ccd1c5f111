"""People of any data set, one picture each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.skeleton import Skeleton

__all__ = ["People", "Pictures", "check_files", "pad_boxes", "read_picture"]


def read_picture(path: Path) -> NDArray[Any]:
    """BGR uint8 (h, w, 3); an orientation in the file's header is ignored, as annotations ignore it.

    Raises:
        InvalidInputError: the file is missing or damaged.
    """
    cv2 = require_cv2("reading pictures")
    image: NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        found = "a damaged file" if path.is_file() else "no such file"
        raise InvalidInputError(f"cannot read picture {path}; found {found}; fetch the data set again")
    return image


def check_files(annotations: Path, images: Path) -> None:
    """Refuse an annotation file or a folder of pictures that is not there."""
    if not annotations.is_file():
        raise InvalidInputError(
            f"no annotations; found no file {annotations}; docs/training.md says where to get them"
        )
    if not images.is_dir():
        raise InvalidInputError(
            f"no pictures; found no folder {images}; docs/training.md says where to get them"
        )


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
