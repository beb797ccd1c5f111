"""Crops, their mirror images and augmentation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from edgepose.evaluation.people import People, pad_boxes
from edgepose.pipeline.geometry import apply_affine, box_to_region
from edgepose.skeleton import coco17, lsp14, mpii16
from training.data.crops import Crops
from training.data.transforms import Augmentation, View, half_body, mirror_joints, view_affine, warp

MODES = ["legacy", "udp"]
Decoding = tuple[dict[str, Any], Any]


def view_of(entry: dict[str, Any]) -> View:
    return View(np.float32(entry["center"]), np.float32(entry["scale"]) * 200)


def test_crops_equal_the_official_ones(decoding: Decoding) -> None:
    meta, arrays = decoding
    image = arrays[meta["crops"]["image"]["array"]]
    for entry in meta["crops"]["cases"]:
        width, height = entry["size"]
        matrix = view_affine(view_of(entry), (height, width), "legacy")
        np.testing.assert_allclose(matrix, entry["inv"], rtol=1e-5, atol=1e-3)
        inverse = cv2.invertAffineTransform(matrix)
        np.testing.assert_allclose(inverse @ [100, 50, 1], entry["pt"], atol=1e-3)
        crop = warp(image, matrix, (height, width)).astype(int)
        limit = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 3  # older OpenCV rounds its weights
        assert np.abs(crop - arrays[entry["warped"]["array"]]).max() <= limit


def official_rotation(view: View, size: tuple[int, int]) -> np.ndarray:
    """Crop to picture by three points, as section 1.3 of the shared pipeline describes it."""
    height, width = size
    angle = np.deg2rad(view.rotation)
    up = np.array([0, -view.extent[0] / 2])
    turned = [up[0] * np.cos(angle) - up[1] * np.sin(angle), up[0] * np.sin(angle) + up[1] * np.cos(angle)]
    points = []
    for first, step in (
        (np.array(view.center, float), np.array(turned)),
        (np.array([width / 2, height / 2]), np.array([0, -width / 2])),
    ):
        second = first + step
        difference = first - second
        points.append(np.float32([first, second, second + np.array([-difference[1], difference[0]])]))
    return cv2.getAffineTransform(points[1], points[0])


@pytest.mark.parametrize("rotation", [-70.0, -30.0, 0.0, 12.5, 90.0])
def test_rotation_equals_the_official_three_points(rotation: float) -> None:
    view = View(np.array([120.5, 90.25]), np.array([150.0, 200.0]), rotation)
    found = view_affine(view, (256, 192), "legacy")
    np.testing.assert_allclose(found, official_rotation(view, (256, 192)), atol=1e-3)


def test_box_to_center_and_scale(decoding: Decoding) -> None:
    for (x, y, w, h), aspect, center, scale in decoding[0]["box2cs"]:
        size = (400, round(400 * aspect))
        boxes = np.float32([[x, y, x + w, y + h]])
        # Padded before or after they grow to the aspect: a data set does the one, the runtime the other.
        padded_after = box_to_region(boxes, size, 1.25)
        padded_before = box_to_region(pad_boxes(boxes, 1.25), size, 1)
        for (centers, extents), tolerance in ((padded_after, 1e-6), (padded_before, 1e-5)):
            np.testing.assert_allclose(centers[0], center, rtol=tolerance)
            np.testing.assert_allclose(extents[0] / 200, scale, rtol=tolerance)


def test_mirrored_joints_equal_the_official_ones(decoding: Decoding) -> None:
    entry = decoding[0]["fliplr_joints"]
    joints, visible = np.array(entry["joints"]), np.array(entry["vis"])
    mirrored = joints.copy()
    mirrored[:, 0] = entry["width"] - 1 - mirrored[:, 0]
    shown = mirror_joints(visible, coco17)
    np.testing.assert_allclose(mirror_joints(mirrored, coco17) * shown, entry["out"][0])
    np.testing.assert_array_equal(shown, entry["out"][1])


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_mirrored_view_is_the_region_of_the_mirrored_picture(coordinates: Any, rotation: float) -> None:
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (120, 90, 3), np.uint8), (0, 0), 2)
    center, extent = np.array([40.25, 61.5]), np.array([60.0, 80.0])
    mirrored_center = np.array([89 - center[0], center[1]])
    size = (64, 48)
    found = warp(image, view_affine(View(center, extent, rotation, flip=True), size, coordinates), size)
    other = View(mirrored_center, extent, -rotation)
    expected = warp(np.ascontiguousarray(image[:, ::-1]), view_affine(other, size, coordinates), size)
    assert np.abs(found.astype(int) - expected).max() <= 2
    plain = warp(image, view_affine(View(center, extent, rotation), size, coordinates), size)
    if coordinates == "udp":  # then the mirrored crop is the crop mirrored, without a shift
        assert np.abs(found[:, ::-1].astype(int) - plain).max() <= 2
    else:
        assert np.abs(found[:, :0:-1].astype(int) - plain[:, 1:]).max() <= 2


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_heatmap_see_the_same_points(coordinates: Any, flip: bool) -> None:
    view = View(np.array([31.0, 45.0]), np.array([60.0, 80.0]), 33.0, flip)
    points = np.random.default_rng(0).uniform(0, 60, (1, 9, 2))
    places = []
    for size in ((256, 192), (64, 48)):
        matrix = view_affine(view, size, coordinates)[None]
        inverse = cv2.invertAffineTransform(matrix[0])[None]
        np.testing.assert_allclose(apply_affine(matrix, apply_affine(inverse, points)), points, atol=1e-9)
        places.append(apply_affine(inverse, points)[0])
    scale = np.array([4, 4]) if coordinates == "legacy" else np.array([191 / 47, 255 / 63])
    np.testing.assert_allclose(places[1] * scale, places[0], atol=1e-9)


def test_half_body_equals_the_official_one(decoding: Decoding) -> None:
    for entry in decoding[0]["half_body"]:
        joints, visible = np.array(entry["joints"])[:, :2], np.array(entry["vis"])[:, 0]
        draw = np.random.RandomState(entry["seed"]).randn()
        view = half_body(joints, visible, coco17, 0.75, draw)
        assert view is not None
        np.testing.assert_allclose(view.center, entry["out"][0], rtol=1e-5)
        np.testing.assert_allclose(view.extent / 200, entry["out"][1], rtol=1e-5)


def test_half_body_of_few_joints() -> None:
    joints = np.arange(32.0).reshape(16, 2)
    legs, arms = np.zeros(16), np.zeros(16)
    legs[:6], arms[10:] = 1, 1
    lower = half_body(joints, legs, mpii16, 1.0, draw=-1)  # the upper half is preferred but not there
    upper = half_body(joints, arms, mpii16, 1.0, draw=1)
    assert lower is not None
    assert upper is not None
    np.testing.assert_allclose(lower.center, joints[:6].mean(0))
    np.testing.assert_allclose(lower.extent, [15, 15])
    np.testing.assert_allclose(upper.center, joints[10:].mean(0))
    one = np.zeros(16)
    one[12] = 1
    assert half_body(joints, one, mpii16, 1.0, draw=0) is None
    assert half_body(np.ones((16, 2)), np.ones(16), mpii16, 1.0, draw=0) is None


def test_augmentation_stays_within_its_bounds() -> None:
    view = View(np.array([50.0, 60.0]), np.array([30.0, 40.0]))
    joints = np.random.default_rng(1).uniform(0, 100, (14, 2))
    rng = np.random.default_rng(0)
    options = {"rotation": 20, "rotation_probability": 0.5, "scale": 0.25, "translation": 0.1, "flip": 0.3}
    drawn = [Augmentation(**options).sample(view, joints, np.ones(14), lsp14, rng) for _ in range(2000)]
    angles = np.array([v.rotation for v in drawn])
    factors = np.array([v.extent[0] / 30 for v in drawn])
    shifts = np.array([(v.center - view.center) / view.extent for v in drawn])
    assert np.abs(angles).max() == 40
    assert (angles == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert (factors.min(), factors.max()) == (0.75, 1.25)
    assert np.abs(shifts).max() <= 0.1
    assert np.mean([v.flip for v in drawn]) == pytest.approx(0.3, abs=0.05)
    halves = [
        Augmentation(0, 0, 0, 0, 0, 0, half_body=0.4).sample(view, joints, np.ones(14), lsp14, rng)
        for _ in range(500)
    ]
    assert np.mean([not np.array_equal(v.center, view.center) for v in halves]) == pytest.approx(
        0.4, abs=0.08
    )
    few = np.r_[np.ones(8), np.zeros(6)]
    same = Augmentation(0, 0, 0, 0, 0, 0, half_body=1).sample(view, joints, few, lsp14, rng)
    np.testing.assert_array_equal(same.center, view.center)


def test_recolor() -> None:
    crop = np.full((4, 4, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    assert Augmentation(color=0).recolor(crop, rng) is crop
    changed = Augmentation(color=0.2).recolor(crop, rng)
    assert changed.min() >= 64
    assert changed.max() <= 144
    assert len(np.unique(changed)) > 1


@pytest.mark.parametrize("coordinates", MODES)
def test_items_are_a_function_of_seed_epoch_and_index(coordinates: Any) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 40, 3), np.uint8) for _ in range(3)]
    joints = rng.uniform(5, 35, (3, 14, 2)).astype(np.float32)
    visible = np.ones((3, 14), np.float32)
    visible[0, 0] = 0
    people = People(lsp14, images, joints, visible, np.float32([[0, 0, 39, 59]] * 3))
    augmentation = Augmentation(color=0.1, flip=1.0)
    first, second = (Crops(people, (64, 48), (16, 12), coordinates, augmentation, 5) for _ in range(2))
    a, b = first[2], second[2]
    assert all(np.array_equal(a[key], b[key]) for key in a)
    second.epoch = 1
    assert not np.array_equal(a["image"], second[2]["image"])
    assert a["image"].shape == (64, 48, 3)
    assert first[0]["weights"][5] == 0  # right and left ankle changed places
    assert first[0]["weights"][0] == 1
    plain = Crops(people, (64, 48), (16, 12), coordinates)[1]["joints"].numpy()
    mirrored = Crops(people, (64, 48), (16, 12), coordinates, Augmentation(0, 0, 0, 0, 1))[1][
        "joints"
    ].numpy()
    last = 12 if coordinates == "legacy" else 11
    np.testing.assert_allclose(mirrored[lsp14.flip_permutation, 0], last - plain[:, 0], atol=1e-4)
