"""soft_argmax, argmax_offset, quarter_offset and flip_average against the reference and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, assert_same_soft, make_maps, stacks

from edgepose.kernels import Kernels, reference

EXAMPLES = settings(max_examples=60, deadline=None)


# --- every implementation returns what the reference returns ---------------------------------


@EXAMPLES
@given(maps=stacks(), beta=st.sampled_from([160.0, 100.0, 10.0, 1.0, 0.05, 1e-9, 1e9]))
def test_soft_argmax_equals_reference(ops: Kernels, maps: np.ndarray, beta: float) -> None:
    assert_same_soft(ops.soft_argmax(maps, beta), reference.soft_argmax(maps, beta))


@EXAMPLES
@given(maps=stacks(), refine=st.sampled_from(["quarter", "taylor", None]))
def test_argmax_offset_equals_reference(ops: Kernels, maps: np.ndarray, refine: str | None) -> None:
    coords, scores = ops.argmax_offset(maps, refine)
    expected_coords, expected_scores = reference.argmax_offset(maps, refine)
    np.testing.assert_array_equal(scores, expected_scores)
    if refine == "taylor":
        np.testing.assert_allclose(coords, expected_coords, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(coords, expected_coords)


@EXAMPLES
@given(maps=stacks(), seed=st.integers(0, 2**32 - 1))
def test_quarter_offset_equals_reference(ops: Kernels, maps: np.ndarray, seed: int) -> None:
    n, k, height, width = maps.shape
    rng = np.random.default_rng(seed)
    coords = rng.uniform(-3, [width + 3, height + 3], (n, k, 2))
    coords = np.where(rng.random((n, k, 2)) < 0.3, np.round(coords * 2) / 2, coords)
    coords[rng.random((n, k, 2)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    coords = coords.astype(np.float32)
    expected = reference.quarter_offset(maps, coords)
    np.testing.assert_array_equal(ops.quarter_offset(maps, coords), expected)


@EXAMPLES
@given(maps=stacks(), shift=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_flip_average_equals_reference(ops: Kernels, maps: np.ndarray, shift: bool, seed: int) -> None:
    flipped = maps[::-1, ::-1]
    order = np.random.default_rng(seed).permutation(maps.shape[1])
    expected = reference.flip_average(maps, flipped, order, shift)
    np.testing.assert_array_equal(ops.flip_average(maps, flipped, order, shift), expected)


@pytest.mark.parametrize("shape", [(1, 1, 256, 256), (2, 3, 5, 300), (1, 2, 300, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_large_maps_equal_reference(ops: Kernels, kind: str, shape: tuple[int, int, int, int]) -> None:
    maps = make_maps(kind, shape, 3)
    for beta in (160.0, 2.0):
        assert_same_soft(ops.soft_argmax(maps, beta), reference.soft_argmax(maps, beta))


# --- known answers ----------------------------------------------------------------------------


def one_map(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float32)[None, None]


def gaussian(x: float, y: float, sigma: float, shape: tuple[int, int] = (64, 48)) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    values = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return values.astype(np.float32)[None, None]


def test_soft_argmax_of_two_equal_pixels(ops: Kernels) -> None:
    maps = np.zeros((1, 1, 9, 11), np.float32)
    maps[0, 0, 2, 3], maps[0, 0, 6, 8] = 1, 1
    coords, scores, covariance = ops.soft_argmax(maps)
    np.testing.assert_array_equal(coords[0, 0], [5.5, 4])
    np.testing.assert_array_equal(covariance[0, 0], [[6.25, 5], [5, 4]])
    assert scores[0, 0] == maps[0, 0, 4, 6]  # 5.5 rounds to the even neighbour, 6


def test_soft_argmax_rounds_halves_to_even(ops: Kernels) -> None:
    maps = np.zeros((2, 1, 1, 8), np.float32)
    maps[0, 0, 0, 2:4] = maps[1, 0, 0, 3:5] = 1
    maps += np.arange(8, dtype=np.float32) * 1e-3
    maps[0, 0, 0, 2] = maps[0, 0, 0, 3]
    maps[1, 0, 0, 3] = maps[1, 0, 0, 4]
    coords, scores, _ = ops.soft_argmax(maps)
    np.testing.assert_array_equal(coords[:, 0, 0], [2.5, 3.5])
    np.testing.assert_array_equal(scores[:, 0], [maps[0, 0, 0, 2], maps[1, 0, 0, 4]])


def test_soft_argmax_finds_the_moments_of_a_gaussian(ops: Kernels) -> None:
    # The map is the logarithm of a Gaussian, so that the softmax is that Gaussian.
    mean, spread = np.array([23.3, 31.8]), np.array([[9.0, 2.5], [2.5, 4.0]])
    rows, columns = np.mgrid[:64, :48]
    offset = np.stack([columns, rows], axis=-1) - mean
    exponent = -0.5 * np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(spread), offset)
    for beta in (160.0, 1.0):
        coords, _, covariance = ops.soft_argmax((exponent / beta).astype(np.float32)[None, None], beta)
        np.testing.assert_allclose(coords[0, 0], mean, atol=2e-4)
        np.testing.assert_allclose(covariance[0, 0], spread, atol=2e-4)


def test_moments_are_exact_far_from_the_peak(ops: Kernels) -> None:
    maps = np.zeros((1, 1, 1500, 40), np.float32)
    maps[0, 0, 0, 0] = 1
    maps[0, 0, 1460:1490, 5:35] = 0.9999
    found, expected = ops.soft_argmax(maps), reference.soft_argmax(maps)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5)


def test_flat_maps(ops: Kernels) -> None:
    for value in (-2.0, 0.0, 0.7):
        maps = np.full((1, 2, 7, 10), value, np.float32)
        coords, scores, covariance = ops.soft_argmax(maps)
        np.testing.assert_array_equal(coords, np.broadcast_to(np.float32([4.5, 3]), (1, 2, 2)))
        np.testing.assert_allclose(covariance[0, 0], [[8.25, 0], [0, 4]], atol=1e-5)
        np.testing.assert_array_equal(scores, np.full((1, 2), value, np.float32))
        coords, scores = ops.argmax_offset(maps)
        np.testing.assert_array_equal(coords, np.zeros((1, 2, 2)))
        np.testing.assert_array_equal(scores, np.full((1, 2), value, np.float32))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (6, 1)])
def test_thin_maps(ops: Kernels, shape: tuple[int, int]) -> None:
    maps = np.full((1, 1, *shape), -0.5, np.float32)
    maps[0, 0, -1, -1] = 1
    corner = [shape[1] - 1, shape[0] - 1]
    coords, scores, covariance = ops.soft_argmax(maps)
    np.testing.assert_array_equal(coords[0, 0], corner)
    assert scores[0, 0] == 1
    np.testing.assert_allclose(covariance, 0, atol=1e-30)
    for refine in ("quarter", "taylor", None):
        np.testing.assert_array_equal(ops.argmax_offset(maps, refine)[0][0, 0], corner)
    np.testing.assert_array_equal(ops.flip_average(maps, maps[..., ::-1], [], False), maps)


def test_ties_take_the_first_pixel(ops: Kernels) -> None:
    maps = one_map([[0, 0.5, 0.5], [0.5, 0, 0.5]])
    np.testing.assert_array_equal(ops.argmax_offset(maps, None)[0][0, 0], [1, 0])


@pytest.mark.parametrize("values", [[-1.0, -0.5, -2.0], [0.0, -1.0, 0.0], [-3.0, -3.0, -3.0]])
def test_argmax_of_maps_without_a_positive_peak_is_the_origin(ops: Kernels, values: list[float]) -> None:
    for refine in ("quarter", "taylor", None):
        coords, scores = ops.argmax_offset(one_map([values] * 6), refine)
        np.testing.assert_array_equal(coords[0, 0], [0, 0])
        assert scores[0, 0] == max(values)


def test_nan_and_negative_infinity_take_no_part(ops: Kernels) -> None:
    clean = make_maps("peaked", (1, 4, 20, 30), 5)
    weak = clean < 0.05
    for hole in (np.nan, -np.inf):
        maps = np.where(weak, np.float32(hole), clean)
        low = np.where(weak, np.float32(-1e4), clean)
        for found, expected in zip(ops.soft_argmax(maps), ops.soft_argmax(low), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
        for refine in (None, "quarter"):
            found_coords, found_scores = ops.argmax_offset(maps, refine)
            coords, scores = ops.argmax_offset(low, refine)
            np.testing.assert_array_equal(found_coords, coords)
            np.testing.assert_array_equal(found_scores, scores)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_unusable_maps_give_nan_and_leave_the_others_alone(ops: Kernels, value: float) -> None:
    maps = np.concatenate([np.full((1, 1, 6, 7), value, np.float32), gaussian(3, 2, 1.0, (6, 7))], axis=1)
    for results in (ops.soft_argmax(maps), ops.argmax_offset(maps), ops.argmax_offset(maps, "taylor")):
        for result in results:
            assert np.isnan(result[0, 0]).all()
            assert np.isfinite(result[0, 1]).all()


def test_the_first_positive_infinity_is_the_peak(ops: Kernels) -> None:
    maps = make_maps("noise", (1, 1, 9, 20), 1)
    maps[0, 0, 4, 13] = maps[0, 0, 6, 2] = np.inf
    maps[0, 0, 0, 0] = np.nan
    coords, scores, covariance = ops.soft_argmax(maps)
    np.testing.assert_array_equal(coords[0, 0], [13, 4])
    assert scores[0, 0] == np.inf
    np.testing.assert_array_equal(covariance, np.zeros((1, 1, 2, 2)))
    for refine in (None, "taylor"):
        coords, scores = ops.argmax_offset(maps, refine)
        np.testing.assert_array_equal(coords[0, 0], [13, 4])
        assert scores[0, 0] == np.inf


def test_quarter_step_keeps_away_from_the_border(ops: Kernels) -> None:
    # index 1 is excluded and the last but one included, along either axis
    width, height = 9, 8
    rising = np.arange(width, dtype=np.float32) + 10 * np.arange(height, dtype=np.float32)[:, None]
    maps = np.repeat(rising[None, None], width * height, axis=0)
    points = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    moved = ops.quarter_offset(maps, points.reshape(-1, 1, 2)).reshape(height, width, 2) - points
    inside = np.zeros((height, width, 1), bool)
    inside[2 : height - 1, 2 : width - 1] = True
    np.testing.assert_array_equal(moved, np.where(inside, 0.25, 0) * np.ones(2))


def test_quarter_step_follows_the_larger_neighbour(ops: Kernels) -> None:
    maps = np.zeros((1, 1, 6, 6), np.float32)
    maps[0, 0, 3, 3] = 1
    maps[0, 0, 3, 2], maps[0, 0, 4, 3] = 0.2, 0.1
    np.testing.assert_array_equal(ops.argmax_offset(maps)[0][0, 0], [2.75, 3.25])
    maps[0, 0, 3, 2] = np.nan  # as low as can be: the step goes the other way
    np.testing.assert_array_equal(ops.argmax_offset(maps)[0][0, 0], [3.25, 3.25])


@pytest.mark.parametrize("at", [(20.3, 30.4), (20.0, 30.0), (19.51, 30.49), (2.2, 2.4), (45.1, 60.8)])
@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0])
def test_taylor_is_exact_for_a_gaussian(ops: Kernels, at: tuple[float, float], sigma: float) -> None:
    coords, _ = ops.argmax_offset(gaussian(*at, sigma), "taylor")
    np.testing.assert_allclose(coords[0, 0], at, atol=2e-4)


def test_taylor_makes_no_step_it_cannot_trust(ops: Kernels) -> None:
    for x, y in ((1.3, 30.0), (20.2, 1.4), (46.3, 30.0), (20.0, 62.4)):  # too near to the border
        np.testing.assert_array_equal(
            ops.argmax_offset(gaussian(x, y, 2.0), "taylor")[0][0, 0], np.rint([x, y])
        )
    saddle = np.full((1, 1, 7, 7), 1.0, np.float32)
    saddle[0, 0, 3, 3] = 1.5
    saddle[0, 0, 1, 3] = saddle[0, 0, 5, 3] = 1.4999999
    np.testing.assert_array_equal(ops.argmax_offset(saddle, "taylor")[0][0, 0], [3, 3])


@pytest.mark.parametrize(("correlation", "steps"), [(0.999, True), (0.99999, False)])
def test_taylor_needs_a_peak_and_not_a_ridge(ops: Kernels, correlation: float, steps: bool) -> None:
    y, x = np.mgrid[-4:5, -4:5] + 0.05
    values = np.exp(-0.05 * (x * x + y * y - 2 * correlation * x * y))
    coords, _ = ops.argmax_offset(values.astype(np.float32)[None, None], "taylor")
    if steps:
        np.testing.assert_allclose(coords[0, 0], [3.95, 3.95], atol=1e-3)
    else:
        np.testing.assert_array_equal(coords[0, 0], [4, 4])


def test_taylor_step_is_clipped(ops: Kernels) -> None:
    maps = np.full((1, 1, 9, 9), 0.5, np.float32)
    maps[0, 0, 4, 4], maps[0, 0, 4, 5], maps[0, 0, 4, 3] = 1, 0.999, 1e-6
    maps[0, 0, 4, 6] = maps[0, 0, 4, 2] = 0.9
    np.testing.assert_array_equal(ops.argmax_offset(maps, "taylor")[0][0, 0], [5, 4])


def test_flip_average_by_hand(ops: Kernels) -> None:
    maps = np.zeros((1, 3, 1, 4), np.float32)
    flipped = np.float32([[[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9, 10, 11, 12]]]])
    plain = ops.flip_average(maps, flipped, [(1, 2)], False)
    np.testing.assert_array_equal(plain[0, :, 0] * 2, [[4, 3, 2, 1], [12, 11, 10, 9], [8, 7, 6, 5]])
    shifted = ops.flip_average(maps, flipped, [(1, 2)], True)
    np.testing.assert_array_equal(shifted[0, :, 0] * 2, [[4, 4, 3, 2], [12, 12, 11, 10], [8, 8, 7, 6]])
    for pairs in (np.array([[1, 2]]), [0, 2, 1], np.array([0, 2, 1], np.int32)):
        np.testing.assert_array_equal(ops.flip_average(maps, flipped, pairs, True), shifted)


@EXAMPLES
@given(maps=stacks(), seed=st.integers(0, 99))
def test_flip_average_of_a_mirrored_map_is_the_map(ops: Kernels, maps: np.ndarray, seed: int) -> None:
    k = maps.shape[1]
    joints = np.random.default_rng(seed).permutation(k)
    pairs = joints[: k // 2 * 2].reshape(-1, 2)
    order = np.arange(k)
    order[pairs[:, 0]], order[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    with np.errstate(over="ignore"):
        result = ops.flip_average(maps, maps[:, order, :, ::-1], pairs, False)
        doubled = maps.astype(np.float32) * 2 * np.float32(0.5)  # huge values overflow in the sum
    np.testing.assert_array_equal(result, doubled)


# --- relations that hold whatever the map -----------------------------------------------------


@EXAMPLES
@given(seed=st.integers(0, 2**32 - 1), beta=st.sampled_from([160.0, 5.0]))
def test_soft_argmax_mirrors_with_the_map(ops: Kernels, seed: int, beta: float) -> None:
    maps = make_maps("peaked", (1, 2, 23, 37), seed)
    coords, _, covariance = ops.soft_argmax(maps, beta)
    mirrored_coords, _, mirrored = ops.soft_argmax(maps[..., ::-1], beta)
    np.testing.assert_allclose(mirrored_coords[..., 0], 36 - coords[..., 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mirrored_coords[..., 1], coords[..., 1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mirrored[..., 0, 1], -covariance[..., 0, 1], rtol=1e-4, atol=1e-4)
    assert (np.linalg.eigvalsh(covariance.astype(np.float64)) >= -1e-4).all()


@EXAMPLES
@given(seed=st.integers(0, 2**32 - 1), refine=st.sampled_from(["quarter", "taylor"]))
def test_refined_peaks_stay_within_a_pixel(ops: Kernels, seed: int, refine: str) -> None:
    maps = make_maps("noise", (1, 3, 15, 18), seed)
    coarse, scores = ops.argmax_offset(maps, None)
    fine, same = ops.argmax_offset(maps, refine)
    assert np.abs(fine - coarse).max() <= 1
    np.testing.assert_array_equal(scores, same)
    np.testing.assert_array_equal(scores, maps.max(axis=(2, 3)))


def test_half_precision_is_near_to_single(ops: Kernels) -> None:
    maps = make_maps("peaked", (2, 5, 64, 48), 8)
    half = maps.astype(np.float16)
    np.testing.assert_allclose(ops.soft_argmax(half)[0], ops.soft_argmax(maps)[0], rtol=2e-3, atol=0.1)
    exact = ops.soft_argmax(half.astype(np.float32))
    for found, expected in zip(ops.soft_argmax(half), exact, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ops.flip_average(half, half, [], True).dtype == np.float32
    tiny = np.arange(0, 64, dtype=np.uint16).view(np.float16).reshape(1, 1, 8, 8)  # subnormal numbers
    np.testing.assert_array_equal(ops.flip_average(tiny, tiny[..., ::-1], [], False), tiny.astype(np.float32))
