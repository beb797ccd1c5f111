"""AP of top-down poses on COCO: regions, scores and suppression as officially evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose.errors import InvalidInputError
from edgepose.evaluation.coco import Candidates, PictureSet, load_coco
from edgepose.evaluation.scorers import CocoScorer
from edgepose.pipeline.geometry import box_to_region
from edgepose.pipeline.poses import Poses
from edgepose.skeleton import coco17, lsp14

SIZE = (256, 192)


@pytest.fixture
def pictures(small_data: Path) -> PictureSet:
    return load_coco(small_data / "coco/people.json", small_data / "coco/images")


@pytest.fixture
def real(shared: Path) -> tuple[PictureSet, dict[str, Any]]:
    """Pictures of COCO, and their annotation file."""
    folder = shared / "data/coco"
    if not folder.is_dir():
        pytest.skip(f"no COCO pictures in {folder}")
    path = folder / "person_keypoints_pooled.json"
    return load_coco(path, folder / "images"), json.loads(path.read_text())


def perfect(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """The annotated joints; those that are not annotated lie anywhere in the region."""
    people = candidates.people
    low, high = people.boxes[:, None, :2], people.boxes[:, None, 2:]
    places = low + (high - low) * np.random.default_rng(0).uniform(0, 1, people.joints.shape)
    joints = np.where(people.visible[..., None] > 0, people.joints, places)
    return joints.astype(np.float32), np.ones(joints.shape[:2], np.float32)


def write_detections(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_regions_of_real_people_are_the_official_ones(real: tuple[PictureSet, dict[str, Any]]) -> None:
    """Boxes cleaned, then centre and scale, as section 1.2 of the shared pipeline describes them."""
    pictures, content = real
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    expected: dict[int, list[list[float]]] = {}
    for annotation in content["annotations"]:
        if annotation.get("iscrowd") or max(annotation.get("keypoints") or [0]) == 0:
            continue
        width, height = sizes[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        x1, y1 = max(0, x), max(0, y)
        x2, y2 = min(width - 1, x1 + max(0, w - 1)), min(height - 1, y1 + max(0, h - 1))
        if not (annotation["area"] > 0 and x2 >= x1 and y2 >= y1):
            continue
        w, h = x2 - x1, y2 - y1
        center = [x1 + w / 2, y1 + h / 2]
        w, h = (w, w / 0.75) if w > 0.75 * h else (h * 0.75, h)
        expected.setdefault(annotation["image_id"], []).append([*center, w * 1.25, h * 1.25])
    found = pictures.people(1.25)
    assert len(found.people) == sum(map(len, expected.values())) == 1026
    regions = np.concatenate(box_to_region(found.people.boxes, SIZE, 1.0), 1)
    for number, picture in enumerate(pictures.pictures):
        mine = regions[found.owners == number]
        np.testing.assert_allclose(mine, np.reshape(expected.get(picture.id, []), (-1, 4)), atol=1e-3)


def test_people_that_official_cleaning_drops(small_data: Path, tmp_path: Path) -> None:
    content = json.loads((small_data / "coco/people.json").read_text())
    people = content["annotations"]
    people[0]["bbox"] = [-10, -5, 30, 40]
    people[1]["area"] = 0
    people[2]["bbox"] = [200, 3, 20, 20]  # beyond the picture
    people[3]["bbox"] = [5, 5, 0.5, 0.5]  # nothing left without the last pixel
    people[4]["keypoints"] = [0] * 51
    people[5]["iscrowd"] = 1
    path = tmp_path / "people.json"
    path.write_text(json.dumps(content))
    found = load_coco(path, small_data / "coco/images").people()
    assert len(found.people) == 7
    assert found.people.boxes[0].tolist() == [0, 0, 29, 39]
    assert found.owners.tolist() == [0, 3, 3, 4, 4, 5, 5]
    assert found.scores.tolist() == [1] * 7


def test_perfect_predictions_on_real_pictures(real: tuple[PictureSet, dict[str, Any]]) -> None:
    pictures, _ = real
    candidates = pictures.people(1.25)
    scorer = CocoScorer(pictures, candidates, SIZE)
    joints, scores = perfect(candidates)
    table = scorer.table(joints, scores)
    assert {table[name] for name in ("AP", "AP_medium", "AP_large", "AR")} == {1}
    noise = np.random.default_rng(0).normal(0, 4, joints.shape).astype(np.float32)
    assert 0.1 < scorer.table(joints + noise, scores)["AP"] < 0.9


def official_poses(
    candidates: Candidates, joints: np.ndarray, scores: np.ndarray
) -> dict[int, list[tuple[float, int]]]:
    """Score and number of the persons left of each picture, as section 1.9 describes the evaluation."""
    variances = (2 * np.array(coco17.sigmas)) ** 2
    _, extents = box_to_region(candidates.people.boxes, SIZE, 1.0)
    left: dict[int, list[tuple[float, int]]] = {}
    for owner in np.unique(candidates.owners):
        ranked = []
        for i in np.flatnonzero(candidates.owners == owner):
            high = [float(v) for v in scores[i] if v > 0.2]
            mean = sum(high) / len(high) if high else 0
            ranked.append((mean * float(candidates.scores[i]), int(i)))
        kept: list[tuple[float, int]] = []
        for score, i in sorted(ranked, reverse=True):
            for _, other in kept:
                area = (extents[i].prod() + extents[other].prod()) / 2 + np.spacing(1)
                squared = ((joints[i] - joints[other]) ** 2).sum(1)
                if np.mean(np.exp(-squared / variances / area / 2)) > 0.9:
                    break
            else:
                kept.append((score, i))
        left[int(owner)] = kept
    return left


def test_scores_and_suppression(pictures: PictureSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    entries = [
        {
            "image_id": image,
            "category_id": 1,
            "bbox": [48 * side + rng.uniform(-2, 2), 0, 46, 60],
            "score": round(rng.uniform(0.1, 1), 3),
        }
        for _ in range(3)
        for image in (4, 0, 1, 3)  # nobody is found in 2 and 5
        for side in range(2)
    ]
    candidates = pictures.detected(write_detections(tmp_path / "boxes.json", entries), 1.25)
    assert candidates.owners.tolist() == sorted(candidates.owners.tolist())
    sides = np.rint(candidates.people.boxes[:, 0] / 48 + 0.2).astype(int)
    truth = {number: picture.joints for number, picture in enumerate(pictures.pictures)}
    joints = np.stack([truth[o][min(s, 1)] for o, s in zip(candidates.owners, sides, strict=True)])
    joints = joints + rng.normal(0, 1.5, joints.shape)
    joints, scores = joints.astype(np.float32), rng.uniform(0, 1, joints.shape[:2]).astype(np.float32)
    scores[3] = 0.2  # not above the floor
    found = CocoScorer(pictures, candidates, SIZE).poses(joints, scores)
    assert [len(poses) for poses in found][2::3] == [0, 0]
    expected = official_poses(candidates, joints, scores)
    assert 8 < sum(map(len, expected.values())) < 24  # some are suppressed and some are not
    for owner, kept in expected.items():
        np.testing.assert_allclose(found[owner].person_scores, [s for s, _ in kept], rtol=1e-5)
        np.testing.assert_array_equal(found[owner].keypoints, joints[[i for _, i in kept]])
        size = found[owner].keypoints.max(1) - found[owner].keypoints.min(1)
        np.testing.assert_allclose(found[owner].boxes[:, 2:] - found[owner].boxes[:, :2], size, rtol=1e-5)


def test_joints_that_are_not_found_do_not_stop_the_evaluation(pictures: PictureSet) -> None:
    candidates = pictures.people()
    joints, scores = perfect(candidates)
    joints[:3], scores[:3] = np.nan, np.nan
    scorer = CocoScorer(pictures, candidates, SIZE)
    found: list[Poses] = scorer.poses(joints, scores)
    assert found[0].person_scores.tolist() == [0]  # two at the same place
    assert scorer.table(joints, scores)["AR"] == pytest.approx(9 / 12)


def test_boxes_of_a_detector(pictures: PictureSet, tmp_path: Path) -> None:
    def entry(image: int, x: float, category: int = 1, width: float = 48) -> dict[str, Any]:
        return {"image_id": image, "category_id": category, "bbox": [x, -3, width, 64], "score": 0.5}

    entries = [entry(i, x) for i in range(6) for x in (0, 48)]
    others = [entry(2, 0, category=3), entry(99, 0), entry(1, 0, width=-4)]
    path = write_detections(tmp_path / "boxes.json", entries + others)
    candidates = pictures.detected(path, padding=1.25)
    assert len(candidates.people) == 12
    # Not cleaned: from -3 to 61, then by 1.25 around the middle.
    np.testing.assert_allclose(candidates.people.boxes[1], [42, -11, 102, 69])
    assert candidates.scores.tolist() == [0.5] * 12
    assert not candidates.people.visible.any()
    joints, scores = perfect(pictures.people())
    scorer = CocoScorer(pictures, candidates, SIZE)
    assert scorer.table(joints, scores)["AP"] == pytest.approx(1)
    # A person found at a place where there is none costs precision when it ranks high.
    wrong = np.array([0, 1]).repeat(6) == 0
    assert scorer.table(np.where(wrong[:, None, None], joints + 500, joints), scores)["AP"] < 0.6

    for content, text in (("[{}]", "KeyError"), ("{", "JSONDecodeError"), ("3", "TypeError")):
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=f"cannot read detections .*{text}"):
            pictures.detected(path)
    with pytest.raises(InvalidInputError, match="FileNotFoundError"):
        pictures.detected(tmp_path / "none.json")
    write_detections(path, others)
    with pytest.raises(InvalidInputError, match="no person in the 6 pictures"):
        pictures.detected(path)


def test_people_with_the_joints_of_another_skeleton(pictures: PictureSet) -> None:
    mapped = pictures.mapped(lsp14)
    candidates = mapped.people()
    assert len(candidates.people) == 12
    joints, scores = perfect(candidates)
    assert CocoScorer(mapped, candidates, SIZE).table(joints, scores)["AP"] == pytest.approx(1)
