"""MPII: people, regions, and PCKh as its two usual evaluations compute it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from edgepose.errors import InvalidInputError
from edgepose.evaluation.metrics import pckh_table
from edgepose.evaluation.mpii import HeadTruth, head_box_file, load_head_truth, load_mpii
from edgepose.evaluation.scorers import MpiiScorer
from edgepose.pipeline.geometry import box_to_region
from edgepose.skeleton import mpii16

Write = Callable[..., Path]


@pytest.fixture
def mpii(small_data: Path, tmp_path: Path) -> Path:
    """A copy of the small MPII that a test may change."""
    return Path(shutil.copytree(small_data / "mpii", tmp_path / "data/mpii"))


def change(path: Path, row: int, **fields: Any) -> None:
    people = json.loads(path.read_text())
    people[row].update(fields)
    path.write_text(json.dumps(people))


def test_people_and_their_regions(mpii: Path) -> None:
    path = mpii / "annot/train.json"
    given = json.loads(path.read_text())
    visible = [1.0] * 16
    visible[3] = 0
    change(path, 2, center=[300.5, 200.25], scale=1.5, joints_vis=visible)
    people, located = load_mpii(path, mpii / "images")
    assert people.skeleton is mpii16
    assert located.tolist() == [True] * 8
    np.testing.assert_allclose(people.joints[1], np.array(given[1]["joints"]) - 1, rtol=1e-6)
    x, y = np.round(people.joints[1, 5]).astype(int)
    assert people.images[1][y, x, 2] > 150  # the spot drawn there
    assert people.joints[2, 3].tolist() == [0, 0]
    assert people.visible[2].tolist() == visible

    for size in ((256, 256), (256, 192)):
        centers, extents = box_to_region(people.boxes, size, 1.0)
        np.testing.assert_allclose(centers[2], [299.5, 200.25 + 15 * 1.5 - 1], rtol=1e-6)
        # The official affine takes the width of the region alone.
        np.testing.assert_allclose(extents[2], [375, 375 * size[0] / size[1]], rtol=1e-6)
    narrow, _ = load_mpii(path, mpii / "images", padding=1.0)
    np.testing.assert_allclose(np.diff(narrow.boxes[2].reshape(2, 2), axis=0), [[300, 300]], rtol=1e-6)


def test_people_without_a_centre_are_left_out(mpii: Path) -> None:
    path = mpii / "annot/valid.json"
    change(path, 1, center=[-1.0, -1.0])
    people, located = load_mpii(path, mpii / "images")
    assert located.tolist() == [True, False, True, True]
    truth = load_head_truth(mpii / "annot/gt_valid.mat")
    table = MpiiScorer(people, located, truth).table(people.joints, people.visible)
    assert table["mean"] == table["elbow"] == table["mean_strict"] == 75  # not found: wrong
    for row in range(4):
        change(path, row, scale=-1)
    with pytest.raises(InvalidInputError, match="found none with a centre"):
        load_mpii(path, mpii / "images")


def test_unusable_files(mpii: Path) -> None:
    path, images = mpii / "annot/valid.json", mpii / "images"
    with pytest.raises(InvalidInputError, match=r"no annotations; found no file .*none\.json"):
        load_mpii(mpii / "none.json", images)
    with pytest.raises(InvalidInputError, match="no pictures; found no folder"):
        load_mpii(path, mpii / "none")
    change(path, 0, joints=[[1, 1]] * 14)
    with pytest.raises(InvalidInputError, match=r"cannot read .*valid\.json; .*joints \(16\)"):
        load_mpii(path, images)
    path.write_text('[{"image": "0.png", "center": [1, 1], "scale": 1}]')  # as the test part
    with pytest.raises(InvalidInputError, match="KeyError: 'joints'"):
        load_mpii(path, images)
    path.write_text("{")
    with pytest.raises(InvalidInputError, match="JSONDecodeError"):
        load_mpii(path, images)

    truth = mpii / "annot/gt_valid.mat"
    content = {name: value for name, value in loadmat(truth).items() if not name.startswith("_")}
    savemat(truth, {**content, "headboxes_src": np.zeros((2, 2, 3))})
    with pytest.raises(InvalidInputError, match="4 people, head boxes of"):
        load_head_truth(truth)
    savemat(truth, {**content, "jnt_missing": np.zeros((14, 4))})
    with pytest.raises(InvalidInputError, match="jnt_missing"):
        load_head_truth(truth)
    truth.write_bytes(b"no MATLAB file")
    with pytest.raises(InvalidInputError, match=r"cannot read .*b'no MATLAB file'; give .*level 5"):
        load_head_truth(truth)
    savemat(truth, {"pos_gt_src": content["pos_gt_src"]})
    with pytest.raises(InvalidInputError, match=r"KeyError: 'headboxes_src'; it needs pos_gt_src"):
        load_head_truth(truth)


def test_truth_of_other_people(mpii: Path) -> None:
    people, located = load_mpii(mpii / "annot/train.json", mpii / "images")
    with pytest.raises(InvalidInputError, match="found 4 people, the annotations have 8"):
        MpiiScorer(people, located, load_head_truth(mpii / "annot/gt_valid.mat"))
    people.visible[:, mpii16.index("head_top")] = 0
    with pytest.raises(InvalidInputError, match="no joint that counts in PCKh among 8 people"):
        MpiiScorer(people, located, HeadTruth.of_people(people))


def test_the_evaluation_file_beside_the_annotations(mpii: Path) -> None:
    path = mpii / "annot/valid.json"
    assert head_box_file(path) == mpii / "annot/gt_valid.mat"
    assert head_box_file(mpii / "annot/train.json") is None
    other = mpii / "annot/gt_valid_with_headboxes.mat"
    (mpii / "annot/gt_valid.mat").rename(other)
    assert head_box_file(path) == other


def test_pckh_counts(mpii: Path) -> None:
    truth = load_head_truth(mpii / "annot/gt_valid.mat")
    assert truth.head_sizes.tolist() == [18] * 4
    people, _ = load_mpii(mpii / "annot/valid.json", mpii / "images")
    np.testing.assert_allclose(truth.joints, people.joints, atol=1e-4)

    def table(found: np.ndarray) -> dict[str, float]:
        return pckh_table(found, truth.joints, truth.head_sizes, truth.counted)

    perfect = table(truth.joints)
    assert list(perfect) == [
        "head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "mean", "mean@0.1", "mean_strict",
    ]  # fmt: skip
    assert set(perfect.values()) == {100}
    found = truth.joints.copy()
    found[:, [6, 7]] = np.nan  # pelvis and thorax: nowhere
    assert table(found) == perfect
    found[:, 8] += 100  # upper neck: in the means alone
    wrong = table(found)
    assert wrong["head"] == 100
    for name in ("mean", "mean@0.1", "mean_strict"):
        assert wrong[name] == pytest.approx(100 * 13 / 14)
    within, beyond = np.array([1.9, 0]), np.array([2, 0])  # 0.1056 and 0.1111 of a head
    assert table(truth.joints + within)["mean@0.1"] == 100
    assert table(truth.joints + beyond)["mean@0.1"] == 0

    edge = np.zeros((1, 16, 2))
    edge[..., 0] = 9
    counted = np.ones((1, 16), bool)
    exactly = pckh_table(edge, np.zeros((1, 16, 2)), np.array([18.0]), counted)
    assert exactly["mean"] == 100
    assert exactly["mean_strict"] == 0

    truth.counted[1:, 0] = False  # one person's right ankle counts: a part is the mean of its sides
    found = truth.joints.copy()
    found[0, 0] += 100
    uneven = table(found)
    assert uneven["ankle"] == 50
    assert uneven["mean"] == pytest.approx(100 * (1 - 1 / 53))
    assert uneven["mean_strict"] == pytest.approx(100 * 13 / 14)
    truth.counted[:] = False
    assert np.isnan(table(found)["mean"])


@pytest.mark.parametrize(
    ("file", "mean", "at_tenth", "strict"),
    [("tompson.npz", 82.337, 33.138, 81.46), ("bearpaw-hg_s2_b1.mat", 87.30, 28.08, 86.76)],
)
def test_pckh_of_real_predictions(
    shared: Path, file: str, mean: float, at_tenth: float, strict: float
) -> None:
    folder = shared / "data/mpii"
    if not folder.is_dir():
        pytest.skip(f"no MPII predictions in {folder}")
    truth = load_head_truth(folder / "gt_valid_with_headboxes.mat")
    content = np.load(folder / "preds" / file) if file.endswith("npz") else loadmat(folder / "preds" / file)
    found = content["preds"].astype(np.float64) - 1
    table = pckh_table(found, truth.joints, truth.head_sizes, truth.counted)
    digits = 3 if file.startswith("tompson") else 2
    assert round(table["mean"], digits) == mean
    assert round(table["mean@0.1"], digits) == at_tenth
    assert round(table["mean_strict"], 2) == strict
    if digits == 3:
        parts = [round(table[name], 3) for name in list(table)[:7]]
        assert parts == [95.600, 92.714, 83.365, 76.736, 81.928, 73.363, 65.446]


def test_head_sizes_from_joints(shared: Path, mpii: Path) -> None:
    folder = shared / "data/mpii"
    if not folder.is_dir():
        pytest.skip(f"no MPII annotations in {folder}")
    official = load_head_truth(folder / "gt_valid_with_headboxes.mat")
    people, _ = load_mpii(mpii / "annot/valid.json", mpii / "images")
    people.joints, people.visible = official.joints, official.counted.astype(np.float32)
    found = HeadTruth.of_people(people)
    usable = found.counted.any(1)
    assert usable.mean() == pytest.approx(0.991, abs=5e-4)
    np.testing.assert_array_equal(found.counted[usable], official.counted[usable])
    error = np.abs(found.head_sizes / official.head_sizes - 1)[usable]
    assert np.quantile(error, 0.9) < 3e-6
