"""CrowdPose (Li et al., CVPR 2019): crowded pictures, 14 joints, a crowd index for each picture."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edgepose.skeleton import crowdpose14
from training.data.coco import PictureSet, read_annotations

__all__ = ["load_crowdpose"]


def load_crowdpose(annotations: Path, images: Path, *, ids: Collection[int] | None = None) -> PictureSet:
    """CrowdPose, for instance ``crowdpose_trainval.json`` and ``images/``.

    The files have no segments: areas are 0.53 of the boxes, as its evaluation takes them, and people
    without labelled joints are masked by their boxes.

    Args:
        annotations: JSON file.
        images: folder of the pictures, which are loaded when they are used.
        ids: of the pictures to take; None: all.

    Raises:
        InvalidInputError: a file or folder is missing, or not in the format.
    """
    return read_annotations(annotations, images, crowdpose14, ids)
