"""PCK, OKS and the suppression by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat

from edgepose.evaluation.metrics import lsp_torso, pck, pck_table
from edgepose.oks import oks, oks_nms
from edgepose.skeleton import coco17, lsp14


@pytest.mark.parametrize(("file", "expected"), [("LSP", 84.32), ("MPII_LSP", 90.50)])
def test_pck_of_reference_predictions(shared: Path, file: str, expected: float) -> None:
    folder = shared / "data/lsp"
    if not folder.is_dir():
        pytest.skip(f"no Leeds Sports Pose in {folder}")
    truth = loadmat(folder / "joints.mat")["joints"].transpose(2, 1, 0)[1000:, :, :2]
    path = folder / f"reference_predictions_cpm/LSP_prediction_model_{file}_6s.mat"
    predicted = loadmat(path)["prediction_all"].transpose(2, 0, 1)
    table = pck_table(pck(predicted, truth, lsp_torso(truth)), lsp14)
    assert round(table["mean"], 2) == expected
    assert table["head_top"] > table["wrist"]


def test_pck_counts() -> None:
    truth = np.zeros((4, 2, 2))
    predicted = np.zeros((4, 2, 2))
    predicted[0, 0] = [2, 0]  # exactly at the threshold: right
    predicted[1, 0] = [2.001, 0]
    predicted[2, 0] = np.nan
    np.testing.assert_allclose(pck(predicted, truth, np.full(4, 10.0)), [50, 100])
    counted = np.ones((4, 2), bool)
    counted[1:3, 0] = False
    counted[:, 1] = False
    np.testing.assert_allclose(pck(predicted, truth, np.full(4, 10.0), counted=counted), [100, np.nan])


def test_table_joins_the_sides() -> None:
    table = pck_table(np.arange(14.0), lsp14)
    assert table["ankle"] == 2.5
    assert table["head_top"] == 13
    assert table["mean"] == 6.5


def test_oks_nms_equals_the_official_one(decoding: tuple[dict[str, Any], Any]) -> None:
    for entry in decoding[0]["oks_nms"]:
        poses = np.array([person["keypoints"] for person in entry["db"]])[..., :2]
        scores = np.array([person["score"] for person in entry["db"]])
        areas = np.array([person["area"] for person in entry["db"]])
        similar = oks(poses[0], poses, areas[0], areas, coco17.sigmas)
        np.testing.assert_allclose(similar, entry["iou"], rtol=1e-6, atol=1e-12)
        for threshold in (0.9, 0.5):
            kept = oks_nms(poses, scores, areas, coco17.sigmas, threshold)
            assert kept.tolist() == entry[f"keep_{threshold}"]


def test_oks_nms_of_nothing_and_of_ties() -> None:
    none = np.zeros((0, 17, 2))
    assert oks_nms(none, np.zeros(0), np.zeros(0), coco17.sigmas).tolist() == []
    twins = np.zeros((3, 17, 2))
    twins[2] += 500
    assert oks_nms(twins, np.ones(3), np.full(3, 900.0), coco17.sigmas).tolist() == [0, 2]
