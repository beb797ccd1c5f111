"""What the bottom-up kernels in CUDA do beyond the ops: maps on the device, all steps on a stream, sizes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import KINDS, LAYOUTS, PLAIN, Layout, make_scene, permutation

from edgepose import kernels
from edgepose.errors import InvalidInputError
from edgepose.kernels import Kernels, MapPass, PoseMaps, reference
from edgepose.pipeline.bottomup import Decoded, decode_maps
from edgepose.spec import Grouping


@pytest.fixture(scope="module")
def cuda(on_device: Kernels) -> Any:
    from edgepose.kernels import cuda

    return cuda


@pytest.fixture(scope="module")
def bottomup(cuda: Any) -> Any:
    from edgepose.kernels import cuda_bottomup

    return cuda_bottomup


@pytest.fixture(scope="module")
def raw(cuda: Any) -> Any:
    return cuda._cuda


def moved(maps: PoseMaps, place: Callable[[np.ndarray], Any]) -> PoseMaps:
    """The same maps, each at another place."""
    passes = [
        MapPass(tuple(map(place, run.heatmaps)), tuple(map(place, run.tags)), run.flipped)
        for run in maps.passes
    ]
    return PoseMaps(tuple(passes), maps.size, maps.flip_permutation)


def fetched(raw: Any, steps: Any, stream: int) -> Any:
    """What stands in the result block."""
    result = np.empty(steps.result_bytes, np.uint8)
    raw.copy_out(result.ctypes.data, steps.result, result.nbytes, stream)
    raw.synchronize(stream)
    return steps.read(result)


def assert_same(found: Any, expected: Decoded) -> None:
    np.testing.assert_array_equal(found.persons, expected.persons)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.truncated is expected.truncated


def test_layouts_of_the_description(bottomup: Any, raw: Any) -> None:
    for name, dtype in (("maps", bottomup.MAPS), ("plane", bottomup.PLANE)):
        found = {field: dtype.fields[field][1] for field in dtype.fields} | {"": dtype.itemsize}
        assert raw.LAYOUTS[name] == found


# --- all steps on a stream ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "official"),
    [
        ({}, False),
        ({"adjust": False}, False),
        ({"refine": False}, False),
        ({"adjust": False, "refine": False}, True),
        ({"max_people": 3}, False),
        ({"max_people": 3, "ignore_too_much": True}, False),
        ({"max_people": 4}, True),
        ({"use_detection_val": False, "tag_threshold": 0.4, "window": 3, "detection_threshold": 0.3}, False),
    ],
)
def test_all_steps_give_what_the_ops_give(
    cuda: Any, bottomup: Any, raw: Any, options: dict[str, Any], official: bool
) -> None:
    grouping = replace(Grouping(joint_order=(2, 0, 1, 4, 3)), **options)
    named = {
        "window": grouping.window,
        "limit": grouping.max_people,
        "detection_threshold": grouping.detection_threshold,
        "tag_threshold": grouping.tag_threshold,
        "use_detection_val": grouping.use_detection_val,
        "ignore_too_much": grouping.ignore_too_much,
        "adjust": grouping.adjust,
        "refine": grouping.refine,
        "official": official,
    }
    for name, kind in (("plain", "people"), ("half", "ties"), ("three scales", "people"), ("thin", "holes")):
        maps = make_scene(LAYOUTS[name], kind, people=5, seed=3)
        expected = decode_maps(maps, kernels.get("numpy"), grouping, official=official)
        there = moved(maps, cuda.DeviceArray.of)
        with bottomup.PoseMapsOnDevice(there, grouping.joint_order, **named) as steps:
            steps.run(0)
            assert_same(fetched(raw, steps, 0), expected)
            if name == "plain":
                assert len(expected.persons) >= 3


@pytest.mark.parametrize("joints", [1, 7, 8, 17, 26])
def test_scores_of_persons_are_rounded_as_numpy_does(cuda: Any, bottomup: Any, raw: Any, joints: int) -> None:
    maps = make_scene(PLAIN, people=4, joints=joints, seed=joints)
    expected = decode_maps(maps, kernels.get("numpy"), Grouping(joint_order=tuple(range(joints))))
    assert len(expected.scores)
    with bottomup.PoseMapsOnDevice(moved(maps, cuda.DeviceArray.of), range(joints)) as steps:
        steps.run(0)
        assert_same(fetched(raw, steps, 0), expected)


def test_a_graph_reads_what_stands_in_the_maps(cuda: Any, bottomup: Any, raw: Any) -> None:
    stream = raw.create_stream()
    scenes = [
        make_scene(PLAIN, kind, people=n, seed=n) for n, kind in ((3, "people"), (0, "empty"), (6, "ties"))
    ]
    there = moved(scenes[0], cuda.DeviceArray.of)
    with bottomup.PoseMapsOnDevice(there, range(5)) as steps:
        result = np.empty(steps.result_bytes, np.uint8)
        raw.begin_capture(stream)
        steps.run(stream)
        raw.copy_out(result.ctypes.data, steps.result, result.nbytes, stream)
        graph = raw.end_capture(stream)
        for maps in (*scenes, scenes[0]):
            for to, source in zip(there.passes, maps.passes, strict=True):
                for place, array in zip(
                    (*to.heatmaps, *to.tags), (*source.heatmaps, *source.tags), strict=True
                ):
                    packed = np.ascontiguousarray(array)
                    raw.copy_in(place.pointer, packed.ctypes.data, packed.nbytes, stream)
            graph.launch(stream)
            raw.synchronize(stream)
            expected = decode_maps(maps, kernels.get("numpy"), Grouping(joint_order=tuple(range(5))))
            assert_same(steps.read(result), expected)
        graph.close()
    raw.destroy_stream(stream)


def test_rows_without_persons_are_zero(cuda: Any, bottomup: Any, raw: Any) -> None:
    maps = moved(make_scene(PLAIN, people=2, seed=1), cuda.DeviceArray.of)
    with bottomup.PoseMapsOnDevice(maps, range(5), limit=9) as steps:
        steps.run(0)
        result = np.empty(steps.result_bytes, np.uint8)
        raw.copy_out(result.ctypes.data, steps.result, result.nbytes, 0)
        raw.synchronize(0)
    count = int(result[:4].view(np.int32)[0])
    assert 0 < count < 9
    assert len(result[steps._persons_at :]) == 9 * 5 * 5 * 4
    assert not result[steps._persons_at + count * 5 * 5 * 4 :].any()


def test_many_persons_are_grouped_outside_of_shared_memory(cuda: Any, bottomup: Any, raw: Any) -> None:
    layout = Layout((192, 256), (((48, 64), (96, 128)),), ((0,),), flip=False)
    maps = make_scene(layout, people=60, joints=3, seed=2)
    there = moved(maps, cuda.DeviceArray.of)
    for official in (False, True):
        grouping = Grouping(joint_order=(0, 1, 2), max_people=90)
        expected = decode_maps(maps, kernels.get("native"), grouping, official=official)
        assert len(expected.persons) > 40
        with bottomup.PoseMapsOnDevice(there, range(3), limit=90, official=official) as steps:
            assert raw.group_scratch(steps._grouping) > 0
            steps.run(0)
            assert_same(fetched(raw, steps, 0), expected)


def test_maps_of_the_host_or_without_tags_are_refused(cuda: Any, bottomup: Any) -> None:
    maps = make_scene(PLAIN)
    with pytest.raises(
        InvalidInputError, match=r"argument 'maps' is not usable; .* give arrays on the device"
    ):
        bottomup.PoseMapsOnDevice(maps, range(5))
    there = moved(maps, cuda.DeviceArray.of)
    bare = PoseMaps(tuple(replace(run, tags=()) for run in there.passes), there.size, there.flip_permutation)
    with pytest.raises(InvalidInputError, match="without tags"):
        bottomup.PoseMapsOnDevice(bare, range(5))
    for name, value in (("joint_order", range(4)), ("window", 4), ("max_persons", 0)):
        options = {"joint_order": range(5), "limit": 30} | {{"max_persons": "limit"}.get(name, name): value}
        with pytest.raises(InvalidInputError, match=f"argument '{name}' is not usable"):
            bottomup.PoseMapsOnDevice(there, **options)


# --- the ops on arrays on the device ------------------------------------------------------------


def test_arrays_on_the_device_give_arrays_on_the_device(cuda: Any, bottomup: Any) -> None:
    maps = make_scene(PLAIN, seed=4)

    def at(array: np.ndarray) -> Any:
        held = cuda.DeviceArray.of(array)
        kept.append(held)
        return bottomup.MapsAt(held.pointer, array.shape, array.dtype == np.float16)

    kept: list[Any] = []
    there = moved(maps, at)
    peaks = cuda.aggregate_nms_topk(there, 5, 8, 0.1)
    assert all(isinstance(item, cuda.DeviceArray) for item in peaks)
    expected = reference.aggregate_nms_topk(maps, 5, 8, 0.1)
    for found, wanted in zip(peaks, expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)
    persons, truncated = cuda.group(peaks, range(5))
    grouped = reference.group(expected, range(5))
    assert isinstance(persons, cuda.DeviceArray)
    assert persons.shape == grouped.persons.shape
    np.testing.assert_array_equal(persons.numpy(), grouped.persons)
    assert truncated is grouped.truncated
    adjusted = cuda.adjust(there, persons)
    wanted = reference.adjust(maps, grouped.persons)
    np.testing.assert_array_equal(adjusted.numpy(), wanted)
    np.testing.assert_array_equal(persons.numpy(), grouped.persons)  # left alone
    np.testing.assert_array_equal(cuda.refine(there, adjusted).numpy(), reference.refine(maps, wanted))
    np.testing.assert_array_equal(cuda.refine(maps, adjusted).numpy(), reference.refine(maps, wanted))
    none, _ = cuda.group(cuda.aggregate_nms_topk(there, threshold=9.0), range(5))
    assert none.numpy().shape == (0, 5, 5)
    assert cuda.adjust(there, none).numpy().shape == (0, 5, 5)


def test_the_processor_refuses_maps_on_the_device(cuda: Any) -> None:
    there = moved(make_scene(PLAIN), cuda.DeviceArray.of)
    for name in ("numpy", "native", "numba"):
        with pytest.raises(InvalidInputError, match=r"array on the device; .* the kernels called 'cuda'"):
            kernels.get(name).aggregate_nms_topk(there)


def test_what_describes_maps_on_the_device_is_checked(cuda: Any, bottomup: Any) -> None:
    good = bottomup.MapsAt(64, (3, 8, 6))
    for bad in (
        bottomup.MapsAt(0, (3, 8, 6)),
        bottomup.MapsAt(66, (3, 8, 6)),
        bottomup.MapsAt(64, (3, 0, 6)),
        bottomup.MapsAt(64, (3, 8)),
    ):
        with pytest.raises(InvalidInputError, match=r"argument 'heatmaps\[0\]' is not usable"):
            MapPass((bad,))
    with pytest.raises(InvalidInputError, match=r"argument 'tags\[0\]'.*one map or as many"):
        MapPass((good,), (bottomup.MapsAt(64, (2, 8, 6)),))
    maps = PoseMaps((MapPass((good,), (good,)),), (1 << 16, 1 << 15), np.arange(3))
    assert (maps.joints, maps.passes[0].map_size) == (3, (8, 6))
    with pytest.raises(InvalidInputError, match="at most 2147483647 pixels"):
        cuda.aggregate_nms_topk(maps)


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [17, 19, 63, 65, 101, 255])
def test_windows_of_all_sizes(cuda: Any, window: int) -> None:
    layout = Layout((70, 90), (((35, 45),),), ((0,),), flip=False)
    for kind in ("noise", "people", "ties"):
        maps = make_scene(layout, kind, joints=2, seed=window)
        for threshold in (0.1, -np.inf):
            found = cuda.aggregate_nms_topk(maps, window, 20, threshold)
            for a, b in zip(found, reference.aggregate_nms_topk(maps, window, 20, threshold), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("window", "top"), [(1, 1), (5, 30), (5, 7000), (3, 1500), (99, 30)])
def test_a_plateau_fills_every_list(cuda: Any, window: int, top: int) -> None:
    """More peaks than are ranked at once, more than a tile may keep, and fewer."""
    height, width = (70, 100) if window < 99 else (20, 40)
    heatmaps = np.full((2, height, width), 0.5, np.float32)
    heatmaps[1, height // 2 :, width // 2 :] = 0.25
    maps = PoseMaps((MapPass((heatmaps,), (np.zeros_like(heatmaps),)),), (height, width), permutation(2))
    found = cuda.aggregate_nms_topk(maps, window, top)
    for a, b in zip(found, reference.aggregate_nms_topk(maps, window, top), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_too_large_for_shared_memory(cuda: Any, kind: str) -> None:
    """Much larger ones than the final map: its pixels lie far apart in them."""
    layout = Layout((9, 40), (((90, 100), (300, 410)), ((40, 40),)), ((0,), (0,)))
    maps = make_scene(layout, kind, joints=2, seed=1)
    for options in ((5, 30, 0.1), (3, 10, -np.inf)):
        found = cuda.aggregate_nms_topk(maps, *options)
        for a, b in zip(found, reference.aggregate_nms_topk(maps, *options), strict=True):
            np.testing.assert_array_equal(a, b)
    persons = reference.adjust(maps, reference.group(reference.aggregate_nms_topk(maps), range(2)).persons)
    np.testing.assert_array_equal(cuda.refine(maps, persons), reference.refine(maps, persons))


def test_memory_is_less_than_that_of_the_final_maps(cuda: Any, bottomup: Any, raw: Any) -> None:
    side, joints = 2048, 17
    maps = PoseMaps(
        (MapPass((bottomup.MapsAt(64, (joints, 1024, 1024)),), (bottomup.MapsAt(64, (joints, 512, 512)),)),),
        (side, side),
        np.arange(joints),
    )
    final, _kept = bottomup._described(maps, lambda view: view.pointer, lambda array: array.ctypes.data)
    whole = 4 * joints * side * side
    assert raw.find_peaks_scratch(final, 5, 31, 0.1) < 0.2 * whole
    assert raw.find_peaks_scratch(final, 5, 1 << 16, 0.1) < 5 * whole  # all pixels may be asked for
    task = raw.PersonsTask(0, 30, joints, 4, 0, True, True, None)
    assert raw.settle_scratch(final, task) < 1 << 16


def test_the_benchmark_runs(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    script = importlib.import_module("cuda_bottomup")
    script.main(["--people", "10", "--share", "8", "--launches", "1", "--rounds", "1"])
    text = capsys.readouterr().out
    assert text.count("| 10 | yes |") == text.count("| 10 | no |") == 2
