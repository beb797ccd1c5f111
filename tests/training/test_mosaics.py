"""Mosaics: the joints stay on the people, and what is found is scored against the right ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose import PoseResult
from edgepose.evaluation.ap import oks_ap
from edgepose.evaluation.people import People
from edgepose.skeleton import lsp14
from training.data.bottomup import Labels, MosaicPictures
from training.data.mosaics import Layout, Mosaic, Mosaics, lay_out
from training.evaluate_mosaics import found_people, held_out_mosaics

DOT = 2.0
"""Standard deviation of the spot at each joint, in pixels."""


@pytest.fixture
def people() -> People:
    """Twelve pictures, each black but for a spot of its own grey level at each joint."""
    rng = np.random.default_rng(5)
    height, width = 160, 120
    joints = rng.uniform((25, 30), (95, 130), (12, 14, 2)).astype(np.float32)
    rows, columns = np.mgrid[:height, :width]
    images = []
    for person in joints:
        spots = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * DOT**2)) for x, y in person]
        images.append(np.repeat((255 * np.max(spots, 0)).astype(np.uint8)[..., None], 3, axis=2))
    visible = np.ones((12, 14), np.float32)
    visible[:, 3] = 0
    boxes = np.tile(np.array([[0, 0, width - 1, height - 1]], np.float32), (12, 1))
    return People(lsp14, images, joints * visible[..., None], visible, boxes)


def test_joints_lie_on_their_spots(people: People) -> None:
    layout = Layout(color=0, rotation=25)
    mosaic = lay_out(people, np.arange(4), 400, layout, np.random.default_rng(1))
    assert mosaic.visible[:, lsp14.index("left_hip")].sum() + mosaic.visible[:, 2].sum() < 8
    shown = mosaic.visible > 0
    assert shown.sum() > 40
    for (x, y), box in zip(mosaic.joints[shown], mosaic.boxes[np.argwhere(shown)[:, 0]], strict=True):
        assert box[0] <= x <= box[2]
        assert box[1] <= y <= box[3]
        assert mosaic.image[round(float(y)), round(float(x)), 0] > 200


def test_mirrored_people_keep_their_own_left_and_right(people: People) -> None:
    plain = Layout((0, 1), split=0, context=(1.25, 1.25), rotation=0, flip=0, color=0)
    mirrored = dataclasses.replace(plain, flip=1)
    rng = [np.random.default_rng(3) for _ in range(2)]
    a, b = (
        lay_out(people, np.arange(4), 256, layout, r)
        for layout, r in zip((plain, mirrored), rng, strict=True)
    )
    order = lsp14.flip_permutation
    assert not np.array_equal(a.image, b.image)
    both = (a.visible > 0) & (b.visible[:, order] > 0)
    assert both.sum() > 30
    offsets = a.joints - a.joints[:, :1], b.joints[:, order] - b.joints[:, order][:, :1]
    usable = both & both[:, :1]
    np.testing.assert_allclose(offsets[0][usable][:, 0], -offsets[1][usable][:, 0], atol=1e-2)
    np.testing.assert_allclose(offsets[0][usable][:, 1], offsets[1][usable][:, 1], atol=1e-2)


def test_a_mosaic_depends_on_seed_epoch_and_index_alone(people: People) -> None:
    first, second = (Mosaics(people, 128, seed=4) for _ in range(2))
    second.draw(0)
    for a, b in zip(dataclasses.astuple(first.draw(2)), dataclasses.astuple(second.draw(2)), strict=True):
        np.testing.assert_array_equal(a, b)
    second.epoch = 1
    assert not np.array_equal(first.draw(2).image, second.draw(2).image)
    assert first.most == 16


def test_joints_without_label_are_masked_in_their_cell(people: People) -> None:
    layout = Layout((0, 1), split=0, color=0)
    mosaics = Mosaics(people, 128, layout, seed=1)
    data = MosaicPictures(mosaics, Labels(128, sigma=1.0, unbiased=True, joint_masks=True), persons=5)
    mosaic, item = mosaics.draw(1), data[1]
    person, joint = np.argwhere(~mosaic.labelled)[0]
    for mask, target, side in zip(item["masks"], item["targets"], (32, 64), strict=True):
        assert mask.shape == target.shape == (14, side, side)
        left, top, right, bottom = np.round(mosaic.boxes[person] * side / 128).astype(int)
        assert not mask[joint, top : bottom + 1, left : right + 1].any()
        assert mask[mosaic.labelled.all(0).argmax()].all()
        # The value of each visible joint's pixel is that of a Gaussian about its exact position.
        for i, j in np.argwhere(mosaic.visible > 0):
            position = mosaic.joints[i, j] * side / 128
            x, y = position.astype(int)
            expected = np.exp(-((np.array([x, y]) - position + 0.5) ** 2).sum() / 2)
            assert target[j, y, x] >= expected - 1e-6
    assert item["joints"][0].shape == (5, 14, 2)
    assert item["joints"][0][..., 1].sum() == (mosaic.visible > 0).sum()


def test_held_out_mosaics_are_the_same_for_everyone(people: People) -> None:
    a, b = (held_out_mosaics(people, 3, 3, 300) for _ in range(2))
    assert all(np.array_equal(x.image, y.image) for x, y in zip(a, b, strict=True))
    assert all(len(mosaic.joints) == 9 for mosaic in a)
    np.testing.assert_array_equal(a[0].boxes[4], (100, 100, 199, 199))


def _result(mosaic: Mosaic, keypoints: NDArray[np.float32]) -> PoseResult:
    return PoseResult(
        keypoints=keypoints.astype(np.float32),
        scores=np.ones(keypoints.shape[:2], np.float32),
        boxes=mosaic.boxes[: len(keypoints)],
        person_scores=np.linspace(0.9, 0.5, len(keypoints)).astype(np.float32),
        skeleton=lsp14,
        image_size=mosaic.image.shape[:2],
    )


def test_people_are_matched_whatever_their_order_and_each_once(people: People) -> None:
    (mosaic,) = held_out_mosaics(people, 1)
    shuffled = mosaic.joints[[2, 0, 3]] + 1
    matched = found_people(mosaic, _result(mosaic, shuffled), lsp14)
    np.testing.assert_allclose(matched[[2, 0, 3]], shuffled)
    assert np.isnan(matched[1]).all()
    nobody = found_people(mosaic, _result(mosaic, shuffled[:0]), lsp14)
    assert np.isnan(nobody).all()


def test_average_precision_counts_people_found(people: People) -> None:
    mosaics = held_out_mosaics(people, 4)
    truth = [(m.joints, m.visible, m.boxes) for m in mosaics]
    everyone = [_result(m, m.joints) for m in mosaics]
    assert oks_ap(truth, everyone, lsp14)["AP50"] == pytest.approx(1)
    half = [_result(m, m.joints[:2]) for m in mosaics]
    assert oks_ap(truth, half, lsp14)["AP50"] == pytest.approx(0.5, abs=0.02)
    astray = [_result(m, m.joints + 60) for m in mosaics]
    assert oks_ap(truth, astray, lsp14)["AP50"] < 0.05
