"""Leeds Sports Pose (Johnson and Everingham 2010): a person a picture, 14 joints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.matlab import read_arrays
from edgepose.evaluation.people import People, read_picture
from edgepose.skeleton import lsp14

__all__ = ["check_range", "existing", "load_lsp", "mat_joints"]


def load_lsp(root: Path, first: int = 1, last: int = 1000) -> People:
    """LSP pictures `first` to `last` (1-1000 train, 1001-2000 test); the region is the whole picture.

    Args:
        root: folder with ``joints.mat`` and ``images/im0001.jpg``; all joints are labelled.

    Raises:
        InvalidInputError: the folder does not hold the data set, or the range is outside of it.
    """
    joints = mat_joints(existing(root, "joints.mat")).transpose(2, 1, 0)
    if joints.shape[1:] != (14, 3):
        raise InvalidInputError(f"not LSP in {root}; found joints {joints.shape}; expected (n, 14, 3)")
    check_range(first, last, len(joints))
    joints = joints[first - 1 : last]
    paths = [root / "images" / f"im{i:04d}.jpg" for i in range(first, last + 1)]
    images = [read_picture(path) for path in paths]
    boxes = [(0, 0, image.shape[1] - 1, image.shape[0] - 1) for image in images]
    return People(
        skeleton=lsp14,
        images=images,
        joints=joints[..., :2].astype(np.float32),
        visible=np.ones(joints.shape[:2], np.float32),
        boxes=np.array(boxes, np.float32),
    )


def mat_joints(path: Path) -> NDArray[Any]:
    """The array ``joints`` of a MATLAB file, which has three axes."""
    arrays = read_arrays(path)
    joints = arrays.get("joints", np.zeros(0))
    if joints.ndim != 3:
        found = f"joints {joints.shape}" if "joints" in arrays else f"the arrays {sorted(arrays)}"
        raise InvalidInputError(
            f"cannot read {path}; found {found}; it needs an array 'joints' of three axes: fetch the data "
            "set again"
        )
    return joints


def existing(root: Path, name: str) -> Path:
    """The path of a data set's file, which must be there."""
    path = root / name
    if not path.is_file():
        raise InvalidInputError(
            f"no data set in {root}; found no {name}; give the folder that holds it (to train, data.root or "
            "the environment variable EDGEPOSE_DATA, with lsp/ and lspet/ in it); docs/training.md says "
            "where to get it"
        )
    return path


def check_range(first: int, last: int, count: int) -> None:
    """Refuse pictures that are not in the data set."""
    if not 1 <= first <= last <= count:
        raise InvalidInputError(f"pictures {first} to {last} are not in the data set; it has 1 to {count}")
