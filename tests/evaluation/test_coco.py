"""COCO and CrowdPose: what is read of their files, and AP."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgepose.errors import InvalidInputError
from edgepose.evaluation.ap import evaluate_results, oks_ap, set_ap, truth_entries
from edgepose.evaluation.coco import load_coco, load_crowdpose
from edgepose.pipeline.poses import Poses
from edgepose.skeleton import crowdpose14, lsp14
from tests.annotated import Write, found_at, write

__all__ = ["write"]


def test_both_views_of_coco(write: Write) -> None:
    pictures = load_coco(*write())
    first, second = pictures.pictures
    assert [len(p.joints) for p in pictures.pictures] == [2, 1]
    assert first.visible.sum(1).tolist() == [12, 5]
    assert first.areas.tolist() == [900, 0.53 * 40 * 70]
    assert first.boxes[0].tolist() == [10, 10, 70, 70]
    assert len(first.unlabelled) == 3
    assert second.image().shape == (90, 70, 3)
    people = pictures.people().people
    assert len(people) == 3
    np.testing.assert_array_equal(people.joints[2], second.joints[0])
    np.testing.assert_array_equal((people + people[:1]).images[3], first.image())
    assert people[2:].boxes.tolist() == [[0, 0, 69, 69]]
    assert len(load_coco(*write(), ids=[9])) == 1


@pytest.mark.parametrize("segments", [True, False])
def test_masks_hide_crowds_and_unlabelled_people(write: Write, segments: bool) -> None:
    mask = load_coco(*write(segments=segments)).pictures[0].mask()
    expected = np.ones((80, 120))
    expected[40:70, 70:90] = 0
    if segments:
        expected[5:20, 90:110] = 0
    # The decoder of polygons may take half a pixel more.
    assert (mask != expected).sum() <= 60
    assert not mask[41:69, 71:89].any()
    assert mask[6:19, 91:109].any() != segments
    if segments:
        np.testing.assert_array_equal(mask[:30], expected[:30])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": 3}, "TypeError"),
        ({"annotations": [{"image_id": 7, "keypoints": [1, 1, 2], "bbox": [0, 0, 1, 1]}]}, "has 1 joints"),
        ({"annotations": [{"image_id": 8}]}, "KeyError: 8"),
    ],
)
def test_unusable_annotations(write: Write, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        load_coco(*write(**changes))


def test_missing_files(write: Write, tmp_path: Path) -> None:
    path, images = write()
    with pytest.raises(InvalidInputError, match="found no file"):
        load_coco(tmp_path / "none.json", images)
    with pytest.raises(InvalidInputError, match="found no folder"):
        load_coco(path, tmp_path / "none")
    with pytest.raises(InvalidInputError, match=r"no pictures \[1\]"):
        load_coco(path, images, ids=[1])
    with pytest.raises(InvalidInputError, match="has 17 joints, crowdpose14 has 14"):
        load_crowdpose(path, images)
    pictures = load_coco(path, images)
    cv2.imwrite(str(images / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (images / "b.png").unlink()
    with pytest.raises(InvalidInputError, match="annotation says"):
        pictures.pictures[0].image()
    with pytest.raises(InvalidInputError, match="no such file"):
        pictures.pictures[1].image()


def test_figures_of_published_results(shared: Path) -> None:
    folder = shared / "data/coco_eval"
    if not folder.is_dir():
        pytest.skip(f"no results to score in {folder}")
    coco = evaluate_results(folder / "example_coco_val.json", folder / "example_coco_preds.json")
    expected = {"AP": 0.8609, "AP50": 0.9931, "AP75": 0.9109, "AP_medium": 0.7756, "AP_large": 0.9373}
    expected["AR"] = 0.8750
    assert {name: round(coco[name], 4) for name in expected} == expected
    files = folder / "example_crowdpose_val.json", folder / "example_crowdpose_preds.json"
    crowdpose = evaluate_results(*files, "crowdpose")
    expected = {"AP": 0.7877, "AP50": 0.9881, "AP75": 0.7314}
    expected |= {"AP_easy": 1.0, "AP_medium": 0.9802, "AP_hard": 0.4116}
    assert {name: round(crowdpose[name], 4) for name in expected} == expected


def test_crowdpose_set(write: Write) -> None:
    pictures = load_crowdpose(*write(14, segments=False))
    assert pictures.skeleton is crowdpose14
    assert pictures.pictures[1].crowding == 0.9
    figures = set_ap(pictures, found_at(pictures))
    assert figures["AP"] == figures["AP_easy"] == figures["AP_hard"] == 1
    assert math.isnan(figures["AP_medium"])


def test_ap_of_a_set_falls_with_the_distance(write: Write) -> None:
    pictures = load_coco(*write())
    assert "AP_hard" in set_ap(pictures, found_at(pictures))  # its pictures have crowd indices
    content = json.loads(write()[0].read_text())
    for image in content["images"]:
        del image["crowdIndex"]
    pictures = load_coco(*write(images=content["images"]))
    near, far, nothing = (set_ap(pictures, found_at(pictures, shift)) for shift in (0, 3, 500))
    assert near["AP"] == 1
    assert 0 < far["AP"] < 1
    assert nothing["AP"] == 0
    truth = truth_entries(pictures)
    assert sum(entry.get("iscrowd", 0) for entry in truth["annotations"]) == 2
    empty = [p.take(np.zeros(0, np.int64)) for p in found_at(pictures)]
    assert set_ap(pictures, empty)["AP"] == 0
    with pytest.raises(InvalidInputError, match="found 1 for 2"):
        set_ap(pictures, empty[:1])


def test_ap_on_any_skeleton() -> None:
    rng = np.random.default_rng(0)
    truth, found = [], []
    for people in (2, 0, 3):
        joints = rng.uniform(0, 200, (people, 14, 2)).astype(np.float32)
        visible = np.ones((people, 14), np.float32)
        boxes = np.tile(np.array([0, 0, 200, 200], np.float32), (people, 1))
        truth.append((joints, visible, boxes))
        found.append(Poses(joints.copy(), visible, None, np.ones(people, np.float32), boxes))
    assert oks_ap(truth, found, lsp14)["AP"] == 1
    found[0].keypoints[0] = np.nan
    found[2].keypoints[1] += 1000
    assert oks_ap(truth, found, lsp14)["AR"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_results_that_cannot_be_scored(write: Write, tmp_path: Path, kind: str) -> None:
    truth, _ = write()
    wrong = [{"image_id": 1, "category_id": 1, "keypoints": [0] * 51, "score": 1}]
    with pytest.raises(InvalidInputError, match=r"'lvis'|same pictures"):
        evaluate_results(truth, wrong, kind)
    with pytest.raises(InvalidInputError, match="cannot read"):
        evaluate_results(truth, tmp_path / "none.json")
