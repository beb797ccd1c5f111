"""Leeds Sports Pose and its extension (Johnson and Everingham 2010, 2011): one person a picture, 14 joints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.skeleton import lsp14
from training.data.people import People

__all__ = ["CONTEXT", "load_lsp", "load_lspet"]

CONTEXT = 4 / 3
"""Size of a region over that of the joints' bounding box: the median of LSP's own pictures."""


def load_lsp(root: Path, first: int = 1, last: int = 1000) -> People:
    """LSP pictures `first` to `last` (1-1000 train, 1001-2000 test); the region is the whole picture.

    Args:
        root: folder with ``joints.mat`` and ``images/im0001.jpg``; all joints are labelled.

    Raises:
        InvalidInputError: the folder does not hold the data set, or the range is outside of it.
    """
    annotation = _existing(root, "joints.mat")
    joints = scipy.io.loadmat(annotation)["joints"].transpose(2, 1, 0)
    _check_range(first, last, len(joints))
    joints = joints[first - 1 : last]
    paths = [root / "images" / f"im{i:04d}.jpg" for i in range(first, last + 1)]
    images = [_read(path) for path in paths]
    boxes = [(0, 0, image.shape[1] - 1, image.shape[0] - 1) for image in images]
    return People(
        skeleton=lsp14,
        images=images,
        joints=joints[..., :2].astype(np.float32),
        visible=np.ones(joints.shape[:2], np.float32),
        boxes=np.array(boxes, np.float32),
    )


def load_lspet(root: Path, first: int = 1, last: int = 10000, min_joints: int = 6) -> People:
    """LSP Extended (training only); the region is the joints' bounding box times `CONTEXT`.

    Args:
        root: folder with ``joints.npz`` (key ``joints``, (n, 14, 3), third value 1 = labelled) or
            the original ``joints.mat`` (14, 3, n), and ``images/im00001.jpg``.
        min_joints: people with fewer labelled joints are left out.

    Raises:
        InvalidInputError: the folder does not hold the data set, or the range is outside of it.
    """
    if (root / "joints.npz").is_file():
        with np.load(root / "joints.npz") as file:
            joints = file["joints"]
    else:
        joints = scipy.io.loadmat(_existing(root, "joints.mat"))["joints"].transpose(2, 0, 1)
    _check_range(first, last, len(joints))
    visible = joints[..., 2] > 0
    kept = [i for i in range(first - 1, last) if visible[i].sum() >= min_joints]
    joints, visible = joints[kept, :, :2].astype(np.float32), visible[kept]
    low = np.where(visible[..., None], joints, np.inf).min(1)
    high = np.where(visible[..., None], joints, -np.inf).max(1)
    center, half = (low + high) / 2, (high - low) / 2 * CONTEXT
    return People(
        skeleton=lsp14,
        images=[_read(root / "images" / f"im{i + 1:05d}.jpg") for i in kept],
        joints=np.where(visible[..., None], joints, 0),
        visible=visible.astype(np.float32),
        boxes=np.concatenate([center - half, center + half], 1).astype(np.float32),
    )


def _existing(root: Path, name: str) -> Path:
    path = root / name
    if not path.is_file():
        raise InvalidInputError(f"no data set at {root}; {name} is missing; give the folder that holds it")
    return path


def _check_range(first: int, last: int, count: int) -> None:
    if not 1 <= first <= last <= count:
        raise InvalidInputError(f"pictures {first} to {last} are not in the data set; it has 1 to {count}")


def _read(path: Path) -> NDArray[Any]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InvalidInputError(f"cannot read picture {path}; it is missing or damaged; fetch the data set again")
    return image
