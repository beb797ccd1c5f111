"""LSP Extended (Johnson and Everingham, CVPR 2011): a person a picture, 14 joints, to train on."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.lsp import check_range, existing, mat_joints
from edgepose.evaluation.people import People, read_picture
from edgepose.skeleton import lsp14

__all__ = ["CONTEXT", "load_lspet", "lspet_count"]

CONTEXT = 4 / 3
"""Size of a region over that of the joints' bounding box: the median of LSP's own pictures."""


def load_lspet(root: Path, first: int = 1, last: int | None = None, min_joints: int = 6) -> People:
    """LSP Extended (training only); the region is the joints' bounding box times `CONTEXT`.

    Args:
        root: folder with ``joints.npz`` (key ``joints``, (n, 14, 3), third value 1 = labelled) or
            the original ``joints.mat`` (14, 3, n), and ``images/im00001.jpg``.
        first, last: numbers of the pictures; None: to the end (10,000).
        min_joints: people with fewer labelled joints are left out.

    Raises:
        InvalidInputError: the folder does not hold the data set, or the range is outside of it.
    """
    joints = _lspet_joints(root)
    last = len(joints) if last is None else last
    check_range(first, last, len(joints))
    visible = joints[..., 2] > 0
    kept = [i for i in range(first - 1, last) if visible[i].sum() >= min_joints]
    joints, visible = joints[kept, :, :2].astype(np.float32), visible[kept]
    low = np.where(visible[..., None], joints, np.inf).min(1)
    high = np.where(visible[..., None], joints, -np.inf).max(1)
    center, half = (low + high) / 2, (high - low) / 2 * CONTEXT
    return People(
        skeleton=lsp14,
        images=[read_picture(root / "images" / f"im{i + 1:05d}.jpg") for i in kept],
        joints=np.where(visible[..., None], joints, 0),
        visible=visible.astype(np.float32),
        boxes=np.concatenate([center - half, center + half], 1).astype(np.float32),
    )


def lspet_count(root: Path) -> int:
    """Number of annotated people of LSP Extended.

    Raises:
        InvalidInputError: the folder does not hold the data set.
    """
    return len(_lspet_joints(root))


def _lspet_joints(root: Path) -> NDArray[np.float64]:
    """Annotation (n, 14, 3); the third value is 1 where labelled."""
    packed = root / "joints.npz"
    try:
        if packed.is_file():
            with np.load(packed) as file:
                joints = file["joints"]
        else:
            joints = mat_joints(existing(root, "joints.mat")).transpose(2, 0, 1)
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInputError(f"cannot read {packed}; {error}; it needs an array 'joints'") from error
    if joints.shape[1:] != (14, 3):
        raise InvalidInputError(
            f"not LSP Extended in {root}; found joints {joints.shape}; expected (n, 14, 3)"
        )
    return joints
