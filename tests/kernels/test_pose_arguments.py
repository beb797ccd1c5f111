"""Arguments of the bottom-up kernels: what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scenes import PLAIN, make_peaks, make_scene
from test_arguments import BAD_SIZES, refused

from edgepose.kernels import Kernels, MapPass, PoseMaps, reference

MAPS = make_scene(PLAIN, joints=3)
PEAKS = make_peaks("plain", 3, 4, 2, 2, seed=0)
PERSONS = np.zeros((2, 3, 5), np.float32)
HEAT = np.zeros((3, 8, 6), np.float32)

NOT_MAPS = [
    None, 1, HEAT.tolist(), HEAT[0], HEAT[None], HEAT.astype(np.float64), HEAT.astype(np.uint8),
    HEAT.astype(">f4"), HEAT[:0], HEAT[:, :0], HEAT[:, :, :0],
]  # fmt: skip


def test_passes_are_checked() -> None:
    for bad in (None, HEAT, (), "maps", {}):
        refused("heatmaps", MapPass, bad)
    for bad in (None, HEAT, "tags"):
        refused("tags", MapPass, (HEAT,), bad)
    for bad in NOT_MAPS:
        refused("heatmaps[0]", MapPass, (bad,))
        refused("heatmaps[1]", MapPass, (HEAT, bad))
        refused("tags[0]", MapPass, (HEAT,), (bad,))
    refused("heatmaps[1]", MapPass, (HEAT, HEAT[:2]))
    refused("tags[1]", MapPass, (HEAT,), (HEAT, HEAT[:2]))
    for bad in (None, 1, "no"):
        refused("flipped", MapPass, (HEAT,), (), bad)
    run = MapPass([HEAT, HEAT[:, :4].astype(np.float16)], [HEAT[:1]], np.True_)  # type: ignore[arg-type]
    assert (run.joints, run.map_size, run.flipped, len(run.tags)) == (3, (4, 6), True, 1)


def test_pose_maps_are_checked() -> None:
    normal, flipped = MapPass((HEAT,)), MapPass((HEAT,), (HEAT,), True)
    order = np.arange(3)
    for bad in (None, (), normal, (HEAT,), (flipped,), (normal, flipped, flipped), (flipped, normal)):
        refused("passes", PoseMaps, bad, (8, 6), order)
    refused("passes[1]", PoseMaps, (normal, MapPass((HEAT[:2],))), (8, 6), order)
    for bad in BAD_SIZES:
        refused("size", PoseMaps, (normal,), bad, order)
    for bad in (None, [0, 1, 2], order[:2], order + 1, order * 0, order.astype(np.int32), order[None]):
        refused("flip_permutation", PoseMaps, (normal,), (8, 6), bad)
    maps = PoseMaps([normal, flipped, normal], np.array([8, 6]), order)  # type: ignore[arg-type]
    assert (maps.joints, maps.scales, maps.tag_count, maps.size) == (3, 2, 1, (8, 6))
    with pytest.raises(AttributeError):
        maps.size = (1, 1)  # type: ignore[misc]


def test_options_of_peaks_are_checked(ops: Kernels) -> None:
    bad: dict[str, list[Any]] = {
        "maps": [None, HEAT, (HEAT,), MAPS.passes],
        "window": [None, 0, -1, 2, 4, 257, 5.0, "5", True, (5, 5)],
        "top": [None, 0, -1, 1 << 17, 30.0, "30", True],
        "threshold": [None, "a", np.nan, [0.1, 0.2]],
    }
    good = {"maps": MAPS, "window": 5, "top": 30, "threshold": 0.1}
    for name, values in bad.items():
        for value in values:
            message = refused(name, ops.aggregate_nms_topk, **{**good, name: value})
            assert message == refused(name, reference.aggregate_nms_topk, **{**good, name: value})
    numbers = ops.aggregate_nms_topk(MAPS, np.int8(5), np.uint16(30), np.float64(0.1))
    for found, same in zip(numbers, ops.aggregate_nms_topk(MAPS), strict=True):
        np.testing.assert_array_equal(found, same)


def test_options_of_group_are_checked(ops: Kernels) -> None:
    xy, scores, tags, count = PEAKS
    bad: dict[str, list[Any]] = {
        "peaks": [
            None, list(PEAKS), PEAKS[:3], (xy, scores, tags, None), (xy.astype(np.int64), *PEAKS[1:]),
            (xy[:2], scores, tags, count), (xy, scores[:, :2], tags, count), (xy, scores, tags, count[:2]),
            (xy, scores.astype(np.float64), tags, count), (xy, scores, tags[..., 0], count),
            (xy, scores, tags[..., :0], count), (xy, scores, tags, count + 5), (xy, scores, tags, count - 5),
            tuple(item[:0] for item in PEAKS),
        ],
        "joint_order": [
            None, 3, "012", [0, 1], [0, 1, 1], [0, 1, 3], [-1, 0, 1], [0.0, 1.0, 2.0], [[0, 1, 2]],
        ],
        "tag_threshold": [None, "1", np.nan, [1, 2]],
        "use_detection_val": [None, 1],
        "ignore_too_much": [None, 0],
        "max_persons": [None, 0, -3, 1025, 2.0, True],
        "official": [None, 1, "yes"],
    }  # fmt: skip
    good = {"peaks": PEAKS, "joint_order": [0, 1, 2]}
    for name, values in bad.items():
        for value in values:
            message = refused(name, ops.group, **{**good, name: value})
            assert message == refused(name, reference.group, **{**good, name: value})
    for order in ((2, 1, 0), np.array([2, 1, 0], np.uint8)):
        np.testing.assert_array_equal(
            ops.group(PEAKS, order).persons, reference.group(PEAKS, np.array([2, 1, 0])).persons
        )
    assert ops.group(tuple(PEAKS), (0, 1, 2), np.inf, np.True_).persons.shape[1:] == (3, 5)  # type: ignore[arg-type]


def test_persons_are_checked(ops: Kernels) -> None:
    untagged = PoseMaps((MapPass((HEAT,)),), (8, 6), np.arange(3))
    for op in (ops.adjust, ops.refine):
        same = getattr(reference, op.__name__)
        for bad in (None, HEAT, (HEAT,)):
            assert refused("maps", op, bad, PERSONS) == refused("maps", same, bad, PERSONS)
        for bad in (
            None, PERSONS.tolist(), PERSONS[0], PERSONS[:, :2], PERSONS[:, :, :2], PERSONS.astype(np.float64),
        ):  # fmt: skip
            assert refused("persons", op, MAPS, bad) == refused("persons", same, MAPS, bad)
    refused("persons", ops.refine, MAPS, PERSONS[:, :, :4])
    refused("maps", ops.refine, untagged, PERSONS)
    assert ops.adjust(untagged, PERSONS[:, :, :3]).shape == (2, 3, 3)
    assert ops.aggregate_nms_topk(untagged).tags.shape == (3, 30, 0)


def test_results_are_new_arrays(ops: Kernels) -> None:
    persons = np.asfortranarray(np.random.default_rng(0).uniform(0, 30, (2, 3, 5)).astype(np.float32))
    persons[0, 1] = 0
    for op in (ops.adjust, ops.refine):
        result = op(MAPS, persons)
        assert result.dtype == np.float32
        assert result.flags.c_contiguous
        assert not np.may_share_memory(result, persons)
        np.testing.assert_array_equal(result, getattr(reference, op.__name__)(MAPS, persons.copy()))
