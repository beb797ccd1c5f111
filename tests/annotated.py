"""Two pictures annotated as COCO annotates them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgepose.evaluation.coco import PictureSet
from edgepose.pipeline.poses import Poses

__all__ = ["Write", "found_at", "write"]

coco_mask = pytest.importorskip("faster_coco_eval.core.mask")

Write = Callable[..., tuple[Path, Path]]


def person(rng: np.random.Generator, count: int, labelled: int) -> list[float]:
    rows = np.zeros((count, 3))
    rows[:labelled] = np.c_[rng.uniform(20, 60, (labelled, 2)), rng.integers(1, 3, labelled)]
    return rows.ravel().tolist()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file of two pictures: 3 people, one of them unlabelled, and a crowd; then one person."""

    def written(count: int = 17, segments: bool = True, **changes: Any) -> tuple[Path, Path]:
        rng = np.random.default_rng(0)
        crowd = np.zeros((80, 120), np.uint8)
        crowd[5:20, 90:110] = 1
        plain = [90 * 80 + 5] + [15, 65] * 19 + [15, 80 * 10 + 60]
        encoded = coco_mask.encode(np.asfortranarray(crowd))
        annotations: list[dict[str, Any]] = [
            {"image_id": 7, "keypoints": person(rng, count, 12), "bbox": [10, 10, 60, 60], "area": 900.0},
            {"image_id": 7, "keypoints": person(rng, count, 5), "bbox": [20, 0, 40, 70]},
            {"image_id": 7, "keypoints": [0] * 3 * count, "bbox": [70, 40, 20, 30]},
            {"image_id": 9, "keypoints": person(rng, count, 8), "bbox": [0, 0, 70, 70]},
        ]
        if segments:
            annotations[2]["segmentation"] = [[70, 40, 90, 40, 90, 70, 70, 70]]
            for counts in (plain, encoded["counts"]):
                counts = counts.decode() if isinstance(counts, bytes) else counts
                segment = {"size": [80, 120], "counts": counts}
                annotations.append(
                    {"image_id": 7, "iscrowd": 1, "bbox": [90, 5, 20, 15], "segmentation": segment}
                )
        for i, annotation in enumerate(annotations, 1):
            annotation.update({"id": i, "category_id": 1})
        content = {
            "images": [
                {"id": 7, "file_name": "a.png", "height": 80, "width": 120, "crowdIndex": 0.1},
                {"id": 9, "file_name": "b.png", "height": 90, "width": 70, "crowdIndex": 0.9},
            ],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
            **changes,
        }
        path = tmp_path / "people.json"
        path.write_text(json.dumps(content))
        for name, size in (("a.png", (80, 120)), ("b.png", (90, 70))):
            cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (*size, 3), np.uint8))
        return path, tmp_path

    return written


def found_at(pictures: PictureSet, shift: float = 0) -> list[Poses]:
    """The truth as results, moved."""
    found = []
    for picture in pictures.pictures:
        keypoints = np.where(picture.visible[..., None] > 0, picture.joints + shift, np.nan)
        ones = np.ones(len(keypoints), np.float32)
        found.append(Poses(keypoints.astype(np.float32), picture.visible, None, ones, picture.boxes))
    return found
