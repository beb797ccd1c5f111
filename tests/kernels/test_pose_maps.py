"""The bottom-up kernels on maps: aggregation with peaks, adjusting, refining."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import KINDS, LAYOUTS, PLAIN, Layout, make_scene, permutation, scenes

from edgepose.kernels import Kernels, MapPass, Peaks, PoseMaps, reference

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ((5, 30, 0.1), (3, 1, 0.0), (1, 50, -np.inf), (7, 5, 0.5))


def single(heatmaps: np.ndarray, tags: np.ndarray | None = None) -> PoseMaps:
    """Maps that need no resize."""
    heatmaps = np.asarray(heatmaps, np.float32)
    tags = np.zeros_like(heatmaps) if tags is None else np.asarray(tags, np.float32)
    return PoseMaps((MapPass((heatmaps,), (tags,)),), heatmaps.shape[1:], permutation(len(heatmaps)))


def assert_same_peaks(found: Peaks, expected: Peaks) -> None:
    for name, a, b in zip(Peaks._fields, found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)


def check(ops: Kernels, maps: PoseMaps) -> None:
    """All ops on one scene, against the reference."""
    for options in OPTIONS:
        assert_same_peaks(
            ops.aggregate_nms_topk(maps, *options), reference.aggregate_nms_topk(maps, *options)
        )
    peaks = reference.aggregate_nms_topk(maps, 5, 8, 0.1)
    grouped = reference.group(peaks, range(maps.joints)).persons
    adjusted = reference.adjust(maps, grouped)
    np.testing.assert_array_equal(ops.adjust(maps, grouped), adjusted)
    np.testing.assert_array_equal(ops.refine(maps, adjusted), reference.refine(maps, adjusted))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_and_kind(ops: Kernels, layout: Layout, kind: str) -> None:
    check(ops, make_scene(layout, kind, seed=1))


@settings(max_examples=60, deadline=None)
@given(maps=scenes())
def test_any_scene(ops: Kernels, maps: PoseMaps) -> None:
    check(ops, maps)


def test_one_joint(ops: Kernels) -> None:
    for layout in LAYOUTS.values():
        check(ops, make_scene(layout, joints=1))


def test_a_hundred_people(ops: Kernels) -> None:
    maps = make_scene(Layout((384, 512), (((96, 128), (192, 256)),), ((0,),)), people=100, joints=3, seed=1)
    peaks = ops.aggregate_nms_topk(maps, top=120)
    assert_same_peaks(peaks, reference.aggregate_nms_topk(maps, top=120))
    assert (peaks.count > 60).all()
    options = {"joint_order": range(3), "max_persons": 120}
    persons, truncated = ops.group(peaks, **options)
    np.testing.assert_array_equal(persons, reference.group(peaks, **options).persons)
    assert len(persons) >= 90
    assert not truncated
    adjusted = ops.adjust(maps, persons)
    np.testing.assert_array_equal(adjusted, reference.adjust(maps, persons))
    np.testing.assert_array_equal(ops.refine(maps, adjusted), reference.refine(maps, adjusted))


def test_the_resize_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason='needs PyTorch: pip install "edgepose[training]"')
    for layout in LAYOUTS.values():
        maps = make_scene(replace(layout, flip=False), "noise")
        sums = []
        for run in maps.passes:
            levels = [torch.from_numpy(level.astype(np.float32))[None] for level in run.heatmaps]
            mid = sum(
                torch.nn.functional.interpolate(level, run.map_size, mode="bilinear", align_corners=False)
                for level in levels
            ) / len(levels)
            sums.append(torch.nn.functional.interpolate(mid, maps.size, mode="bilinear", align_corners=False))
        expected = (sum(sums) / len(sums))[0].numpy()
        np.testing.assert_allclose(reference.aggregate(maps)[0], expected, rtol=1e-5, atol=1e-5)


def test_equal_flipped_maps_change_nothing(ops: Kernels) -> None:
    """Every number here is exact, so mirroring and averaging are, too."""
    rng = np.random.default_rng(0)
    low, high = (rng.integers(-200, 1024, (5, n, n + 4)).astype(np.float32) / 1024 for n in (12, 24))
    high = high[:, :, :24]
    low = low[:, :, :12]
    order = permutation(5)
    normal = MapPass((low, high), (low,))
    flipped = MapPass((low[order, :, ::-1], high[order, :, ::-1]), (low[order, :, ::-1],), True)
    alone = ops.aggregate_nms_topk(PoseMaps((normal,), (48, 48), order))
    both = ops.aggregate_nms_topk(PoseMaps((normal, flipped), (48, 48), order))
    assert alone.count.min() > 3
    for name in ("xy", "scores", "count"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(both, name))
    np.testing.assert_array_equal(both.tags, np.repeat(alone.tags, 2, axis=2))


def test_a_mirrored_scene_gives_mirrored_peaks(ops: Kernels) -> None:
    rng = np.random.default_rng(1)
    order = permutation(5)
    low, high = (np.stack([rng.permutation(n * n) for _ in range(5)]).reshape(5, n, n) for n in (8, 16))
    low, high = (low / 64).astype(np.float32), (high / 256).astype(np.float32)

    def peaks(low: np.ndarray, high: np.ndarray) -> list[set[tuple[float, ...]]]:
        found = ops.aggregate_nms_topk(PoseMaps((MapPass((low, high), (low,)),), (32, 32), order), 5, 1024)
        return [
            {
                (*found.xy[j, i].tolist(), found.scores[j, i], found.tags[j, i, 0])
                for i in range(found.count[j])
            }
            for j in range(5)
        ]

    there = peaks(low, high)
    back = peaks(low[order, :, ::-1], high[order, :, ::-1])
    assert all(there)
    for j in range(5):
        assert back[j] == {(31 - x, *rest) for x, *rest in there[order[j]]}


# --- peaks ------------------------------------------------------------------------------------


def test_peaks_stand_where_they_are(ops: Kernels) -> None:
    heatmaps = np.zeros((2, 20, 30))
    heatmaps[0, 3, 4], heatmaps[0, 3, 6], heatmaps[0, 19, 29], heatmaps[0, 10, 10] = 0.5, 0.4, 0.9, 0.5
    tags = np.arange(1200.0).reshape(2, 20, 30)
    peaks = ops.aggregate_nms_topk(single(heatmaps, tags), 5, 4, 0.1)
    np.testing.assert_array_equal(peaks.count, [3, 0])  # (6, 3) lies in the window of (4, 3)
    np.testing.assert_array_equal(peaks.xy[0], [[29, 19], [4, 3], [10, 10], [0, 0]])
    np.testing.assert_array_equal(peaks.scores[0], np.float32([0.9, 0.5, 0.5, 0]))
    np.testing.assert_array_equal(peaks.tags[0, :, 0], [599, 94, 310, 0])
    assert not any(item[1].any() for item in peaks[:3])
    np.testing.assert_array_equal(ops.aggregate_nms_topk(single(heatmaps, tags), 3, 4, 0.1).count, [4, 0])


def test_of_a_plateau_all_pixels_are_peaks(ops: Kernels) -> None:
    peaks = ops.aggregate_nms_topk(single(np.full((1, 40, 50), 0.5)), 5, 60, 0.1)
    np.testing.assert_array_equal(peaks.xy[0], [(i % 50, i // 50) for i in range(60)])
    assert ops.aggregate_nms_topk(single(np.full((1, 40, 50), 0.5)), 5, 3000, 0.1).count[0] == 2000


def test_the_threshold_is_strict_and_exact(ops: Kernels) -> None:
    heatmaps = np.full((1, 9, 9), -1.0)
    heatmaps[0, 4, 4] = 0.1  # a little more than that in float32
    for threshold, count in (
        (0.1, 1),
        (float(np.float32(0.1)), 0),
        (0.5, 0),
        (0.0, 1),
        (-1.0, 1),
        (np.inf, 0),
    ):
        assert ops.aggregate_nms_topk(single(heatmaps), threshold=threshold).count[0] == count
    assert ops.aggregate_nms_topk(single(heatmaps), 3, 100, -1.5).count[0] == 81 - 8


def test_nan_is_lowest(ops: Kernels) -> None:
    heatmaps = np.full((1, 9, 9), np.nan)
    assert ops.aggregate_nms_topk(single(heatmaps), threshold=-np.inf).count[0] == 0
    heatmaps[0, 4, 4] = -5
    assert ops.aggregate_nms_topk(single(heatmaps), threshold=-np.inf).xy[0, 0].tolist() == [4, 4]


# --- adjust -----------------------------------------------------------------------------------


def test_joints_move_towards_the_larger_neighbour(ops: Kernels) -> None:
    rows, columns = np.mgrid[:9, :9]
    maps = single([columns, -columns, rows, 0 * rows])
    persons = np.zeros((2, 4, 4), np.float32)
    persons[0] = [4, 5, 0.5, 9]
    persons[1, 0] = [0, 8, 0.5, 9]
    expected = persons.copy()
    # Equal neighbours: to the left and up.
    expected[0, :, :2] = [[4.75, 5.25], [4.25, 5.25], [4.25, 5.75], [4.25, 5.25]]
    expected[1, 0, :2] = [0.75, 8.25]
    before = persons.copy()
    np.testing.assert_array_equal(ops.adjust(maps, persons), expected)
    np.testing.assert_array_equal(persons, before)
    assert ops.adjust(maps, persons[:0]).shape == (0, 4, 4)


def test_coordinates_off_the_map_and_nan_are_taken(ops: Kernels) -> None:
    for layout in ("plain", "three scales", "thin"):
        maps = make_scene(LAYOUTS[layout], "holes", seed=5)
        rng = np.random.default_rng(0)
        persons = rng.uniform(-50, 150, (30, 5, 3 + maps.tag_count)).astype(np.float32)
        persons[:, :, 2] = rng.choice([0, 0.5, -0.5, np.nan], (30, 5))
        persons[:, :, :2][rng.random((30, 5, 2)) < 0.1] = np.nan
        np.testing.assert_array_equal(ops.adjust(maps, persons), reference.adjust(maps, persons))
        np.testing.assert_array_equal(ops.refine(maps, persons), reference.refine(maps, persons))


# --- refine -----------------------------------------------------------------------------------


def test_a_missing_joint_is_found_by_tag(ops: Kernels) -> None:
    heatmaps, tags = np.zeros((2, 40, 50)), np.zeros((2, 40, 50))
    heatmaps[1, 30, 40], tags[1, 30, 40] = 0.9, 5  # of another person
    heatmaps[1, 20, 11], tags[1, 20, 11] = 0.3, 1.4
    heatmaps[1, 20, 12] = 0.2
    tags[0, 5, 5] = 1
    persons = np.zeros((3, 2, 4), np.float32)
    persons[0, 0] = [5.25, 5.75, 0.8, 7]
    persons[1] = persons[0, 0]
    result = ops.refine(single(heatmaps, tags), persons)
    np.testing.assert_array_equal(result[0, 1], np.float32([11.75, 20.25, 0.3, 0]))
    np.testing.assert_array_equal(result[0, 0], persons[0, 0])
    np.testing.assert_array_equal(result[1:], persons[1:])  # nothing missing; nothing known


def test_of_equal_fits_the_first_is_taken(ops: Kernels) -> None:
    heatmaps = np.zeros((2, 70, 70))
    heatmaps[1, 66, 3] = heatmaps[1, 40, 69] = heatmaps[1, 41, 2] = 0.5  # 69: the border
    persons = np.zeros((1, 2, 4), np.float32)
    persons[0, 0] = [5.25, 5.75, 0.8, 0]
    np.testing.assert_array_equal(
        ops.refine(single(heatmaps), persons)[0, 1], np.float32([69.75, 40.25, 0.5, 0])
    )
    heatmaps[1] = 0.25
    np.testing.assert_array_equal(
        ops.refine(single(heatmaps), persons)[0, 1], np.float32([0.25, 0.25, 0.25, 0])
    )
    heatmaps[1] = 0  # a joint is not filled from a pixel that is not above 0
    np.testing.assert_array_equal(ops.refine(single(heatmaps), persons), persons)


def test_heats_that_differ_may_fit_a_person_equally(ops: Kernels) -> None:
    """Far from the person both places' fits round to the same number, so that the first one is taken."""
    heatmaps, tags = np.zeros((2, 16, 16), np.float32), np.zeros((2, 16, 16), np.float32)
    lower, higher = np.nextafter(np.float32(0.3), np.float32(0)), np.float32(0.3)
    heatmaps[0, 8, 8], heatmaps[1, 3, 3], heatmaps[1, 3, 9] = 1, lower, higher
    for distance, column in ((5, 3), (0, 9)):
        tags[1] = distance
        persons = np.zeros((1, 2, 4), np.float32)
        persons[0, 0] = 8, 8, 1, 0
        maps = single(heatmaps, tags)
        found = ops.refine(maps, persons)
        np.testing.assert_array_equal(found, reference.refine(maps, persons))
        assert abs(found[0, 1, 0] - column - 0.5) <= 0.25
        assert found[0, 1, 2] == heatmaps[1, 3, column]


@pytest.mark.parametrize("layout", ["plain", "three levels", "shared tags"])
def test_many_persons_are_refined_at_once(ops: Kernels, layout: str) -> None:
    maps = make_scene(LAYOUTS[layout], "people", people=25, seed=7, missing=0.4)
    persons = reference.group(
        reference.aggregate_nms_topk(maps, 3, 100, 0.05), range(5), 0.5, max_persons=100
    ).persons
    persons = reference.adjust(maps, np.resize(persons, (100, *persons.shape[1:])))
    result = ops.refine(maps, persons)
    assert ((persons[:, :, 2] == 0) & (result[:, :, 2] > 0)).sum() > 50
    np.testing.assert_array_equal(result, reference.refine(maps, persons))
    shuffled = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(ops.refine(maps, persons[shuffled]), result[shuffled])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_persons_of_any_tag(ops: Kernels, seed: int) -> None:
    """Persons that no peak made: their tags fit little or nothing of the map."""
    maps = make_scene(PLAIN, "people", people=5, seed=seed)
    rng = np.random.default_rng(seed)
    persons = np.zeros((12, 5, 5), np.float32)
    persons[:, :, :2] = rng.uniform(0, 60, (12, 5, 2))
    persons[:, :, 2] = rng.random((12, 5)) < 0.4
    np.testing.assert_array_equal(ops.refine(maps, persons), reference.refine(maps, persons))


# --- layouts of memory, cost ------------------------------------------------------------------


def test_views_are_taken_and_left_alone(ops: Kernels) -> None:
    packed = make_scene(PLAIN, seed=2)

    def view(values: np.ndarray) -> np.ndarray:
        big = np.full((2 * values.shape[0], values.shape[1], 3 * values.shape[2]), np.nan, values.dtype)
        big[::2, ::-1, ::3] = values
        return big[::2, ::-1, ::3]

    passes = [
        MapPass(tuple(map(view, p.heatmaps)), tuple(map(view, p.tags)), p.flipped) for p in packed.passes
    ]
    maps = PoseMaps(tuple(passes), packed.size, packed.flip_permutation)
    for run in maps.passes:
        for item in (*run.heatmaps, *run.tags):
            item.setflags(write=False)
    check(ops, maps)
    assert_same_peaks(ops.aggregate_nms_topk(maps), ops.aggregate_nms_topk(packed))


def test_python_allocates_nothing_of_the_size_of_all_joints(ops: Kernels) -> None:
    if ops.requested == "numpy":
        pytest.skip("the reference materialises the final map")
    layout = Layout((256, 256), (((64, 64), (128, 128)),), ((0,),))
    maps = make_scene(layout, joints=17, people=3)
    persons = ops.group(ops.aggregate_nms_topk(maps), range(17)).persons
    adjusted = ops.adjust(maps, persons)
    calls = {
        "aggregate_nms_topk": lambda: ops.aggregate_nms_topk(maps),
        "adjust": lambda: ops.adjust(maps, persons),
        "refine": lambda: ops.refine(maps, adjusted),
    }
    for name, call in calls.items():
        call()  # numba compiles
        tracemalloc.start()
        try:
            call()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3 * 4 * 256 * 256, f"{name} allocated {peak} bytes"


MEMORY = """
import sys
import numpy as np
from edgepose import kernels
from edgepose.kernels import MapPass, PoseMaps

ops = kernels.get({name!r})
rng = np.random.default_rng(0)

def run(side):
    low, high = (rng.random((17, n, n), np.float32) for n in (side // 4, side // 2))
    low[:, :4, :4] = high[:, :8, :8] = 2
    maps = PoseMaps((MapPass((low, high), (low,)),), (side, side), np.arange(17))
    ops.aggregate_nms_topk(maps, threshold=1.5)
    persons = np.zeros((1, 17, 4), np.float32)
    persons[0, 0, :3] = 1
    ops.refine(maps, ops.adjust(maps, persons))

def most():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

run(64)
before = most()
run(2048)
print(most() - before)
"""


def test_the_process_grows_by_less_than_all_final_maps(ops: Kernels) -> None:
    if ops.requested == "numpy":
        pytest.skip("the reference materialises the final map")
    if ops.requested == "cuda":
        pytest.skip("these work in the device's memory; test_cuda_bottomup.py tests how much they ask for")
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell how much memory a process took")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(name=ops.requested)],
        cwd=ROOT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    inputs = 17 * 4 * (512 * 512 + 1024 * 1024) / 1024
    assert int(done.stdout) < inputs + 0.4 * 17 * 4 * 2048 * 2048 / 1024
