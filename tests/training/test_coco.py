"""COCO and CrowdPose, whole pictures as bottom-up networks see them, and AP."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask

from edgepose.errors import InvalidInputError
from edgepose.evaluation.ap import evaluate_results, oks_ap, set_ap, truth_entries
from edgepose.evaluation.coco import PictureSet, load_coco, load_crowdpose
from edgepose.pipeline.poses import Poses
from edgepose.skeleton import Skeleton, coco17, crowdpose14, lsp14
from training.data.bottomup import Labels, PictureAugmentation, Together, WholePictures

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


def test_targets_stand_where_the_picture_shows_the_joint(write: Write) -> None:
    path, images = write()
    pictures = load_coco(path, images)
    spots = pictures.pictures[1]
    image = np.zeros((90, 70, 3), np.uint8)
    x, y = spots.joints[0, 7]
    cv2.circle(image, (round(float(x)), round(float(y))), 3, (255, 255, 255), -1)
    cv2.imwrite(str(images / "b.png"), image)
    data = WholePictures(pictures, Labels(128), augmentation=PictureAugmentation(translation=0.05), seed=3)
    seen = set()
    for data.epoch in range(30):
        item = data[1]
        bright = np.argwhere(item["image"].numpy()[..., 0] > 128)
        bright = bright.mean(0)[::-1] if len(bright) > 9 else None
        # The left elbow, which a mirrored view has in the right one's place; that one is not labelled.
        joint = max((7, 8), key=lambda j: float(item["targets"][1][j].max()))
        seen.add(joint)
        if bright is None or min(*bright, *(127 - bright)) < 8 or item["targets"][1][joint].max() < 1:
            continue
        for targets, side in zip(item["targets"], (32, 64), strict=True):
            row, column = divmod(int(targets[joint].argmax()), side)
            stride = 128 // side
            assert np.abs(np.array([column, row]) + 0.5 - bright / stride).max() < 1.6
    assert len(seen) == 2


def test_items_depend_on_seed_epoch_and_index_alone(write: Write) -> None:
    pictures = load_coco(*write())

    def item(seed: int, epoch: int) -> dict[str, Any]:
        data = WholePictures(pictures, Labels(64), augmentation=PictureAugmentation(), seed=seed)
        data.epoch = epoch
        data[1]
        return data[0]

    one, same, later = item(1, 2), item(1, 2), item(1, 3)
    assert torch.equal(one["image"], same["image"])
    assert not torch.equal(one["image"], later["image"])
    assert [tuple(m.shape) for m in one["targets"]] == [(17, 16, 16), (17, 32, 32)]
    assert [tuple(m.shape) for m in one["masks"]] == [(16, 16), (32, 32)]
    assert [tuple(m.shape) for m in one["joints"]] == [(2, 17, 2)] * 2
    assert set(torch.cat([m.flatten() for m in one["masks"]]).tolist()) <= {0.0, 1.0}


def test_people_in_the_joints_of_another_skeleton(write: Write) -> None:
    pictures = load_coco(*write()).mapped(lsp14)
    original = load_coco(*write())
    assert pictures.skeleton is lsp14
    for name in ("left_shoulder", "right_hip"):
        for values in ("joints", "visible"):
            mapped, own = (getattr(part.pictures[0], values) for part in (pictures, original))
            np.testing.assert_array_equal(mapped[:, lsp14.index(name)], own[:, coco17.index(name)])
    neck = lsp14.index("neck")
    assert not pictures.pictures[0].visible[:, neck].any()
    assert pictures.labelled_joints.sum() == original.labelled_joints[5:].sum()
    labels = Labels(80, joint_masks=True, unbiased=True)
    whole = PictureAugmentation(scale=(1, 1), rotation=0, translation=0, flip=0.5)
    for index in range(4):  # mirrored or not
        item = WholePictures(pictures, labels, whole, repeat=2)[index]
        for mask, target in zip(item["masks"], item["targets"], strict=True):
            assert mask.shape == target.shape
            assert not mask[neck].any()
            assert not target[neck].any()
            assert (mask.flatten(1).any(1) | (target.flatten(1).amax(1) == 0)).all()
    with pytest.raises(InvalidInputError, match="no joint of the same name"):
        pictures.mapped(Skeleton("hand", ("thumb",), (), (), (0.1,)))


def test_data_sets_one_after_another(write: Write) -> None:
    pictures = load_coco(*write())
    parts = [WholePictures(pictures, Labels(64), PictureAugmentation(), repeat=2, seed=s) for s in (0, 1)]
    both = Together(parts)
    both.epoch = 5
    assert len(both) == 8
    assert [part.epoch for part in parts] == [5, 5]
    assert torch.equal(both[6]["image"], parts[1][2]["image"])
    assert not torch.equal(both[6]["image"], parts[1][0]["image"])


def test_an_unturned_view_spans_the_short_side(write: Write) -> None:
    pictures = load_coco(*write())
    item = WholePictures(pictures, Labels(80))[0]
    np.testing.assert_array_equal(item["image"], pictures.pictures[0].image()[:, 20:100])
    long = PictureAugmentation("long", (1, 1), rotation=0, translation=0, flip=0)
    item = WholePictures(pictures, Labels(120), augmentation=long)[0]
    np.testing.assert_array_equal(item["image"][20:100], pictures.pictures[0].image())
    assert not item["masks"][1][:9].any()  # beyond the picture


def test_a_deviation_that_grows_with_the_person(write: Write) -> None:
    pictures = load_coco(*write())
    plain = WholePictures(pictures, Labels(160))[0]
    aware = WholePictures(pictures, Labels(160, scale_aware=True))[0]
    # Two people of 120 and 140 input pixels: narrower than the 2 of one of 256.
    assert 0 < aware["targets"][1].sum() < 0.4 * plain["targets"][1].sum()


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


def test_real_coco(shared: Path) -> None:
    folder = shared / "data/coco"
    if not folder.is_dir():
        pytest.skip(f"no COCO pictures in {folder}")
    pictures = load_coco(folder / "person_keypoints_pooled.json", folder / "images")
    assert len(pictures) == 332
    assert len(pictures.people().people) == 1026
    assert pictures.skeleton is coco17
    assert set_ap(pictures, found_at(pictures))["AP"] == 1
    crowded = min(pictures.pictures, key=lambda p: p.mask().mean())
    assert 0.3 < crowded.mask().mean() < 0.9
    item = WholePictures(pictures, Labels(256), augmentation=PictureAugmentation())[5]
    assert item["targets"][0].max() == 1
