"""MPII Human Pose (Andriluka et al., CVPR 2014): people one by one, 16 joints, PCKh.

Read from the JSON files that HRNet's authors published, in their conventions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.matlab import read_arrays
from edgepose.evaluation.people import People, Pictures, check_files, pad_boxes
from edgepose.skeleton import mpii16

__all__ = ["HeadTruth", "head_box_file", "load_head_truth", "load_mpii"]

PIXELS_PER_SCALE = 200
"""A person's ``scale`` is its height over this."""
CENTER_SHIFT = 15
"""Pixels per scale by which the centre is lowered, so that feet are less likely to be cut off."""
HEAD_BOX_SHARE = 0.6
"""Head size over the diagonal of the head box (the data set's evaluation)."""
HEAD_SEGMENT_SHARE = 0.75
"""The same head size over the distance of upper neck and head top (measured on the validation part, where
nine of ten people have it within two millionths)."""


@dataclass(frozen=True)
class HeadTruth:
    """What PCKh compares with.

    Attributes:
        joints: (n, 16, 2) pixels.
        head_sizes: (n,) pixels.
        counted: (n, 16), joints that count.
    """

    joints: NDArray[np.float64]
    head_sizes: NDArray[np.float64]
    counted: NDArray[np.bool_]

    @classmethod
    def of_people(cls, people: People) -> HeadTruth:
        """Where no head boxes are known: from the joints upper neck and head top.

        People who lack one of them do not count (0.9 % of the validation part).
        """
        neck, top = (mpii16.index(name) for name in ("upper_neck", "head_top"))
        joints = np.asarray(people.joints, np.float64)
        sizes = HEAD_SEGMENT_SHARE * np.linalg.norm(joints[:, neck] - joints[:, top], axis=-1)
        usable = (people.visible[:, [neck, top]] > 0).all(1) & (sizes > 0)
        return cls(joints, sizes, (people.visible > 0) & usable[:, None])


def load_mpii(annotations: Path, images: Path, padding: float = 1.25) -> tuple[People, NDArray[np.bool_]]:
    """People of ``annot/train.json`` or ``annot/valid.json`` with ``images/``, read when they are used.

    The region is a square around the centre, lowered by 15 pixels per scale, of 200 pixels per scale
    times the padding. The file counts pixels from 1, and what is returned from 0.

    Args:
        annotations: JSON list of objects of ``image``, ``center``, ``scale``, ``joints`` and
            ``joints_vis``.
        images: folder of the pictures.
        padding: factor by which the region grows; 1.25 for the official models.

    Returns:
        the people, and for each of the m in the file whether it is among them, (m,): those without a
        centre (-1) are left out.

    Raises:
        InvalidInputError: a file or folder is missing, or not in the format.
    """
    check_files(annotations, images)
    count = len(mpii16)
    try:
        entries = json.loads(annotations.read_bytes())
        names = [str(entry["image"]) for entry in entries]
        centers = np.array([entry["center"] for entry in entries], np.float64).reshape(-1, 2)
        scales = np.array([float(entry["scale"]) for entry in entries], np.float64)
        joints = np.array([entry["joints"] for entry in entries], np.float64).reshape(len(names), count, 2)
        marks = np.array([entry["joints_vis"] for entry in entries], np.float64)
        visible = marks.reshape(len(names), count) > 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"cannot read {annotations}; {type(error).__name__}: {error}; give a list of people with image, "
            "center, scale, joints (16) and joints_vis, such as train.json or valid.json"
        ) from error
    located = (centers[:, 0] != -1) & (scales > 0)
    if not located.any():
        raise InvalidInputError(f"no people; found none with a centre in {annotations}; give another file")
    centers, scales, joints, visible = (part[located] for part in (centers, scales, joints - 1, visible))
    centers[:, 1] += CENTER_SHIFT * scales
    half = scales[:, None] * PIXELS_PER_SCALE / 2
    people = People(
        skeleton=mpii16,
        images=Pictures([images / names[row] for row in np.flatnonzero(located)]),
        joints=np.where(visible[..., None], joints, 0).astype(np.float32),
        visible=visible.astype(np.float32),
        boxes=pad_boxes(np.concatenate([centers - 1 - half, centers - 1 + half], 1), padding),
    )
    return people, located


def head_box_file(annotations: Path) -> Path | None:
    """The evaluation file beside an annotation file, as ``gt_valid.mat`` beside ``valid.json``, or None."""
    names = (f"gt_{annotations.stem}.mat", f"gt_{annotations.stem}_with_headboxes.mat")
    return next((path for path in map(annotations.with_name, names) if path.is_file()), None)


def load_head_truth(path: Path) -> HeadTruth:
    """The evaluation's own truth: ``pos_gt_src``, ``headboxes_src`` and ``jnt_missing`` of a MATLAB file.

    The file counts pixels from 1, and what is returned from 0.

    Raises:
        InvalidInputError: the file is damaged or not in the format.
    """
    content = read_arrays(path)
    try:
        joints = np.asarray(content["pos_gt_src"], np.float64).transpose(2, 0, 1) - 1
        low, high = np.asarray(content["headboxes_src"], np.float64)
        missing = np.asarray(content["jnt_missing"]).T != 0
        if joints.shape[1:] != (len(mpii16), 2) or joints.shape[:2] != missing.shape:
            raise ValueError(f"pos_gt_src {joints.shape[::-1]}, jnt_missing {missing.shape[::-1]}")
        sizes = HEAD_BOX_SHARE * np.linalg.norm(high - low, axis=0)
        if sizes.shape != joints.shape[:1]:
            raise ValueError(f"{len(joints)} people, head boxes of {sizes.shape}")
    except (KeyError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read {path}; {type(error).__name__}: {error}; it needs pos_gt_src (16, 2, n), "
            "headboxes_src (2, 2, n) and jnt_missing (16, n)"
        ) from error
    return HeadTruth(joints, sizes, ~missing)
