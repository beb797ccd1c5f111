"""Arguments: what is taken, what is refused and in which words, and results written into out=."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from samples import assert_same_soft, make_maps

from edgepose.errors import InvalidInputError
from edgepose.kernels import Kernels, reference

MAPS = make_maps("peaked", (2, 3, 9, 11), 0)
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
AFFINE = np.array([[[1.5, 0, 2], [0, 1.2, -3]], [[1.0, 0.2, 2], [-0.3, 1.0, 3]]])
CROP: dict[str, Any] = {
    "image": IMAGE,
    "affine": AFFINE,
    "size": (7, 5),
    "mean": (0.4, 0.5, 0.6),
    "std": [0.2, 0.2, 0.3],
    "swap_rb": True,
}


PIXELS = {name: CROP[name] for name in ("image", "affine", "size")} | {"rgb": True}


def floats(*shape: int) -> np.ndarray:
    return np.full(shape, 7, np.float32)


def with_entry(value: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 0, 2] = value
    return affine


BAD_MAPS = [
    None, 3, "maps", MAPS.tolist(), MAPS.astype(np.float64), MAPS.astype(np.int32), MAPS.astype(">f4"),
    MAPS.astype(complex), MAPS.astype(object), MAPS[0], MAPS[None], floats(), floats(2, 3, 0, 4),
    floats(2, 3, 4, 0), MAPS.astype("f4,f4"),
]  # fmt: skip
BAD_IMAGES = [
    None, IMAGE.tolist(), IMAGE.astype(np.int8), IMAGE.astype(np.float32), IMAGE[..., 0], IMAGE[..., :2],
    IMAGE[None], IMAGE[:0], IMAGE[:, :0], np.zeros((5, 5, 4), np.uint8),
]  # fmt: skip
BAD_AFFINES = [
    None, AFFINE.tolist(), AFFINE.astype(np.float32), AFFINE[0], AFFINE[:, :, :2], AFFINE.transpose(0, 2, 1),
    with_entry(np.nan), with_entry(np.inf), with_entry(-1e10),
]  # fmt: skip
BAD_SIZES = [
    None,
    5,
    (5,),
    (5, 5, 5),
    (0, 5),
    (5, -1),
    (5.0, 5),
    ("a", "b"),
    (True, 5),
    (5, 1 << 40),
    (5, 1 << 70),
]
BAD_TRIPLES = [
    None,
    0.5,
    "abc",
    (1, 2),
    (1, 2, 3, 4),
    (1, 2, np.nan),
    (1, np.inf, 2),
    (1, None, 2),
    [[1, 2, 3]],
]
BAD_PAIRS = [
    None,
    1,
    "ab",
    [(0, 3)],
    [(-1, 0)],
    [(0, 1), (1, 2)],
    [(0, 0)],
    [0, 1],
    [0, 0, 1],
    [(0.0, 1.0)],
    [(0, 1, 2)],
]
BAD_OUTS = [3, floats(2, 3), floats(2, 3, 2).astype(np.float64), floats(2, 2, 3).transpose(0, 2, 1)]


def refused(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Call; expect the error of our own that names the argument, and return its text."""
    with pytest.raises(InvalidInputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"argument '{name}' is not usable; found "), message
    assert "; give " in message
    return message


def test_maps_are_checked(ops: Kernels) -> None:
    coords = floats(2, 3, 2)
    for bad in BAD_MAPS:
        refused("heatmaps", ops.soft_argmax, bad)
        refused("heatmaps", ops.argmax_offset, bad)
        refused("heatmaps", ops.quarter_offset, bad, coords)
        refused("heatmaps", ops.flip_average, bad, MAPS, [], True)
        refused("flipped", ops.flip_average, MAPS, bad, [], True)
    refused("flipped", ops.flip_average, MAPS, MAPS[:1], [], True)
    refused("flipped", ops.flip_average, MAPS, MAPS.astype(np.float16), [], True)


def test_crop_arguments_are_checked(ops: Kernels) -> None:
    bad: dict[str, list[Any]] = {
        "image": BAD_IMAGES,
        "affine": BAD_AFFINES,
        "size": BAD_SIZES,
        "mean": BAD_TRIPLES,
        "std": [*BAD_TRIPLES, (0.2, 0, 0.2), (0.2, 0.2, -1)],
        "swap_rb": [None, 1, "yes"],
        "fill": [value for value in BAD_TRIPLES if value != 0.5] + [np.nan],
        "out": [
            3, floats(2, 3, 7, 6), floats(2, 3, 7, 5).astype(np.float64),
            floats(2, 7, 5, 3).transpose(0, 3, 1, 2),
        ],
    }  # fmt: skip
    for name, values in bad.items():
        for value in values:
            refused(name, ops.crop_normalize, **{**CROP, name: value})
    outs = [3, floats(2, 7, 5, 3), np.zeros((2, 7, 6, 3), np.uint8), np.zeros((2, 3, 7, 5), np.uint8)]
    outs.append(np.zeros((2, 7, 3, 5), np.uint8).transpose(0, 1, 3, 2))
    shared = {name: bad[name] for name in ("image", "affine", "size")}
    for name, values in {**shared, "rgb": bad["swap_rb"], "out": outs}.items():
        for value in values:
            refused(name, ops.crop_pixels, **{**PIXELS, name: value})


def test_map_options_are_checked(ops: Kernels) -> None:
    for beta in (None, "a", 0, -1.0, np.nan, np.inf, 1e10, 1e-10, [1], 10**400):
        refused("beta", ops.soft_argmax, MAPS, beta)
    for refine in ("dark", "", 1, True, b"quarter"):
        refused("refine", ops.argmax_offset, MAPS, refine)
    for pairs in BAD_PAIRS:
        refused("flip_pairs", ops.flip_average, MAPS, MAPS, pairs, True)
    for shift in (None, 1, "no"):
        refused("shift", ops.flip_average, MAPS, MAPS, [], shift)
    for coords in (None, [[0, 0]], floats(2, 3), floats(2, 2, 2), floats(2, 3, 2).astype(np.float64)):
        refused("coords", ops.quarter_offset, MAPS, coords)


def test_numpy_scalars_are_numbers(ops: Kernels) -> None:
    expected = ops.crop_normalize(**CROP)
    options = {
        "size": np.array([7, 5]),
        "mean": np.array(CROP["mean"]),
        "std": np.array(CROP["std"]),
        "swap_rb": np.True_,
        "fill": np.float32(0),
    }
    np.testing.assert_array_equal(ops.crop_normalize(**{**CROP, **options}), expected)
    options = {"size": np.array([7, 5]), "rgb": np.True_}
    np.testing.assert_array_equal(ops.crop_pixels(**{**PIXELS, **options}), ops.crop_pixels(**PIXELS))
    for found, same in zip(ops.soft_argmax(MAPS, np.float32(160)), ops.soft_argmax(MAPS, 160), strict=True):
        np.testing.assert_array_equal(found, same)
    np.testing.assert_array_equal(
        ops.flip_average(MAPS, MAPS, np.array([[0, 1]], np.uint8), np.bool_(True)),
        ops.flip_average(MAPS, MAPS, ((0, 1),), True),
    )


def test_the_message_says_what_was_found(ops: Kernels) -> None:
    assert "float64 array of shape (2, 3, 9, 11)" in refused(
        "heatmaps", ops.soft_argmax, MAPS.astype(np.float64)
    )
    assert "found tuple (0, 5)" in refused("size", ops.crop_normalize, **{**CROP, "size": (0, 5)})


def test_all_implementations_refuse_in_the_same_words(ops: Kernels) -> None:
    calls: list[tuple[str, str, tuple[Any, ...]]] = [
        ("soft_argmax", "heatmaps", (MAPS[0],)),
        ("soft_argmax", "beta", (MAPS, -1)),
        ("soft_argmax", "out", (MAPS, 160.0, (floats(2, 3, 2),))),
        ("soft_argmax", "out (scores)", (MAPS, 160.0, (floats(2, 3, 2), floats(3), floats(2, 3, 2, 2)))),
        ("argmax_offset", "refine", (MAPS, "x")),
        ("flip_average", "flip_pairs", (MAPS, MAPS, [(0, 9)], True)),
        ("flip_average", "flipped", (MAPS, MAPS[:1], [], True)),
        ("crop_normalize", "affine", (IMAGE, with_entry(np.nan), (2, 2), (0, 0, 0), (1, 1, 1), True)),
        ("crop_pixels", "affine", (IMAGE, with_entry(np.nan), (2, 2), True)),
        ("crop_pixels", "size", (IMAGE, AFFINE, (0, 5), True)),
        ("crop_pixels", "rgb", (IMAGE, AFFINE, (2, 2), 1)),
        ("crop_normalize", "fill", (IMAGE, AFFINE, (2, 2), (0, 0, 0), (1, 1, 1), True, (1, 2))),
    ]
    for op, name, args in calls:
        assert refused(name, getattr(ops, op), *args) == refused(name, getattr(reference, op), *args)


# --- out= -------------------------------------------------------------------------------------


def test_results_go_into_out(ops: Kernels) -> None:
    out = (floats(2, 3, 2), floats(2, 3), floats(2, 3, 2, 2))
    result = ops.soft_argmax(MAPS, out=out)
    assert all(a is b for a, b in zip(result, out, strict=True))
    assert_same_soft(out, reference.soft_argmax(MAPS))
    result2 = ops.argmax_offset(MAPS, out=out[:2])
    assert all(a is b for a, b in zip(result2, out[:2], strict=True))
    np.testing.assert_array_equal(out[0], reference.argmax_offset(MAPS)[0])
    crops = floats(2, 3, 7, 5)
    assert ops.crop_normalize(**CROP, out=crops) is crops
    np.testing.assert_array_equal(crops, ops.crop_normalize(**CROP))
    pixels = np.zeros((2, 7, 5, 3), np.uint8)
    assert ops.crop_pixels(**PIXELS, out=pixels) is pixels
    np.testing.assert_array_equal(pixels, ops.crop_pixels(**PIXELS))
    coords = floats(2, 3, 2)
    assert ops.quarter_offset(MAPS, out[0], out=coords) is coords
    average = floats(*MAPS.shape)
    assert ops.flip_average(MAPS, MAPS, [(0, 2)], True, out=average) is average
    np.testing.assert_array_equal(average, reference.flip_average(MAPS, MAPS, [(0, 2)], True))


def test_some_ops_work_in_place(ops: Kernels) -> None:
    maps = MAPS.copy()
    flipped = make_maps("noise", MAPS.shape, 3)
    expected = reference.flip_average(maps, flipped, [(0, 2)], True)
    assert ops.flip_average(maps, flipped, [(0, 2)], True, out=maps) is maps
    np.testing.assert_array_equal(maps, expected)
    coords = reference.argmax_offset(MAPS, None)[0]
    expected = reference.quarter_offset(MAPS, coords)
    assert ops.quarter_offset(MAPS, coords, out=coords) is coords
    np.testing.assert_array_equal(coords, expected)


def test_unusable_out_is_refused(ops: Kernels) -> None:
    good = (floats(2, 3, 2), floats(2, 3), floats(2, 3, 2, 2))
    for bad in (3, good[0], good[:2], (*good, good[0])):
        refused("out", ops.soft_argmax, MAPS, 160.0, bad)
    locked = floats(2, 3, 2)
    locked.setflags(write=False)
    memory = np.zeros(50, np.uint8)
    unaligned = memory[1:49].view(np.float32).reshape(2, 3, 2)
    assert not unaligned.flags.aligned
    for bad in (None, *BAD_OUTS, locked, unaligned):
        refused("out (coords)", ops.soft_argmax, MAPS, 160.0, (bad, *good[1:]))
        refused("out (coords)", ops.argmax_offset, MAPS, None, (bad, good[1]))
        if bad is not None:
            refused("out", ops.quarter_offset, MAPS, good[0], bad)
    assert (good[0] == 7).all()


def test_out_must_not_overlap_what_is_read(ops: Kernels) -> None:
    maps = np.zeros((2, 3, 2, 2), np.float32)
    refused("out (covariance)", ops.soft_argmax, maps, 160.0, (floats(2, 3, 2), floats(2, 3), maps))
    both = floats(2, 3, 2)
    refused("out (scores)", ops.argmax_offset, MAPS, None, (both, both.reshape(-1)[:6].reshape(2, 3)))
    refused("out", ops.flip_average, MAPS, maps_ := MAPS.copy(), [], True, maps_)
    assert np.array_equal(maps_, MAPS)
    shifted = np.zeros(MAPS.size + 1, np.float32)
    refused(
        "out",
        ops.flip_average,
        shifted[:-1].reshape(MAPS.shape),
        MAPS,
        [],
        True,
        shifted[1:].reshape(MAPS.shape),
    )
    image = np.zeros((20, 30, 3), np.uint8)
    inside = image.reshape(-1)[: 4 * 3 * 4].view(np.float32).reshape(1, 3, 2, 2)
    refused("out", ops.crop_normalize, image, AFFINE[:1], (2, 2), (0, 0, 0), (1, 1, 1), True, 0, inside)
    inside = image.reshape(-1)[:12].reshape(1, 2, 2, 3)
    refused("out", ops.crop_pixels, image, AFFINE[:1], (2, 2), True, out=inside)
    locked = np.zeros((1, 2, 2, 3), np.uint8)
    locked.setflags(write=False)
    refused("out", ops.crop_pixels, image, AFFINE[:1], (2, 2), True, out=locked)


# --- layouts and emptiness --------------------------------------------------------------------


def test_layout_does_not_matter(ops: Kernels) -> None:
    big = make_maps("peaked", (4, 6, 18, 22), 2)
    views = [big[::2, ::2, ::2, ::2], big[..., ::-1], big.transpose(1, 0, 3, 2), np.asfortranarray(big)]
    memory = np.zeros(big.nbytes + 1, np.uint8)
    views.append(memory[1:].view(np.float32).reshape(big.shape))
    views[-1][...] = big
    locked = big.copy()
    locked.setflags(write=False)
    views += [locked, big.astype(np.float16)[..., ::2]]
    for view in views:
        packed = view.copy(order="C")
        before = view.copy()
        for found, expected in zip(ops.soft_argmax(view), ops.soft_argmax(packed), strict=True):
            np.testing.assert_array_equal(found, expected)
        coords, _ = ops.argmax_offset(view, "taylor")
        np.testing.assert_array_equal(coords, ops.argmax_offset(packed, "taylor")[0])
        np.testing.assert_array_equal(
            ops.quarter_offset(view, coords[::-1, ::-1]),
            ops.quarter_offset(packed, coords[::-1, ::-1].copy()),
        )
        np.testing.assert_array_equal(
            ops.flip_average(view, view, [(0, 1)], True), ops.flip_average(packed, packed, [(0, 1)], True)
        )
        np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("shape", [(0, 17, 8, 6), (3, 0, 8, 6), (0, 0, 1, 1)])
def test_empty_batches(ops: Kernels, shape: tuple[int, ...]) -> None:
    maps = np.empty(shape, np.float32)
    n, k = shape[:2]
    coords, scores, covariance = ops.soft_argmax(maps)
    assert (coords.shape, scores.shape, covariance.shape) == ((n, k, 2), (n, k), (n, k, 2, 2))
    for refine in ("quarter", "taylor", None):
        coords, scores = ops.argmax_offset(maps, refine)
        assert (coords.shape, scores.shape) == ((n, k, 2), (n, k))
    assert ops.quarter_offset(maps, coords).shape == (n, k, 2)
    assert ops.flip_average(maps, maps, [], True).shape == shape
    crops = ops.crop_normalize(IMAGE, np.empty((0, 2, 3)), (4, 5), (0, 0, 0), (1, 1, 1), False)
    assert crops.shape == (0, 3, 4, 5)
    assert ops.crop_pixels(IMAGE, np.empty((0, 2, 3)), (4, 5), False).shape == (0, 4, 5, 3)


def test_results_are_float32_and_of_their_own(ops: Kernels) -> None:
    first, second = ops.soft_argmax(MAPS), ops.soft_argmax(MAPS)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.float32
        assert not np.may_share_memory(a, b)
