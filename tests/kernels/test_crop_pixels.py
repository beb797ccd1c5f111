"""crop_pixels: the same bytes from every implementation, those of crop_normalize rounded, within a level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import affines, picture

from edgepose.kernels import Kernels, reference

PLAIN = ((0.0, 0.0, 0.0), (1 / 255,) * 3)  # leaves grey levels as they are
IDENTITY = np.array([[[1.0, 0, 0], [0, 1, 0]]])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equals_reference(ops: Kernels, data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 70)))
    affine = data.draw(affines(data.draw(st.integers(0, 3))))
    if data.draw(st.booleans()):  # to the edges between the steps that positions are rounded to
        affine = np.rint(affine * 512) / 512
    rgb = data.draw(st.booleans())
    image = picture(height, width, data.draw(st.integers(0, 9)))
    np.testing.assert_array_equal(
        ops.crop_pixels(image, affine, size, rgb), reference.crop_pixels(image, affine, size, rgb)
    )


@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_wide_crops_equal_reference(ops: Kernels, turn: float) -> None:
    image = picture(300, 500)  # wider than one tile of columns
    cos, sin = 0.8 * np.cos(turn), 0.8 * np.sin(turn)
    affine = np.array([[[cos, -sin, 10], [sin, cos, -20]], [[cos, sin, -30], [-sin, cos, 50.5]]])
    for rgb in (False, True):
        args = (affine, (90, 600), rgb)
        np.testing.assert_array_equal(ops.crop_pixels(image, *args), reference.crop_pixels(image, *args))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_within_a_level_of_crop_normalize(data: st.DataObject) -> None:
    """On noise of full contrast, of which a step between positions moves a level the most."""
    image = (
        data.draw(st.sampled_from([0, 1])) * 255 - picture(30, 40, data.draw(st.integers(0, 99))) // 128 * 255
    )
    image = image.astype(np.uint8)
    affine = data.draw(affines(1))
    rgb = data.draw(st.booleans())
    found = reference.crop_pixels(image, affine, (25, 35), rgb).astype(int)
    exact = reference.crop_normalize(image, affine, (25, 35), *PLAIN, rgb)[0].transpose(1, 2, 0)
    assert np.abs(found[0] - np.rint(exact)).max(initial=0) <= 1
    assert np.abs(found[0] - exact).max(initial=0) <= 1.5


def test_within_a_level_at_every_position() -> None:
    """Between all corners that matter, at positions that lie farthest from those that are kept."""
    affine = np.zeros((9, 2, 3))
    affine[:, 0, 0] = affine[:, 1, 1] = 1 / 256
    affine[:, :, 2] = list(itertools.product((-0.4999 / 256, 0, 0.4999 / 256), repeat=2))
    for corners in itertools.product((0, 255), repeat=4):
        image = np.repeat(np.array(corners, np.uint8).reshape(2, 2, 1), 3, axis=2)
        found = reference.crop_pixels(image, affine, (257, 257), False)[..., 0].astype(int)
        exact = reference.crop_normalize(image, affine, (257, 257), *PLAIN, False)[:, 0]
        assert np.abs(found - np.rint(exact)).max() <= 1


def test_identity_copies_the_image(ops: Kernels) -> None:
    image = picture(40, 53)
    np.testing.assert_array_equal(ops.crop_pixels(image, IDENTITY, (40, 53), False)[0], image)
    np.testing.assert_array_equal(ops.crop_pixels(image, IDENTITY, (40, 53), True)[0], image[..., ::-1])


def test_halves_are_rounded_up_and_the_border_is_black(ops: Kernels) -> None:
    image = np.array([[[0, 1, 200], [1, 2, 201]]], np.uint8)
    quarters = np.array([[[0.25, 0, -1], [0, 1, 0]]])
    found = ops.crop_pixels(image, quarters, (1, 13), False)[0, 0]
    np.testing.assert_array_equal(found[:, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(found[:5, 2], [0, 50, 100, 150, 200])
    np.testing.assert_array_equal(found[-5:, 2], [201, 151, 101, 50, 0])
    outside = np.array([[[1.0, 0, 50], [0, 1, 50]]])
    assert not ops.crop_pixels(image, outside, (3, 40), True).any()


def test_nothing_beyond_out_is_written(ops: Kernels) -> None:
    """Vectors of pixels of three bytes end where the crop does."""
    image = picture(30, 90)
    turned = np.array([[[0.9, 0.1, 1], [0.05, 0.9, 1]]])
    for width, affine in itertools.product((*range(1, 40), 64), (IDENTITY, turned)):
        memory = np.full(2 * width * 3 + 80, 77, np.uint8)
        out = memory[40:-40].reshape(1, 2, width, 3)
        assert ops.crop_pixels(image, affine, (2, width), False, out=out) is out
        np.testing.assert_array_equal(out, reference.crop_pixels(image, affine, (2, width), False))
        assert (memory[:40] == 77).all()
        assert (memory[-40:] == 77).all()


def test_views_of_images(ops: Kernels) -> None:
    big = picture(60, 80)
    affine = np.array([[[0.9, 0, 2], [0, 1.1, -3]], [[0.9, 0.2, 2], [-0.1, 1.1, 5]]])
    args = (affine, (21, 33), True)
    for view in (big[7:40, 11:50], big[::2], big[::-1], big[:, ::-1], big[..., ::-1], big.transpose(1, 0, 2)):
        expected = reference.crop_pixels(np.ascontiguousarray(view), *args)
        np.testing.assert_array_equal(ops.crop_pixels(view, *args), expected)


def test_the_least_turn_counts(ops: Kernels) -> None:
    """Positions at the edge between two steps, which a drift of a millionth of a pixel decides."""
    affine = np.array([[[1.0, 1e-13, 1 / 512 - 4e-13], [-1e-13, 1.0, 1 / 512 + 4e-13]]])
    image = picture(30, 40) // 128 * 255
    np.testing.assert_array_equal(
        ops.crop_pixels(image, affine, (20, 33), False), reference.crop_pixels(image, affine, (20, 33), False)
    )
