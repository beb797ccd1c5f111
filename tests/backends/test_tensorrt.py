"""TensorRT engines on fakes of every version: results, and networks on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, people_model, people_spec, pixel_model, spots

import edgepose
from edgepose import BackendUnavailableError
from edgepose.backends import device_network, open_backend, read_model_spec
from edgepose.backends.onnxruntime import OnnxRuntimeBackend
from tests.fakes.engines import Rig, pictures

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 11])
def test_batches_of_any_size_give_what_the_model_gives(rig: Rig, count: int) -> None:
    batch = pictures(count)
    backend = rig.open()
    found = backend.run(batch)
    assert list(found) == ["heatmaps"]
    np.testing.assert_array_equal(found["heatmaps"], rig.reference(batch)["heatmaps"])
    again = backend.run(batch[::-1].copy())
    assert not np.array_equal(found["heatmaps"], again["heatmaps"]) or count == 1  # the caller's to keep
    sizes = [shapes["image"][0] for _, shapes in rig.control.runs[: len(rig.control.runs) // 2]]
    assert sizes == {1: [1], 2: [2], 3: [4], 4: [4], 5: [4, 1], 11: [4, 4, 4]}[count]
    backend.close()


@pytest.mark.parametrize(
    ("batches", "count", "sizes"), [((3, 6), 1, [3]), ((3, 6), 5, [6]), ((2, 2), 5, [2, 2, 2])]
)
def test_the_profile_bounds_the_batch(
    rigs: Any, batches: tuple[int, int], count: int, sizes: list[int]
) -> None:
    rig = rigs()
    backend = rig.open(batches=batches)
    assert backend.batch_sizes == batches
    batch = pictures(count)
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], rig.reference(batch)["heatmaps"])
    assert [shapes["image"][0] for _, shapes in rig.control.runs] == sizes
    backend.close()


def test_what_fills_a_batch_up_is_zero(rigs: Any) -> None:
    backend = rigs().open()
    backend.run(np.ones((4, 3, 64, 48), np.float32))
    backend.run(np.ones((3, 3, 64, 48), np.float32))
    given = backend._local.lane._bindings[4, 3, 64, 48].buffers["image"].array
    assert given.mean(axis=(1, 2, 3)).tolist() == [1, 1, 1, 0]
    del given
    backend.close()


def test_an_engine_with_a_fixed_input(rig: Rig) -> None:
    source = color_model(rig.folder / "b.onnx", batch=2)
    backend = rig.open(source=source, batches=(2, 2), fixed=True)
    assert (backend.batch_sizes, backend.input_size) == ((2, 2), (64, 48))
    batch = pictures(3)
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], rig.reference(batch)["heatmaps"])
    backend.close()


@pytest.mark.parametrize("integrated", [False, True])
def test_memory_that_is_shared_is_not_copied(rigs: Any, integrated: bool) -> None:
    rig = rigs(integrated=integrated)
    backend = rig.open()
    batch = pictures(2)
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], rig.reference(batch)["heatmaps"])
    copies = rig.cuda.counts["cuMemcpyHtoDAsync"], rig.cuda.counts["cuMemcpyDtoHAsync"]
    assert copies == ((0, 0) if integrated else (1, 1))
    backend.close()


def test_bytes_in_and_half_out(rig: Rig) -> None:
    import onnx

    source = pixel_model(rig.folder / "bytes.onnx", rig.source(precision="fp16"))
    model = onnx.load(source)
    model.graph.node[-1].output[0] = "exact"
    model.graph.node.append(
        onnx.helper.make_node("Cast", ["exact"], ["heatmaps"], to=onnx.TensorProto.FLOAT16)
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, source)
    backend = rig.open(source=source)
    batch = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    found = backend.run(batch)["heatmaps"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, rig.reference(batch, source)["heatmaps"])
    with pytest.raises(
        BackendUnavailableError, match=r"found an input float32 .*takes uint8 \(1, 64, 48, 3\)"
    ):
        backend.run(batch.astype(np.float32))
    backend.close()


def test_bottom_up_with_sides_in_a_range(rig: Rig) -> None:
    source = people_model(rig.folder / "p.onnx", people_spec(), outputs=("tags", "heatmaps", "heatmaps_high"))
    backend = rig.open(source=source, sides=((64, 64), (128, 192)), batches=(1, 2))
    assert backend.input_size is None
    for size in [(64, 64), (128, 64), (128, 192)]:
        batch = pictures(2, size)
        found, expected = backend.run(batch), rig.reference(batch, source)
        assert list(found) == ["heatmaps", "heatmaps_high", "tags"]  # whatever the engine's order
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])
    with pytest.raises(
        BackendUnavailableError, match=r"\(1, 3, 64, 256\).*\(1, 3, 64, 64\) to \(2, 3, 128, 192\)"
    ):
        backend.run(pictures(1, (64, 256)))
    backend.close()
    fixed = rig.open(source=source, sides=((64, 128), (64, 128)))
    assert fixed.input_size == (64, 128)
    fixed.close()


def test_outputs_that_the_task_does_not_need(rig: Rig) -> None:
    import onnx

    source = rig.source()
    model = onnx.load(source)
    model.graph.node.append(onnx.helper.make_node("Cast", ["heatmaps"], ["more"], to=onnx.TensorProto.INT32))
    kind = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.INT32, ["batch", 3, 16, 12])
    model.graph.output.append(kind)
    onnx.save(model, source)
    backend = rig.open()
    assert list(backend.run(pictures(2))) == ["heatmaps"]
    backend.close()


def test_what_is_told(rigs: Any) -> None:
    rig = rigs("11.4.0.106", name="Orin")
    with open_engine(rig) as backend:
        assert backend.describe() == {
            "name": "tensorrt",
            "version": "11.4.0.106",
            "device": "cuda:0",
            "gpu": "Orin",
            "compute_capability": "8.7",
            "precision": "fp32",
            "typing": "strong",
            "batch_sizes": [1, 4],
            "reason": "the file is a TensorRT engine",
        }


class open_engine:
    """`open_backend` of a new engine, closed at the end of the block."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        self.path, self.options = rig.engine(), options

    def __enter__(self) -> Any:
        self.backend = open_backend(self.path, **self.options)
        return self.backend

    def __exit__(self, *_: object) -> None:
        self.backend.close()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"runtime": "tensorrt"}, "tensorrt was asked for"),
        ({"runtime": "tensorrt", "device": "cuda"}, "tensorrt and device 'cuda' were asked for"),
        ({"device": "cuda:1"}, "the file is a TensorRT engine"),
    ],
)
def test_runtime_and_device_as_asked(rigs: Any, options: dict[str, str], reason: str) -> None:
    rig = rigs(devices=2)
    with open_engine(rig, **options) as backend:
        assert backend.device == ("cuda:1" if options.get("device") == "cuda:1" else "cuda:0")
        assert backend.describe()["reason"] == reason
        np.testing.assert_array_equal(backend.run(pictures(1))["heatmaps"].shape, (1, 3, 16, 12))
    assert len(rig.cuda.retained) == 1


def test_the_estimator_takes_engines(rigs: Any) -> None:
    rig = rigs()
    picture = spots((64, 48), [(12, 20), (30, 40), (20, 50)])
    expected = edgepose.Estimator(rig.source(), device="cpu")(picture)
    for name in ("a.engine", "a.plan"):
        with edgepose.Estimator(rig.engine(name)) as estimator:
            np.testing.assert_allclose(estimator(picture).keypoints, expected.keypoints)
            assert estimator.info.backend["name"] == "tensorrt"
            assert "tensorrt on cuda:0" in repr(estimator)
        assert read_model_spec(rig.folder / name).name == "colors"


# --- networks on the device ---------------------------------------------------------------------------------


def host(array: Any) -> np.ndarray:
    """A device's array, whose memory is the host's here."""
    interface = dict(array.__cuda_array_interface__)
    assert interface.pop("stream") is None
    return np.asarray(type("Interface", (), {"__array_interface__": interface})())


def test_bindings_keep_their_buffers(rig: Rig) -> None:
    backend = rig.open()
    network = device_network(backend)
    assert network is not None
    assert (network.cuda.number, network.capturable, network.stream) == (0, True, None)
    stream = network.cuda.stream()
    bindings = [network.bind((n, 3, 64, 48)) for n in (1, 4)]
    places = {array.pointer for each in bindings for array in (each.input, *each.outputs.values())}
    assert len(places) == 4
    for binding, count in zip(bindings, (1, 4), strict=True):
        batch = pictures(count)
        assert (binding.input.shape, binding.input.dtype) == (batch.shape, np.float32)
        assert binding.input.nbytes == batch.nbytes
        host(binding.input)[:] = batch
        binding.enqueue(stream.handle)
        assert rig.control.runs[-1][0] == stream.handle
        np.testing.assert_array_equal(host(binding.outputs["heatmaps"]), rig.reference(batch)["heatmaps"])
    bindings[0].close()
    bindings[0].close()
    with pytest.raises(BackendUnavailableError, match="found it closed"):
        bindings[0].enqueue(stream.handle)
    backend.close()
    with pytest.raises(BackendUnavailableError, match="found it closed"):
        bindings[1].enqueue(stream.handle)
    with pytest.raises(BackendUnavailableError, match="found it closed"):
        network.bind((1, 3, 64, 48))
    bindings[1].close()
    stream.close()


def test_a_backend_on_the_cpu_is_no_network_on_a_device(rigs: Any) -> None:
    backend = OnnxRuntimeBackend(rigs().source(), device="cpu")
    assert device_network(backend) is None


def test_an_engine_on_the_dla_cannot_be_captured(rigs: Any) -> None:
    backend = rigs().open(dla=0)
    assert backend.capturable is False
    backend.close()


@pytest.mark.parametrize("shape", [(5, 3, 64, 48), (1, 3, 64, 64), (1, 3, 64), (0, 3, 64, 48)])
def test_shapes_outside_of_the_profile(rig: Rig, shape: tuple[int, ...]) -> None:
    backend = rig.open()
    with pytest.raises(
        BackendUnavailableError, match=r"build it again for larger ones: edgepose build a\.onnx"
    ):
        backend.bind(shape)
    backend.close()


def test_a_profile_in_use_by_another_context(monkeypatch: pytest.MonkeyPatch, rigs: Any) -> None:
    """TensorRT 8.6 gives the engine's profile to the first context alone; others must ask for it."""
    from tests.fakes import tensorrt_run

    asked = []
    init = tensorrt_run.IExecutionContext.__init__
    ask = tensorrt_run.IExecutionContext.set_optimization_profile_async

    def none_yet(self: Any, engine: Any) -> None:
        init(self, engine)
        self._profile = -1

    def recorded(self: Any, profile_index: int, stream_handle: int) -> bool:
        asked.append((profile_index, stream_handle != 0))
        return bool(ask(self, profile_index, stream_handle))

    monkeypatch.setattr(tensorrt_run.IExecutionContext, "__init__", none_yet)
    monkeypatch.setattr(tensorrt_run.IExecutionContext, "set_optimization_profile_async", recorded)
    rig = rigs("8.6.0")
    backend = rig.open()
    batch = pictures(1)
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], rig.reference(batch)["heatmaps"])
    assert asked == [(0, True)]
    rig.control.fail.add("IExecutionContext.set_optimization_profile_async")
    with pytest.raises(BackendUnavailableError, match="use the engine's profile in one more"):
        backend.run(pictures(2))
    backend.close()
