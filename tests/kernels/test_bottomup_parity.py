"""The bottom-up kernels give what the official code gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import LAYOUTS, make_peaks, make_scene

from edgepose.kernels import Kernels, MapPass, Peaks, PoseMaps, reference, reference_grouping
from edgepose.skeleton import coco17

FACE_TO_ANKLES = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)

Meta = list[dict[str, Any]]


def recorded(shared: Path, name: str) -> tuple[dict[str, np.ndarray], Meta]:
    file = shared / "specs" / "parity" / name
    if not file.is_file():
        pytest.skip(f"no recorded results in {file}")
    arrays = dict(np.load(file))
    return arrays, json.loads(str(arrays.pop("meta")))


@pytest.fixture(scope="module")
def grouping(shared: Path) -> tuple[dict[str, np.ndarray], Meta]:
    return recorded(shared, "grouping.npz")


@pytest.fixture(scope="module")
def aggregation(shared: Path) -> tuple[dict[str, np.ndarray], Meta]:
    return recorded(shared, "aggregation.npz")


def scene(arrays: dict[str, np.ndarray], number: int) -> PoseMaps:
    heatmaps = (arrays[f"heatmaps_{number}"] / 2**20).astype(np.float32)
    tags = (arrays[f"tags_{number}"] / 128).astype(np.float32)
    run = MapPass((heatmaps,), tuple(tags[..., t] for t in range(tags.shape[-1])))
    return PoseMaps((run,), heatmaps.shape[1:], np.arange(len(heatmaps)))


def peaks_and_options(ops: Kernels, maps: PoseMaps, run: dict[str, Any]) -> tuple[Peaks, dict[str, Any]]:
    peaks = ops.aggregate_nms_topk(maps, run["nms_kernel"], run["max_people"], run["detection_threshold"])
    return peaks, {
        "joint_order": [j for j in FACE_TO_ANKLES if j < maps.joints],
        "tag_threshold": run["tag_threshold"],
        "use_detection_val": run["use_detection_val"],
        "ignore_too_much": run["ignore_too_much"],
        "max_persons": run["max_people"],
    }


def test_parsing(ops: Kernels, grouping: tuple[dict[str, np.ndarray], Meta], emulated: bool) -> None:
    arrays, runs = grouping
    assert runs
    for number, run in list(enumerate(runs))[:: 9 if emulated else 1]:
        maps = scene(arrays, run["scene"])
        peaks, options = peaks_and_options(ops, maps, run)
        persons, truncated = ops.group(peaks, official=True, **options)
        assert not truncated
        if run["adjust"]:
            persons = ops.adjust(maps, persons)
        scores = persons[:, :, 2].mean(axis=1)
        if run["refine"]:
            persons = ops.refine(maps, persons)
        expected = arrays[f"people_{number}"]
        if not len(expected):  # the official code gives an array of no axes but one
            expected = expected.reshape(persons[:0].shape)
        np.testing.assert_array_equal(persons, expected, err_msg=f"run {number}")
        np.testing.assert_allclose(scores, arrays[f"scores_{number}"], rtol=1e-6)


def whole_path(arrays: dict[str, np.ndarray], number: int, case: dict[str, Any]) -> PoseMaps:
    joints = 17
    order = np.arange(joints)
    for a, b in coco17.flip_pairs:
        order[a], order[b] = b, a
    passes = []
    for step in case["steps"]:
        for flip in (0, 1) if case["flip"] else (0,):
            name = f"{number}_{step['scale']}_{flip}"
            low, high = ((arrays[f"{kind}_{name}"] / 1024).astype(np.float32) for kind in ("low", "high"))
            tagged = step["scale"] == 1 or len(case["steps"]) == 1
            passes.append(MapPass((low[:joints], high), (low[joints:],) if tagged else (), bool(flip)))
    width, height = case["base_size"]
    size = (height, width) if case["project2image"] else passes[0].map_size
    return PoseMaps(tuple(passes), size, order)


def test_the_whole_path(
    ops: Kernels, aggregation: tuple[dict[str, np.ndarray], Meta], emulated: bool
) -> None:
    arrays, cases = aggregation
    assert cases
    for number, case in list(enumerate(cases))[:: 2 if emulated else 1]:
        maps = whole_path(arrays, number, case)
        persons, _ = ops.group(ops.aggregate_nms_topk(maps), FACE_TO_ANKLES, official=True)
        persons = ops.adjust(maps, persons)
        scores = persons[:, :, 2].mean(axis=1)
        persons = ops.refine(maps, persons).astype(np.float64)
        height, width = maps.size
        extent = 200 * np.array(case["affine_scale"])
        persons[:, :, :2] = (persons[:, :, :2] - np.array([width, height]) / 2) * (extent[0] / width)
        persons[:, :, :2] += case["center"]
        np.testing.assert_allclose(persons, arrays[f"people_{number}"], atol=1e-3)
        np.testing.assert_allclose(scores, arrays[f"scores_{number}"], rtol=1e-6)


def whole_maps(ops: Kernels, maps: PoseMaps) -> tuple[np.ndarray, np.ndarray]:
    """The aggregated heatmaps and tags: of windows of one pixel, all pixels are peaks."""
    height, width = maps.size
    peaks = ops.aggregate_nms_topk(maps, 1, height * width, -np.inf)
    assert (peaks.count == height * width).all()
    at = peaks.xy[:, :, 1].astype(np.int64) * width + peaks.xy[:, :, 0]
    heatmaps, tags = np.full_like(peaks.scores, np.nan), np.full_like(peaks.tags, np.nan)
    np.put_along_axis(heatmaps, at, peaks.scores, 1)
    np.put_along_axis(tags, at[:, :, None], peaks.tags, 1)
    return heatmaps.reshape(-1, height, width), tags.reshape(-1, height, width, maps.tag_count)


def test_aggregated_maps(
    ops: Kernels, aggregation: tuple[dict[str, np.ndarray], Meta], emulated: bool
) -> None:
    arrays, cases = aggregation
    for number, case in list(enumerate(cases))[:: 2 if emulated else 1]:
        for name, found in zip(
            ("heatmaps", "tags"), whole_maps(ops, whole_path(arrays, number, case)), strict=True
        ):
            digest = case[name]
            assert (1, *found.shape) == tuple(digest["shape"])
            np.testing.assert_allclose(found.reshape(-1)[digest["at"]], digest["values"], rtol=1e-6)
            np.testing.assert_allclose(found.mean(dtype=np.float64), digest["mean"], rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(found.std(dtype=np.float64), digest["std"], rtol=1e-4)


# --- the default assignment -------------------------------------------------------------------

MARGIN = 1e-4  # the 1e10 of the official cost matrices blurs their sums by about 1e-6

Case = tuple[Peaks, dict[str, Any], np.ndarray]


def unique_persons(peaks: Peaks, options: dict[str, Any]) -> np.ndarray | None:
    """The official persons, where no other rule could give others; else None.

    Such are persons within the bound, of whom no two begin with the same tag, made by assignments each of
    which has one optimum: without any one of its pairs, the least cost is higher.
    """
    solve = pytest.importorskip(
        "scipy.optimize", reason='needs SciPy: pip install "edgepose[dev]"'
    ).linear_sum_assignment
    unique = True
    official_pairs = reference_grouping._official_pairs

    def watch(distance: np.ndarray, scores: np.ndarray, value: bool) -> list[tuple[int, int]]:
        nonlocal unique
        cost = np.rint(distance) * 100 - scores[:, None].astype(np.float64) if value else distance
        pairs = official_pairs(distance, scores, value)
        least = sum(cost[i, j] for i, j in pairs)
        for i, j in pairs:
            other = cost.copy()
            other[i, j] = 1e9
            unique &= bool(other[solve(other)].sum() > least + MARGIN)
        return pairs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_grouping, "_official_pairs", watch)
        persons = reference.group(peaks, official=True, **options).persons
    apart = reference.group(peaks, **options).persons
    order = np.array(options["joint_order"])
    first = order[(apart[:, order, 2] > 0).argmax(axis=1)]
    keys = apart[range(len(apart)), first, 3]
    usable = unique and len(persons) <= options["max_persons"] and len(np.unique(keys)) == len(keys)
    return persons if usable else None


def assert_default_is_official(ops: Kernels, cases: list[Case]) -> None:
    for peaks, options, persons in cases:
        np.testing.assert_array_equal(ops.group(peaks, official=True, **options).persons, persons)
        found = ops.group(peaks, **options)
        assert not found.truncated
        np.testing.assert_array_equal(found.persons, persons)


def test_the_default_gives_the_official_persons_where_those_are_unique(
    ops: Kernels, grouping: tuple[dict[str, np.ndarray], Meta]
) -> None:
    arrays, runs = grouping
    cases: list[Case] = []
    for run in runs:
        if not (run["adjust"] or run["refine"]):
            peaks, options = peaks_and_options(ops, scene(arrays, run["scene"]), run)
            persons = unique_persons(peaks, options)
            if persons is not None and len(persons):
                cases.append((peaks, options, persons))
    assert len(cases) >= 5
    assert_default_is_official(ops, cases)


@pytest.fixture(scope="module")
def unique_cases() -> list[Case]:
    """Random peaks of all kinds whose official persons are unique."""
    cases: list[Case] = []
    for seed in range(1200):
        rng = np.random.default_rng(seed)
        joints, top, tags, people = (int(rng.integers(1, n)) for n in (8, 9, 3, 8))
        peaks = make_peaks(("plain", "ties")[seed % 2], joints, top, tags, people, seed)
        options: dict[str, Any] = {
            "joint_order": rng.permutation(joints).tolist(),
            "tag_threshold": float(rng.choice([0.5, 1, 2])),
            "use_detection_val": bool(rng.integers(0, 3) > 0),
            "max_persons": 100,
        }
        persons = unique_persons(peaks, options)
        if persons is not None and len(persons) > 1 and (persons[:, :, 2] > 0).sum(axis=1).max() > 1:
            cases.append((peaks, options, persons))
    for name in ("plain", "shared tags", "three levels"):
        for seed in range(60):
            maps = make_scene(LAYOUTS[name], "people", people=seed % 6 + 1, seed=seed)
            peaks = reference.aggregate_nms_topk(maps)
            options = {"joint_order": list(range(5)), "max_persons": 100}
            persons = unique_persons(peaks, options)
            if persons is not None and len(persons) > 1:
                cases.append((peaks, options, persons))
    return cases


def test_the_default_gives_the_official_persons_of_random_scenes(
    ops: Kernels, unique_cases: list[Case]
) -> None:
    assert len(unique_cases) >= 200
    assert sum(options.get("use_detection_val", True) for _, options, _ in unique_cases) >= 100
    assert_default_is_official(ops, unique_cases)
