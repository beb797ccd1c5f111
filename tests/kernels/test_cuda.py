"""What the kernels in CUDA do beyond the ops: arrays on the device, NV12, mirroring, CUDA graphs."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import affines, assert_same_soft, make_maps, picture

from edgepose.errors import InvalidInputError
from edgepose.kernels import Kernels, reference

MAPS = make_maps("peaked", (2, 3, 16, 12), 0)
MEAN, STD, FILL = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def cuda(on_device: Kernels) -> Any:
    from edgepose.kernels import cuda

    return cuda


@pytest.fixture(scope="module")
def raw(cuda: Any) -> Any:
    return cuda._cuda


def nv12(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height * 3 // 2, width), dtype=np.uint8)


def source_of(cuda: Any, frame: Any, height: int, width: int, affine: np.ndarray, chroma: bool) -> np.ndarray:
    """One crop source; the frame is a device array, packed."""
    made = np.zeros(1, cuda.CROP_SOURCE)
    made["pixels"], made["height"], made["width"] = frame.pointer, height, width
    made["stride"] = width if chroma else 3 * width
    if chroma:
        made["chroma"], made["chroma_stride"] = frame.pointer + height * width, width
    made["affine"] = affine.reshape(6)
    return made


# --- crops out of many pictures -----------------------------------------------------------------


def test_layout_of_the_crop_sources(cuda: Any, raw: Any) -> None:
    fields = cuda.CROP_SOURCE.fields
    found = {name: fields[name][1] for name in fields} | {"": cuda.CROP_SOURCE.itemsize}
    assert raw.LAYOUTS["crop_source"] == found


def test_nv12_is_what_opencv_makes_of_it() -> None:
    cv2 = pytest.importorskip("cv2")
    for seed, shape in enumerate([(2, 2), (36, 50), (240, 320)]):
        frame = nv12(*shape, seed)
        np.testing.assert_array_equal(
            reference.bgr_of_nv12(frame), cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)
        )
    y, u, v = np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij")
    frame = np.zeros((3 * y.size, 2), np.uint8)
    frame[: 2 * y.size] = y.reshape(-1).repeat(2)[:, None]
    frame[2 * y.size :] = np.stack([u.reshape(-1), v.reshape(-1)], axis=1)
    np.testing.assert_array_equal(reference.bgr_of_nv12(frame), cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12))


@pytest.mark.parametrize(
    "bad", [None, np.zeros((6, 4)), np.zeros((5, 4), np.uint8), np.zeros((6, 3), np.uint8)]
)
def test_what_is_no_nv12_frame_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match="argument 'frame' is not usable"):
        reference.bgr_of_nv12(bad)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_one_launch_crops_many_pictures(cuda: Any, raw: Any, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 70)))
    rgb = data.draw(st.booleans())
    matrices = data.draw(affines(count))
    pictures, sources, frames = [], [], []
    for i, matrix in enumerate(matrices):
        chroma = data.draw(st.booleans())
        rows, columns = (2 * data.draw(st.integers(1, 30)) for _ in range(2))
        frame = nv12(rows, columns, i) if chroma else picture(rows, columns, i)
        pictures.append(reference.bgr_of_nv12(frame) if chroma else frame)
        frames.append(cuda.DeviceArray.of(frame))
        sources.append(source_of(cuda, frames[-1], rows, columns, matrix, chroma))
    table = cuda.DeviceArray.of(np.concatenate(sources))
    whole = cuda.DeviceArray((count, height, width, 3), np.uint8)
    raw.crop_pixels(table.pointer, count, height, width, rgb, whole.pointer, 0)
    floats = cuda.DeviceArray((count, 3, height, width))
    raw.crop_normalize(table.pointer, count, height, width, MEAN, STD, FILL, rgb, floats.pointer, 0)
    whole, floats = whole.numpy(), floats.numpy()
    for i, image in enumerate(pictures):
        args = (image, matrices[i : i + 1], (height, width))
        np.testing.assert_array_equal(whole[i : i + 1], reference.crop_pixels(*args, rgb))
        expected = reference.crop_normalize(*args, MEAN, STD, rgb)
        np.testing.assert_allclose(floats[i : i + 1], expected, rtol=1e-5, atol=4e-6)


def test_rows_of_pictures_may_be_padded(cuda: Any, raw: Any) -> None:
    frame, pitch = nv12(20, 30, 0), 48
    padded = np.full((30, pitch), 99, np.uint8)
    padded[:, :30] = frame
    memory = cuda.DeviceArray.of(padded)
    affine = np.array([[[0.8, 0.1, 1], [-0.1, 0.7, 2]]])
    source = source_of(cuda, memory, 20, 30, affine, True)
    source["stride"] = source["chroma_stride"] = pitch
    source["chroma"] = memory.pointer + 20 * pitch
    table, out = cuda.DeviceArray.of(source), cuda.DeviceArray((1, 25, 33, 3), np.uint8)
    raw.crop_pixels(table.pointer, 1, 25, 33, True, out.pointer, 0)
    expected = reference.crop_pixels(reference.bgr_of_nv12(frame), affine, (25, 33), True)
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("start", range(9))
def test_pictures_and_crops_may_start_at_any_byte(cuda: Any, raw: Any, start: int) -> None:
    rows, columns, height, width = 22, 26, 19, 24
    for chroma, turn in [(False, 0.0), (False, 0.4), (True, 0.0), (True, 0.4)]:
        frame = nv12(rows, columns, start) if chroma else picture(rows, columns, start)
        affine = np.array([[[1.1, turn, -1.3], [-turn, 1.2, 1.7]]])
        memory = cuda.DeviceArray.of(np.concatenate([np.zeros(start, np.uint8), frame.reshape(-1)]))
        source = source_of(cuda, memory, rows, columns, affine, chroma)
        source["pixels"] += start
        source["chroma"] += start if chroma else 0
        table, out = cuda.DeviceArray.of(source), cuda.DeviceArray((start + height * width * 3,), np.uint8)
        raw.crop_pixels(table.pointer, 1, height, width, False, out.pointer + start, 0)
        image = reference.bgr_of_nv12(frame) if chroma else frame
        expected = reference.crop_pixels(image, affine, (height, width), False)
        np.testing.assert_array_equal(out.numpy()[start:].reshape(expected.shape), expected)


def test_a_graph_stays_valid_while_pictures_change(cuda: Any, raw: Any) -> None:
    stream = raw.create_stream()
    table = cuda.DeviceArray((1,), cuda.CROP_SOURCE)
    out = cuda.DeviceArray((1, 3, 14, 11))
    raw.begin_capture(stream)
    raw.crop_normalize(table.pointer, 1, 14, 11, MEAN, STD, FILL, True, out.pointer, stream)
    graph = raw.end_capture(stream)
    for seed, (rows, columns) in enumerate([(20, 30), (8, 90)]):
        image, affine = picture(rows, columns, seed), np.array([[[1.5 + seed, 0, 2], [0, 0.5, -1]]])
        frame = cuda.DeviceArray.of(image)
        source = source_of(cuda, frame, rows, columns, affine, False)
        raw.copy_in(table.pointer, source.ctypes.data, source.nbytes, stream)
        graph.launch(stream)
        raw.synchronize(stream)
        expected = reference.crop_normalize(image, affine, (14, 11), MEAN, STD, True)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=4e-6)
    graph.close()
    raw.destroy_stream(stream)


# --- mirroring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 4, 48, 51])
def test_mirror(cuda: Any, width: int) -> None:
    planes = make_maps("holes", (2, 3, 7, width), 0)
    np.testing.assert_array_equal(cuda.mirror(planes), planes[..., ::-1])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cuda.mirror(pixels), pixels[:, :, ::-1])
    on_device = cuda.mirror(cuda.DeviceArray.of(pixels))
    np.testing.assert_array_equal(on_device.numpy(), pixels[:, :, ::-1])
    assert cuda.mirror(planes[:0]).shape == (0, 3, 7, width)


def test_mirror_refuses_what_it_cannot_turn(cuda: Any) -> None:
    for bad in (None, MAPS.astype(np.float16), MAPS[0], np.zeros((1, 2, 2, 4), np.uint8)):
        with pytest.raises(InvalidInputError, match="argument 'images' is not usable"):
            cuda.mirror(bad)
    with pytest.raises(InvalidInputError, match="shares memory"):
        cuda.mirror(MAPS, MAPS)


# --- arrays on the device ---------------------------------------------------------------------------


def test_arrays_on_the_device_give_arrays_on_the_device(cuda: Any) -> None:
    maps = cuda.DeviceArray.of(MAPS)
    soft = cuda.soft_argmax(maps)
    assert all(isinstance(array, cuda.DeviceArray) for array in soft)
    assert_same_soft(tuple(array.numpy() for array in soft), reference.soft_argmax(MAPS))
    coords, scores = cuda.argmax_offset(maps, None)
    moved = cuda.quarter_offset(maps, coords)
    expected = reference.quarter_offset(MAPS, reference.argmax_offset(MAPS, None)[0])
    np.testing.assert_array_equal(moved.numpy(), expected)
    assert scores.shape == (2, 3)
    half = cuda.DeviceArray.of(MAPS.astype(np.float16))
    average = cuda.flip_average(half, half, [(0, 1)], True)
    expected = reference.flip_average(MAPS.astype(np.float16), MAPS.astype(np.float16), [(0, 1)], True)
    np.testing.assert_array_equal(average.numpy(), expected)
    image, affine = picture(20, 30), np.array([[[0.9, 0.2, 2], [-0.1, 1.1, 5]]])
    crops = cuda.crop_pixels(cuda.DeviceArray.of(image), affine, (21, 33), True)
    np.testing.assert_array_equal(crops.numpy(), reference.crop_pixels(image, affine, (21, 33), True))


def test_out_may_lie_on_either_side(cuda: Any) -> None:
    expected = reference.flip_average(MAPS, MAPS, [(0, 1)], False)
    for place in (lambda array: array, cuda.DeviceArray.of):
        maps = place(MAPS)
        here, there = np.empty_like(MAPS), cuda.DeviceArray(MAPS.shape)
        assert cuda.flip_average(maps, maps, [(0, 1)], False, here) is here
        assert cuda.flip_average(maps, maps, [(0, 1)], False, there) is there
        np.testing.assert_array_equal(here, expected)
        np.testing.assert_array_equal(there.numpy(), expected)
    own, other = cuda.DeviceArray.of(MAPS), cuda.DeviceArray.of(MAPS)
    assert cuda.flip_average(own, other, [(0, 1)], False, own) is own
    np.testing.assert_array_equal(own.numpy(), expected)


def test_out_on_the_device_must_not_overlap_what_is_read(cuda: Any) -> None:
    maps = cuda.DeviceArray.of(MAPS)
    with pytest.raises(InvalidInputError, match="argument 'out' is not usable; found an array that shares"):
        cuda.flip_average(cuda.DeviceArray.of(MAPS), maps, [], True, maps)


def described(shape: Any = (1, 1, 2, 2), pointer: Any = 64, **changes: Any) -> SimpleNamespace:
    interface = {"shape": shape, "typestr": "<f4", "data": (pointer, False), "strides": None, "version": 3}
    return SimpleNamespace(__cuda_array_interface__=interface | changes)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (described(pointer=0), "device pointer is null"),
        (described(pointer=66), "not aligned"),
        (described(strides=(16, 16, 4, 8)), "not packed"),
        (described(strides=(16, 16, 8)), "not packed"),
        (described(shape=None), "cannot be read"),
        (described(typestr="x"), "cannot be read"),
        (described(mask=described()), "mask"),
        (described(typestr="<f8"), r"float64 array of shape \(1, 1, 2, 2\) on the device"),
        (described(shape=(1, 2, 2)), r"float32 array of shape \(1, 2, 2\) on the device"),
    ],
)
def test_unusable_arrays_on_the_device_are_refused(cuda: Any, value: Any, found: str) -> None:
    with pytest.raises(InvalidInputError, match=f"argument 'heatmaps' is not usable; found .*{found}"):
        cuda.soft_argmax(value)


def test_read_only_arrays_on_the_device_are_no_out(cuda: Any) -> None:
    locked = described(MAPS.shape, data=(64, True))
    with pytest.raises(InvalidInputError, match="read-only"):
        cuda.flip_average(MAPS, MAPS, [], True, locked)


def test_strides_of_packed_arrays_are_taken(cuda: Any) -> None:
    memory = cuda.DeviceArray.of(MAPS[:1])
    value = described(MAPS[:1].shape, memory.pointer, strides=(0, *MAPS.strides[1:]), stream=1)
    assert_same_soft(
        tuple(array.numpy() for array in cuda.soft_argmax(value)), reference.soft_argmax(MAPS[:1])
    )


def test_empty_arrays_on_the_device(cuda: Any) -> None:
    empty = cuda.DeviceArray((0, 17, 8, 6))
    assert empty.__cuda_array_interface__["data"] == (0, False)
    coords, scores, covariance = cuda.soft_argmax(empty)
    assert (coords.shape, scores.shape, covariance.shape) == ((0, 17, 2), (0, 17), (0, 17, 2, 2))
    assert coords.numpy().shape == (0, 17, 2)


def test_memory_is_used_again(cuda: Any) -> None:
    array = cuda.DeviceArray((3, 12345))
    pointer = array.pointer
    array.free()
    array.free()
    with pytest.raises(ValueError, match="found it freed"):
        array.numpy()
    other = cuda.DeviceArray((12345, 3))
    assert other.pointer == pointer
    del other
    assert cuda.DeviceArray((12345, 3), np.int32).pointer == pointer


def test_the_pool_keeps_a_limited_amount(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepose.kernels import _device_memory

    freed: list[int] = []
    numbers = iter(range(1, 100))
    module = SimpleNamespace(allocate=lambda size: next(numbers), free=freed.append)
    monkeypatch.setattr(_device_memory, "_cuda", module)
    monkeypatch.setattr(_device_memory, "_MAX_HELD", 100)
    pool = _device_memory._Pool()
    for pointer in (1, 2, 3):
        assert pool.take(60) == pointer
    for pointer in (1, 2, 3):
        pool.give(60, pointer)
    assert pool.take(60) == 1
    assert pool.take(10) == 4
    assert freed == [2]


def test_sizes_of_maps_are_bounded(cuda: Any) -> None:
    with pytest.raises(InvalidInputError, match="less than 2\\^31 maps"):
        cuda.soft_argmax(described((1, 1, 1 << 20, 1 << 12)))


def test_the_benchmark_runs(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    script = importlib.import_module("cuda_kernels")
    tiny = "--joints 2 --maps 8 6 --crop 16 12 --frame 20 30 --launches 2 --rounds 1 --spread 4096"
    script.main(["--batches", "1", "2", *tiny.split()])
    text = capsys.readouterr().out
    assert text.count("| soft_argmax, float16 |") == 2
    assert "| crop_pixels, turned, NV12 |" in text
    assert "Copies on the device: " in text
