"""Whole pictures of several people as bottom-up networks see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from edgepose.errors import InvalidInputError
from edgepose.evaluation.ap import set_ap
from edgepose.evaluation.coco import load_coco
from edgepose.skeleton import Skeleton, coco17, lsp14
from tests.annotated import Write, found_at, write
from training.data.bottomup import Labels, PictureAugmentation, Together, WholePictures

__all__ = ["write"]


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
