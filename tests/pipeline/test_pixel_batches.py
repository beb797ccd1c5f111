"""Pipelines of networks that take the pictures' own bytes: the same persons as from floats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import (
    SIDES2,
    color_model,
    color_spec,
    people_model,
    people_picture,
    people_spec,
    pixel_model,
    spots,
)

from edgepose import Estimator, Grouping, ModelSpec, kernels
from edgepose.pipeline import topdown
from edgepose.pipeline.batches import BatchMaker
from edgepose.pipeline.geometry import crop_affine

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CENTERS = [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)]
NORMAL = {"mean": (0.1, 0.05, 0.02), "std": (0.9, 0.8, 0.7)}
SPECS = [color_spec(), color_spec(color="rgb", input_format="uint8_nhwc")]


@pytest.mark.parametrize("spec", SPECS)
def test_batches(spec: ModelSpec) -> None:
    maker = BatchMaker(spec, kernels.get("numpy"))
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    affine = crop_affine(np.array([[25.0, 20.0]]), np.array([[50.0, 40.0]]), (40, 50), "legacy")
    batch = np.zeros(maker.shape(1, (40, 50)), maker.dtype)
    maker.crop(image, affine, (40, 50), batch)
    mirrored = np.zeros_like(batch)
    maker.mirror(batch, mirrored)
    if spec.input_format == "uint8_nhwc":
        assert batch.dtype == np.uint8
        np.testing.assert_array_equal(batch[0], image[..., ::-1])
        np.testing.assert_array_equal(mirrored[0], image[:, ::-1, ::-1])
    else:
        assert batch.dtype == np.float32
        np.testing.assert_allclose(batch[0], image.transpose(2, 0, 1) / 255, atol=1e-6)
        np.testing.assert_array_equal(mirrored, batch[..., ::-1])


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_top_down(
    tmp_path: Path, color: Any, coordinates: Any, flip_test: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = color_spec(coordinates=coordinates, color=color, **NORMAL)
    source = color_model(tmp_path / "a.onnx", spec)
    pixels = pixel_model(tmp_path / "b.onnx", source)
    pictures = [spots((192, 144), CENTERS), spots((150, 200), [(x + 20, y - 20) for x, y in CENTERS])]
    boxes = [[[0, 0, 143, 191], [10, 5, 140, 180]], [[0, 0, 199, 149]] * 5]
    with Estimator(source, flip_test=flip_test) as floats, Estimator(pixels, flip_test=flip_test) as bytes_:
        expected = floats(pictures, boxes=boxes)
        monkeypatch.setattr(topdown.HostCrops, "batch", 3)
        for found, wanted in zip(bytes_(pictures, boxes=boxes), expected, strict=True):
            assert len(found) == len(wanted)
            np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=0.5)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1 / 255)
        bytes_.warmup()


def test_the_flip_test_exchanges_left_and_right(tmp_path: Path) -> None:
    """The model sees each hand in its own half; the mirrored run must see the mirrored picture."""
    mask = np.zeros((1, 2, 16, 12))
    mask[:, 0, :, 6:] = mask[:, 1, :, :6] = 1
    source = color_model(tmp_path / "a.onnx", color_spec(skeleton=SIDES2), channels=(0, 0), mask=mask)
    hands = spots((192, 144), [(117.0, 95.5), (0, 0), (0, 0)]) // 2
    hands += spots((192, 144), [(26.0, 51.0), (0, 0), (0, 0)]) // 2
    with Estimator(pixel_model(tmp_path / "b.onnx", source), flip_test=True) as estimator:
        left, right = estimator(hands).keypoints[0]
    assert left[0] > 90
    assert right[0] < 50


@pytest.mark.parametrize("color", ["bgr", "rgb"])
@pytest.mark.parametrize(
    ("size", "flip_test", "scales"),
    [
        (("height", "width"), False, (1,)),
        (("height", "width"), True, (0.5, 1, 2)),
        ((128, 192), False, (1,)),
        ((128, 192), True, (1,)),
    ],
)
def test_bottom_up(tmp_path: Path, color: Any, size: Any, flip_test: bool, scales: Sequence[float]) -> None:
    spec = people_spec(color=color, mean=(0.0, 0.0, 0.0), std=(0.9, 0.8, 0.7), grouping=Grouping(refine=True))
    source = people_model(tmp_path / "a.onnx", spec, size=size)
    pixels = pixel_model(tmp_path / "b.onnx", source)
    people = [[(40.3, 50.2), (70.4, 60.1)], [(150.2, 80.7), (170.9, 100.3)]]
    pictures = [people_picture((130, 200), people), people_picture((130, 200), people[:1])]
    if color == "rgb":
        pictures = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    options: dict[str, Any] = {"flip_test": flip_test, "scales": scales}
    with Estimator(source, **options) as floats, Estimator(pixels, **options) as bytes_:
        for found, wanted in zip(bytes_(pictures), floats(pictures), strict=True):
            assert len(found) == len(wanted) > 0
            np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=1.0)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=2 / 255)
        bytes_.warmup()
