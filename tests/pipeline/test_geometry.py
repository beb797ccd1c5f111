"""Boxes, crops and the two coordinate conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose.pipeline.geometry import apply_affine, box_to_region, crop_affine, picture_box

coordinate = st.floats(-2000, 2000, width=32)
length = st.floats(1, 3000, width=32)


def test_boxes_grow_to_the_aspect_of_the_input_and_then_by_the_padding() -> None:
    centers, extents = box_to_region(np.array([[0, 0, 30, 100], [0, 0, 90, 100.0]]), (256, 192), 1.25)
    assert centers.tolist() == [[15, 50], [45, 50]]
    assert extents.tolist() == [[93.75, 125], [112.5, 150]]
    assert centers.dtype == extents.dtype == np.float32


def test_no_boxes() -> None:
    centers, extents = box_to_region(np.zeros((0, 4)), (256, 192), 1.25)
    assert centers.shape == extents.shape == (0, 2)
    assert crop_affine(centers, extents, (64, 48), "udp").shape == (0, 2, 3)


def test_the_picture_spans_its_outermost_pixel_centres() -> None:
    box = picture_box(64, 48)
    assert box.tolist() == [0, 0, 47, 63]
    centers, extents = box_to_region(box, (64, 48), 1.0)
    corners = apply_affine(crop_affine(centers, extents, (64, 48), "udp"), np.array([[[0, 0], [47, 63]]]))
    np.testing.assert_allclose(corners, [[[-0.125, 0], [47.125, 63]]], atol=1e-5)


@given(coordinate, coordinate, length, length)
def test_udp_maps_the_outermost_centres_to_the_region(x: float, y: float, w: float, h: float) -> None:
    matrices = crop_affine(np.array([[x, y]]), np.array([[w, h]]), (64, 48), "udp")
    corners = apply_affine(matrices, np.array([[[0, 0], [47, 63], [23.5, 31.5]]]))[0]
    expected = [[x - w / 2, y - h / 2], [x + w / 2, y + h / 2], [x, y]]
    np.testing.assert_allclose(corners, expected, atol=1e-6)


@given(coordinate, coordinate, length)
def test_legacy_is_the_official_three_point_transform(x: float, y: float, w: float) -> None:
    """Source: `get_affine_transform` of the common top-down code, without rotation: the centre goes to
    half the output size, and the point half a width above it to half an output width above that."""
    h = w * 64 / 48
    matrices = crop_affine(np.array([[x, y]]), np.array([[w, h]]), (64, 48), "legacy")
    points = apply_affine(matrices, np.array([[[24, 32], [24, 32 - 24], [0, 32]]]))[0]
    np.testing.assert_allclose(points, [[x, y], [x, y - w / 2], [x - w / 2, y]], atol=1e-6)


@given(coordinate, coordinate, length, length, st.sampled_from(["udp", "legacy"]))
def test_crop_and_heatmap_agree(x: float, y: float, w: float, h: float, coordinates: Any) -> None:
    """A heatmap pixel lies where the crop's grid has it: at a quarter of the crop's coordinates for
    legacy, and in proportion between the outermost pixel centres for udp."""
    region = np.array([[x, y]]), np.array([[w, h]])
    crop, heat = (crop_affine(*region, size, coordinates) for size in ((256, 192), (64, 48)))
    points = np.array([[[3.0, 5.0], [40, 60]]])
    factor = [4, 4] if coordinates == "legacy" else [191 / 47, 255 / 63]
    np.testing.assert_allclose(apply_affine(heat, points), apply_affine(crop, points * factor), atol=1e-6)


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_a_single_pixel_grid_has_finite_maps(coordinates: Any) -> None:
    matrices = crop_affine(np.array([[5.0, 7]]), np.array([[4.0, 4]]), (1, 1), coordinates)
    assert np.isfinite(matrices).all()
