"""Average Precision by Object Keypoint Similarity, on COCO, CrowdPose and any skeleton.

The evaluation itself is faster-coco-eval's; here truth and results are brought into its form.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.coco import PictureSet
from edgepose.optional import require
from edgepose.pipeline.poses import Poses
from edgepose.result import PoseResult
from edgepose.skeleton import Skeleton, coco17, crowdpose14

__all__ = ["evaluate_results", "oks_ap", "result_entries", "set_ap", "truth_entries"]

COCO_STATS = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")
CROWDPOSE_STATS = ("AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard")
BOX_TO_AREA = 0.53
"""Area of a person over that of its box, where no segment is known (as CrowdPose's evaluation)."""

Json = dict[str, Any]


def evaluate_results(
    truth: Path | Json, results: Path | Sequence[Json], kind: str = "coco"
) -> dict[str, float]:
    """Score a result file as the COCO or the CrowdPose server does.

    Args:
        truth: annotations in COCO's format, a file or its content.
        results: of the same pictures: objects of ``image_id``, ``category_id``, ``keypoints`` (x, y,
            score for each joint) and ``score``; a file or its content.
        kind: ``"coco"`` (17 joints, areas of segments) or ``"crowdpose"`` (14 joints, areas 0.53 of the
            boxes, and AP on easy, medium and hard pictures: crowd index below 0.2, below 0.8, above).

    Returns:
        figures from 0 to 1 by name, NaN where nothing counts.

    Raises:
        InvalidInputError: a file is missing or not in the format, or of other pictures.
    """
    if kind not in ("coco", "crowdpose"):
        raise InvalidInputError(f"unknown evaluation; found {kind!r}; give 'coco' or 'crowdpose'")
    skeleton = coco17 if kind == "coco" else crowdpose14
    return _score(_content(truth), _content(results), skeleton, crowd=kind == "crowdpose")


def set_ap(pictures: PictureSet, found: Sequence[Poses | PoseResult]) -> dict[str, float]:
    """Score the poses found in pictures, those of one after the other, as the set's own evaluation does.

    CrowdPose's has a crowd index for each picture; everything else is scored as COCO is, with the
    constants of its skeleton.
    """
    if len(found) != len(pictures):
        raise InvalidInputError(
            f"results do not fit the pictures; found {len(found)} for {len(pictures)}; give one for each"
        )
    results = [
        entry
        for picture, poses in zip(pictures.pictures, found, strict=True)
        for entry in result_entries(picture.id, poses)
    ]
    crowd = bool(len(pictures)) and all(p.crowding is not None for p in pictures.pictures)
    return _score(truth_entries(pictures), results, pictures.skeleton, crowd=crowd)


def oks_ap(
    truth: Sequence[tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]],
    found: Sequence[Poses | PoseResult],
    skeleton: Skeleton,
) -> dict[str, float]:
    """Score poses on pictures of any skeleton, for instance mosaics, as COCO does.

    Args:
        truth: of each picture: joints (p, k, 2) pixels, visibility (p, k), boxes (p, 4) xyxy. A person's
            area is 0.53 of its box; people without visible joints do not count.
        found: of each picture.
        skeleton: whose sigmas are taken.

    Returns:
        figures from 0 to 1 by name (`COCO_STATS`), NaN where nothing counts.
    """
    if len(found) != len(truth):
        raise InvalidInputError(
            f"results do not fit the truth; found {len(found)} for {len(truth)} pictures; give one for each"
        )
    annotations = []
    for image_id, (joints, visible, boxes) in enumerate(truth, 1):
        areas = BOX_TO_AREA * np.prod(np.asarray(boxes, np.float64)[:, 2:] - boxes[:, :2], axis=1)
        annotations += _person_entries(image_id, joints, visible, boxes, areas)
    results = [entry for i, poses in enumerate(found, 1) for entry in result_entries(i, poses)]
    content = _dataset([{"id": i + 1} for i in range(len(truth))], annotations, skeleton)
    return _score(content, results, skeleton, crowd=False)


def truth_entries(pictures: PictureSet) -> Json:
    """A picture set as the content of a COCO annotation file, crowds and unlabelled people included."""
    images, annotations = [], []
    for picture in pictures.pictures:
        height, width = picture.size
        image: Json = {
            "id": picture.id, "file_name": picture.path.name, "height": height, "width": width
        }  # fmt: skip
        if picture.crowding is not None:
            image["crowdIndex"] = picture.crowding
        images.append(image)
        annotations += _person_entries(
            picture.id, picture.joints, picture.visible, picture.boxes, picture.areas
        )
        for other in picture.unlabelled:
            _, _, w, h = other["bbox"]
            joints: Json = {"keypoints": [0] * 3 * len(pictures.skeleton), "num_keypoints": 0}
            area = other.get("area", BOX_TO_AREA * w * h)
            kept: Json = {key: other[key] for key in ("bbox", "iscrowd") if key in other}
            annotations.append({**joints, "area": area, **kept, "image_id": picture.id, "category_id": 1})
    return _dataset(images, annotations, pictures.skeleton)


def result_entries(image_id: int, poses: Poses | PoseResult) -> list[Json]:
    """Persons as entries of a COCO result file; missing joints stand at (0, 0) with a score of 0."""
    entries = []
    for i, (keypoints, scores) in enumerate(zip(poses.keypoints, poses.scores, strict=True)):
        missing = np.isnan(keypoints).any(1)
        rows = np.concatenate([keypoints, scores[:, None]], 1)
        rows[missing] = 0
        x, y, right, bottom = (float(v) for v in poses.boxes[i])
        entries.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "keypoints": rows.astype(float).ravel().tolist(),
                "score": float(poses.person_scores[i]),
                "bbox": [x, y, right - x, bottom - y],
            }
        )
    return entries


def _person_entries(
    image_id: int,
    joints: NDArray[np.floating],
    visible: NDArray[np.floating],
    boxes: NDArray[np.floating],
    areas: NDArray[np.floating],
) -> list[Json]:
    entries = []
    for keypoints, shown, box, area in zip(joints, visible, boxes, areas, strict=True):
        labelled = np.asarray(shown) > 0
        rows = np.concatenate([keypoints * labelled[:, None], 2 * labelled[:, None]], 1)
        x, y, right, bottom = (float(v) for v in box)
        entries.append(
            {
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": int(labelled.sum()),
                "keypoints": rows.astype(float).ravel().tolist(),
                "bbox": [x, y, right - x, bottom - y],
                "area": float(area),
            }
        )
    return entries


def _dataset(images: list[Json], annotations: list[Json], skeleton: Skeleton) -> Json:
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.joints)}
    numbered = [{"id": i, **entry} for i, entry in enumerate(annotations, 1)]
    return {"images": images, "annotations": numbered, "categories": [category]}


def _content(source: Path | Json | Sequence[Json]) -> Any:
    if not isinstance(source, Path):
        return source
    try:
        return json.loads(source.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read {source}; {type(error).__name__}: {error}; give a JSON file in COCO's format"
        ) from error


def _score(truth: Json, results: Sequence[Json], skeleton: Skeleton, *, crowd: bool) -> dict[str, float]:
    names = CROWDPOSE_STATS if crowd else COCO_STATS
    package = require("faster_coco_eval", "average precision", "edgepose[eval]")
    try:
        annotated = package.COCO(truth, use_deepcopy=True)
        detected = annotated.loadRes(list(results))
        evaluator = package.COCOeval_faster(
            annotated,
            detected,
            "keypoints_crowd" if crowd else "keypoints",
            kpt_oks_sigmas=list(skeleton.sigmas),
            use_area=not crowd,
            print_function=logging.getLogger(__name__).debug,
        )
        evaluator.run()
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise InvalidInputError(
            f"cannot score results; {type(error).__name__}: {error}; give truth and results of the same "
            "pictures in COCO's format"
        ) from error
    figures = zip(names, evaluator.stats, strict=True)
    return {name: float(value) if value >= 0 else math.nan for name, value in figures}
