"""crop_normalize against the reference, OpenCV and known answers."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import affines, picture

from edgepose.kernels import Kernels, reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = ((0.0, 0.0, 0.0), (1 / 255,) * 3)  # leaves grey levels as they are


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=4e-6)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_equals_reference(ops: Kernels, data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 70)))
    affine = data.draw(affines(data.draw(st.integers(0, 3))))
    fill = data.draw(st.sampled_from([0, 127.5, (10, 20.5, 255), np.array([1, 2, 3])]))
    args = (affine, size, MEAN, STD, data.draw(st.booleans()), fill)
    image = picture(height, width)
    assert_same(ops.crop_normalize(image, *args), reference.crop_normalize(image, *args))


@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_wide_crops_equal_reference(ops: Kernels, turn: float) -> None:
    image = picture(300, 500)  # wider than one tile of columns
    cos, sin = 0.8 * np.cos(turn), 0.8 * np.sin(turn)
    affine = np.array([[[cos, -sin, 10], [sin, cos, -20]], [[cos, sin, -30], [-sin, cos, 50.5]]])
    args = (affine, (90, 600), MEAN, STD, True, 30)
    assert_same(ops.crop_normalize(image, *args), reference.crop_normalize(image, *args))


def test_identity_copies_the_image(ops: Kernels) -> None:
    image = picture(40, 53)
    identity = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    out = ops.crop_normalize(image, identity, (40, 53), *PLAIN, False)
    np.testing.assert_allclose(out[0], image.transpose(2, 0, 1), atol=2e-5)
    out = ops.crop_normalize(image, identity, (40, 53), *PLAIN, True)
    np.testing.assert_allclose(out[0], image[..., ::-1].transpose(2, 0, 1), atol=2e-5)


def test_mean_and_std_go_by_channel_of_the_result(ops: Kernels) -> None:
    image = np.empty((2, 2, 3), np.uint8)
    image[...] = (51, 102, 153)
    middle = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    for swap, levels in ((False, (0.2, 0.4, 0.6)), (True, (0.6, 0.4, 0.2))):
        out = ops.crop_normalize(image, middle, (1, 1), MEAN, STD, swap)
        np.testing.assert_allclose(out[0, :, 0, 0], (np.array(levels) - MEAN) / STD, rtol=1e-5)


def test_border_takes_part_in_the_interpolation(ops: Kernels) -> None:
    image = np.full((1, 1, 3), 200, np.uint8)
    quarter = np.array([[[0.25, 0, -1], [0, 1, 0]]])  # samples x = -1, -0.75, ... 1
    out = ops.crop_normalize(image, quarter, (1, 9), *PLAIN, False, (0, 100, 200))
    share = np.array([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])
    for channel, fill in enumerate((0, 100, 200)):
        np.testing.assert_allclose(out[0, channel, 0], fill + (200 - fill) * share, atol=1e-4)


def test_fill_goes_by_channel_of_the_image(ops: Kernels) -> None:
    outside = np.array([[[1.0, 0, 50], [0, 1, 50]]])
    out = ops.crop_normalize(picture(4, 4), outside, (2, 2), *PLAIN, True, (1, 2, 3))
    np.testing.assert_allclose(out[0, :, 1, 1], [3, 2, 1], rtol=1e-6)


def test_views_of_images(ops: Kernels) -> None:
    big = picture(60, 80)
    affine = np.array([[[0.9, 0, 2], [0, 1.1, -3]], [[0.9, 0.2, 2], [-0.1, 1.1, 5]]])
    args = (affine, (21, 33), MEAN, STD, True, 5)
    views = (big[7:40, 11:50], big[::2], big[::-1], big[:, ::-1], big[..., ::-1], big.transpose(1, 0, 2))
    for view in (*views, np.lib.stride_tricks.as_strided(big, (9, 9, 3), (0, 3, 1))):
        expected = reference.crop_normalize(np.ascontiguousarray(view), *args)
        assert_same(ops.crop_normalize(view, *args), expected)
    big.setflags(write=False)
    assert_same(ops.crop_normalize(big, *args), reference.crop_normalize(big, *args))


def test_no_byte_beyond_the_image_is_read(ops: Kernels) -> None:
    # The image ends where its memory does: the next page cannot be read.
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    try:
        import ctypes

        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if protect(start + page, page, 0) != 0:
            pytest.skip("this system cannot protect a page")
        height, width = 20, 30
        image = np.frombuffer(memory, np.uint8, height * width * 3, page - height * width * 3)
        image = image.reshape(height, width, 3)
        identity = np.array([[[1.0, 0, 0], [0, 1, 0]], [[0.99, 1e-3, 0.1], [-1e-3, 0.999, 0.1]]])
        args = (identity, (height, width), MEAN, STD, False)
        assert_same(ops.crop_normalize(image, *args), reference.crop_normalize(image.copy(), *args))
        protect(start + page, page, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        del image
        # the mapping closes with the last view of it


def test_rows_too_far_apart_for_short_offsets(ops: Kernels) -> None:
    try:
        memory = np.zeros((2 << 30) + (1 << 20), np.uint8)  # untouched pages cost nothing
    except MemoryError:
        pytest.skip("no address space for a picture of 2 GiB")
    image = np.lib.stride_tricks.as_strided(memory, (3, 40, 3), (1 << 30, 3, 1))
    image[...] = picture(3, 40)
    affine = np.array([[[0.9, 0.05, 1], [0.02, 0.06, 0]], [[1.0, 0, 0], [0, 0.1, 0]]])
    args = (affine, (20, 36), MEAN, STD, False)
    expected = reference.crop_normalize(np.ascontiguousarray(image), *args)
    assert_same(ops.crop_normalize(image, *args), expected)


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_agrees_with_opencv(ops: Kernels, turn: float) -> None:
    cv2 = pytest.importorskip("cv2")
    y, x = np.mgrid[:120, :160]
    smooth = 127 + 80 * np.sin(x / 17) * np.cos(y / 23)
    image = np.stack([smooth, smooth[::-1], 255 - smooth], axis=2).astype(np.uint8)
    cos, sin = 1.3 * np.cos(turn), 1.3 * np.sin(turn)
    matrix = np.array([[cos, -sin, -8.3], [sin, cos, -5.7]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image, matrix, (96, 80), flags=flags, borderValue=(9, 99, 199))
    found = ops.crop_normalize(image, matrix[None], (80, 96), *PLAIN, False, (9, 99, 199))[0]
    assert np.abs(found.transpose(1, 2, 0) - expected).max() < 4.5  # OpenCV 4 samples at 1/32 px
