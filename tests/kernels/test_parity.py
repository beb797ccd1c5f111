"""The kernels and the legacy geometry give what the official top-down code gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose.kernels import Kernels
from edgepose.pipeline.geometry import apply_affine, box_to_region, crop_affine

PIXEL_STD = 200.0
TOLERANCE = 1e-3  # px


class Official:
    """Recorded results: `cases(group)` with the arrays they point to put in place."""

    def __init__(self, file: Path) -> None:
        self._arrays = dict(np.load(file))
        self._meta = json.loads(str(self._arrays.pop("meta")))

    def cases(self, group: str) -> Any:
        return self._filled(self._meta[group])

    def _filled(self, node: Any) -> Any:
        if isinstance(node, dict):
            if node.keys() == {"array"}:
                return self._arrays[node["array"]]
            return {key: self._filled(value) for key, value in node.items()}
        return [self._filled(value) for value in node] if isinstance(node, list) else node


@pytest.fixture(scope="module")
def official(shared: Path) -> Official:
    file = shared / "specs" / "parity" / "decode.npz"
    if not file.is_file():
        pytest.skip(f"no recorded results in {file}")
    return Official(file)


def to_image(coords: np.ndarray, case: dict[str, Any]) -> np.ndarray:
    extents = np.array(case["scale"]) * PIXEL_STD
    return apply_affine(crop_affine(np.array(case["center"]), extents, (64, 48), "legacy"), coords)


def test_get_final_preds(ops: Kernels, official: Official) -> None:
    for case in official.cases("get_final_preds"):
        coords, scores = ops.argmax_offset(case["heatmaps"], "quarter" if case["post"] else None)
        np.testing.assert_array_equal(scores[..., None], np.array(case["maxvals"], np.float32))
        np.testing.assert_allclose(to_image(coords, case), case["preds"], atol=TOLERANCE)
        peaks, _ = ops.argmax_offset(case["heatmaps"], None)
        np.testing.assert_array_equal(peaks, case["max_preds"])


def test_soft_argmax(ops: Kernels, official: Official) -> None:
    for case in official.cases("soft_argmax"):
        heatmaps = case["heatmaps"]
        coords, scores, _ = ops.soft_argmax(heatmaps, case["beta"])
        np.testing.assert_array_equal(scores[..., None], np.array(case["maxvals"], np.float32))
        if case["kind"] == "final":
            if case["post"]:
                coords = ops.quarter_offset(heatmaps, coords)
            coords = to_image(coords, case)
        np.testing.assert_allclose(coords, case["preds"], atol=TOLERANCE)


def test_validate(ops: Kernels, official: Official) -> None:
    for case in official.cases("validate"):
        assert case["flip"]
        maps = ops.flip_average(case["out"], case["out_flip_raw"], case["pairs"], case["shift"])
        if case["soft"]:
            coords, scores, _ = ops.soft_argmax(maps)
            coords = ops.quarter_offset(maps, coords)
        else:
            coords, scores = ops.argmax_offset(maps)
        preds = np.array(case["preds"])
        np.testing.assert_allclose(to_image(coords, case) - case["bias"], preds[..., :2], atol=TOLERANCE)
        np.testing.assert_allclose(scores, preds[..., 2], rtol=1e-6)


def test_crops(ops: Kernels, official: Official) -> None:
    recorded = official.cases("crops")
    assert recorded["cases"]
    for case in recorded["cases"]:
        width, height = case["size"]
        extents = np.array([case["scale"]]) * PIXEL_STD
        affine = crop_affine(np.array([case["center"]]), extents, (height, width), "legacy")
        np.testing.assert_allclose(affine[0], case["inv"], atol=2e-5)
        plain = ((0, 0, 0), (1 / 255,) * 3)
        crop = ops.crop_normalize(recorded["image"], affine, (height, width), *plain, False)
        assert np.abs(crop[0].transpose(1, 2, 0) - case["warped"]).max() <= 0.51


def test_points_map_into_the_crop(official: Official) -> None:
    for case in official.cases("crops")["cases"]:
        extents = np.array([case["scale"]]) * PIXEL_STD
        affine = crop_affine(np.array([case["center"]]), extents, case["size"][::-1], "legacy")
        back = apply_affine(affine, np.array([[case["pt"]]]))
        np.testing.assert_allclose(back[0, 0], [100, 50], atol=TOLERANCE)


def test_boxes_become_regions(official: Official) -> None:
    for (x, y, w, h), aspect, center, scale in official.cases("box2cs"):
        size = (256, round(256 * aspect))
        centers, extents = box_to_region(np.array([[x, y, x + w, y + h]]), size, 1.25)
        np.testing.assert_allclose(centers[0], center, rtol=1e-6)
        np.testing.assert_allclose(extents[0] / PIXEL_STD, scale, rtol=1e-6)
