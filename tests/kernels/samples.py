"""Maps and crops of every kind that matters, and the comparison with the reference."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

KINDS = (
    "noise",
    "peaked",
    "ties",
    "flat",
    "negative",
    "broad",
    "holes",
    "infinite",
    "unusable",
    "huge",
    "decoy",
)


def make_maps(kind: str, shape: tuple[int, int, int, int], seed: int) -> NDArray[np.float32]:
    """Maps (n, k, h, w) of one kind, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    n, k, height, width = shape
    noise = rng.standard_normal(shape)
    y, x = np.mgrid[:height, :width]
    center_y = rng.uniform(-1, height, (n, k, 1, 1))
    center_x = rng.uniform(-1, width, (n, k, 1, 1))
    distance = (x - center_x) ** 2 + (y - center_y) ** 2
    peaked = np.exp(-distance / 8) * rng.uniform(0.3, 1, (n, k, 1, 1))
    broad = np.exp(-distance / 2000)
    spots = rng.random(shape)
    values = {
        "noise": lambda: noise,
        "peaked": lambda: peaked + 0.01 * noise,
        "ties": lambda: rng.integers(0, 4, shape) / 4,
        "flat": lambda: np.broadcast_to(rng.choice([-1.0, 0.0, 0.5], (n, k, 1, 1)), shape),
        "negative": lambda: -np.abs(noise) - 0.01,
        "broad": lambda: 0.2 * broad,
        "holes": lambda: np.where(spots < 0.3, np.nan, np.where(spots < 0.5, -np.inf, peaked)),
        "infinite": lambda: np.where(spots < 0.05, np.inf, np.where(spots < 0.2, np.nan, noise)),
        "unusable": lambda: np.where(spots < 0.5, np.nan, -np.inf),
        "huge": lambda: noise * 1e30,
        # the peak, a single pixel, lies far from nearly all of the weight
        "decoy": lambda: np.where(distance == distance.max(axis=(2, 3), keepdims=True), 1.001, broad),
    }[kind]()
    return np.array(values, np.float32)


def stacks() -> st.SearchStrategy[NDArray[np.float32] | NDArray[np.float16]]:
    """Any kind of maps, of any small shape, in either precision."""

    def build(kind: str, shape: tuple[int, int, int, int], seed: int, half: bool) -> NDArray:
        with np.errstate(over="ignore"):
            return make_maps(kind, shape, seed).astype(np.float16 if half else np.float32)

    sides = st.integers(1, 40) | st.sampled_from([15, 16, 17, 31, 33, 48, 64, 70])
    shapes = st.tuples(st.integers(0, 2), st.integers(0, 3), sides, sides)
    return st.builds(build, st.sampled_from(KINDS), shapes, st.integers(0, 2**32 - 1), st.booleans())


def assert_same_soft(found: tuple, expected: tuple) -> None:
    """Two results of soft_argmax agree as the contract says."""
    coords, scores, covariance = found
    np.testing.assert_allclose(coords, expected[0], rtol=1e-5, atol=1e-5)
    size = np.sqrt(np.diagonal(expected[2], axis1=-2, axis2=-1).prod(axis=-1))[..., None, None]
    tolerance = np.maximum(1e-5, 1e-5 * np.maximum(size, np.abs(expected[2])))
    np.testing.assert_array_equal(np.isnan(covariance), np.isnan(expected[2]))
    assert not (np.abs(covariance - expected[2]) > tolerance).any()
    # Where the coordinate lies on the very edge between two pixels, either score is right.
    to_edge = np.abs(np.abs(expected[0] - np.floor(expected[0]) - 0.5) - 2.0**-15)
    clear = ~(to_edge < 2e-5).any(axis=-1)
    np.testing.assert_array_equal(scores[clear], expected[1][clear])


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, (height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def affines(draw: st.DrawFn, count: int) -> np.ndarray:
    """Upright, mirrored, rotated and sheared maps, some of them far outside the image."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["upright", "mirrored", "general", "quarter turn", "whole pixels", "wild"]))
    scale = np.exp(rng.uniform(-2, 2, (count, 2)))
    result = np.zeros((count, 2, 3))
    result[:, 0, 0], result[:, 1, 1] = scale.T
    result[:, :, 2] = rng.uniform(-40, 60, (count, 2))
    if kind == "mirrored":
        result[:, :, :2] *= rng.choice([-1, 1], (count, 2, 1))
    elif kind == "general":
        result[:, :, :2] = rng.uniform(-2, 2, (count, 2, 2))
    elif kind == "quarter turn":
        result[:, :, :2] = result[:, :, 1::-1] * rng.choice([-1, 1], (count, 2, 1))
    elif kind == "whole pixels":
        result[:, :, :2] = np.eye(2) * rng.choice([-1, 1, 2], (count, 1, 1))
        result[:, :, 2] = np.round(result[:, :, 2])
    elif kind == "wild":
        result = rng.choice([0, 1e-12, 1, -1e9, 1e9, 0.5, 300], (count, 2, 3))
    return result
