"""TensorRT engines on fakes of every version: results, threads, what is refused, and closing."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, people_spec, pixel_model, spots

import edgepose
from edgepose import (
    BackendUnavailableError,
    EngineMismatchError,
    InvalidInputError,
    ModelFormatError,
    ModelNotFoundError,
)
from edgepose.backends import device_network, open_backend, read_model_spec
from edgepose.backends.onnxruntime import OnnxRuntimeBackend
from edgepose.backends.tensorrt import SHAPES_KEPT, TensorRtBackend
from tests.fakes import pycuda, tensorrt
from tests.fakes.engines import make_engine, make_plan

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Rig:
    """A fake GPU with a fake TensorRT, a model, and engines of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, version: str, **knobs: Any) -> None:
        self.cuda = pycuda.install(monkeypatch, **knobs)
        self.trt = tensorrt.install(monkeypatch, version, check_memory=self.cuda.covers)
        self.control = tensorrt.control(self.trt)
        self.version = version
        self.folder = folder

    def source(self, **changes: Any) -> Path:
        path = self.folder / "a.onnx"
        return path if path.exists() and not changes else color_model(path, color_spec(**changes))

    def engine(self, name: str = "a.engine", source: Path | None = None, **options: Any) -> Path:
        return make_engine(self.folder / name, self.trt, source or self.source(), **options)

    def open(self, **options: Any) -> TensorRtBackend:
        return TensorRtBackend(self.engine(**options))

    def reference(self, batch: np.ndarray, source: Path | None = None) -> dict[str, np.ndarray]:
        backend = OnnxRuntimeBackend(source or self.source(), device="cpu", threads=1)
        found = backend.run(batch)
        backend.close()
        return found


@pytest.fixture
def rigs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(version: str = "10.3.0", **knobs: Any) -> Rig:
        made.append(Rig(monkeypatch, tmp_path, version, **knobs))
        return made[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield make
        gc.collect()
        for rig in made:
            rig.cuda.check()
            assert rig.control.default_stream == 0


@pytest.fixture(params=tensorrt.VERSIONS)
def rig(request: pytest.FixtureRequest, rigs: Callable[..., Rig]) -> Rig:
    return rigs(request.param)


def pictures(count: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, *size), np.float32)


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
        assert list(found) == list(expected) == ["tags", "heatmaps", "heatmaps_high"]
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


# --- threads ------------------------------------------------------------------------------------------------


def test_threads_share_an_engine_and_nothing_else(rig: Rig) -> None:
    backend = rig.open()
    batches = [pictures(count) for count in (1, 2, 3, 6)]
    expected = [rig.reference(batch)["heatmaps"] for batch in batches]
    idle = rig.cuda.held()
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(place: int) -> None:
        try:
            start.wait()
            for turn in range(8):
                number = (place + turn) % 4
                np.testing.assert_array_equal(backend.run(batches[number])["heatmaps"], expected[number])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({stream for stream, _ in rig.control.runs}) == 4
    assert rig.control.deserialized == 1
    assert rig.cuda.held() == idle  # what a thread had is gone with it
    backend.close()


def test_closing_waits_for_runs_in_other_threads(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import streams

    rig = rigs()
    backend = rig.open()
    running, go_on = threading.Event(), threading.Event()

    def slow(stream: int, work: Callable[[], None]) -> None:
        running.set()
        assert go_on.wait(10)
        work()

    monkeypatch.setattr(streams, "_forward", slow)
    found: list[Any] = []
    runner = threading.Thread(target=lambda: found.append(backend.run(pictures(1))))
    runner.start()
    assert running.wait(10)
    closer = threading.Thread(target=backend.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    go_on.set()
    closer.join(10)
    runner.join(10)
    np.testing.assert_array_equal(found[0]["heatmaps"], rig.reference(pictures(1))["heatmaps"])
    with pytest.raises(BackendUnavailableError, match="found it closed"):
        backend.run(pictures(1))


def test_few_shapes_keep_their_buffers(rigs: Any) -> None:
    rig = rigs()
    source = people_model(rig.folder / "p.onnx", people_spec())
    backend = rig.open(source=source, sides=((64, 64), (64, 1024)))
    held = []
    for width in range(64, 64 + 32 * (SHAPES_KEPT + 3), 32):
        backend.run(pictures(1, (64, width)))
        held.append(rig.cuda.held())
    assert held[0] < held[SHAPES_KEPT - 1] == held[-1]

    def made(width: int) -> bool:
        before = rig.cuda.counts["cuMemAlloc"]
        backend.run(pictures(1, (64, width)))
        return rig.cuda.counts["cuMemAlloc"] > before

    oldest = width - 32 * (SHAPES_KEPT - 1)
    assert not made(width)
    assert not made(oldest)
    assert made(64)  # in the place of the one that was used longest ago
    assert not made(oldest)
    assert made(oldest + 32)
    backend.close()


# --- closing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["backend", "binding"])
def test_closing_in_any_order_and_from_another_thread(rig: Rig, first: str) -> None:
    backend = rig.open()
    backend.run(pictures(2))
    binding, stream = backend.bind((1, 3, 64, 48)), backend.cuda.stream()
    binding.enqueue(stream.handle)
    things = [backend, binding] if first == "backend" else [binding, backend]
    thread = threading.Thread(target=lambda: [thing.close() for thing in (*things, *things)])
    thread.start()
    thread.join()
    assert rig.cuda.held() == 1
    stream.close()


def test_work_has_ended_when_a_binding_is_released(rigs: Any) -> None:
    rig = rigs()
    backend = rig.open()
    binding, stream = backend.bind((1, 3, 64, 48)), backend.cuda.stream()
    binding.enqueue(stream.handle)
    waits = rig.cuda.counts["cuCtxSynchronize"]
    binding.close()
    assert rig.cuda.counts["cuCtxSynchronize"] == waits + 1
    backend.close()
    stream.close()


def test_what_is_never_closed_goes_with_its_last_reference(rig: Rig) -> None:
    backend = rig.open()
    backend.run(pictures(2))
    binding = backend.bind((1, 3, 64, 48))
    del backend
    gc.collect()
    assert rig.cuda.held() > 0  # the binding still serves
    stream = binding.device.stream()
    binding.enqueue(stream.handle)
    del binding, stream
    gc.collect()
    assert rig.cuda.held() == 0


AT_EXIT = """
import atexit, sys, threading, pathlib
sys.path.insert(0, "tests")
from tests.fakes import pycuda, tensorrt
cuda = pycuda.install()
trt = sys.modules["tensorrt"] = tensorrt.make("10.3.0", check_memory=cuda.covers)
def last():  # registered first, so that it runs last, as pycuda's own end does
    cuda.check()
    print("clean", len(tensorrt.control(trt).runs))
atexit.register(last)
import numpy as np
import edgepose
from edgepose.backends import open_backend
from tests.fakes.engines import make_engine
from tiny_models import color_model
folder = pathlib.Path(sys.argv[1])
path = make_engine(folder / "a.engine", trt, color_model(folder / "a.onnx"))
"""
ENDS = {
    "estimator": """
estimator = edgepose.Estimator(path, kernels="numpy")
estimator(np.zeros((64, 48, 3), np.uint8))
""",
    "bindings": """
backend = open_backend(path)
sys.kept = [backend.bind((1, 3, 64, 48)), backend]
sys.kept[0].enqueue(sys.kept[0].device.stream().handle)
""",
    "thread": """
backend = open_backend(path)
def forever():
    backend.run(np.zeros((2, 3, 64, 48), np.float32))
    ready.set()
    threading.Event().wait()
ready = threading.Event()
threading.Thread(target=forever, daemon=True).start()
ready.wait()
""",
    "error": """
estimator = edgepose.Estimator(path, kernels="numpy")
estimator(np.zeros((64, 48, 3), np.uint8))
sys.exit(3)
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreters_end(tmp_path: Path, end: str) -> None:
    command = [sys.executable, "-W", "error", "-c", AT_EXIT + ENDS[end], str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3 if end == "error" else 0, "clean 1\n", "")


def test_a_fork_is_refused(rigs: Any, caplog: pytest.LogCaptureFixture) -> None:
    rig = rigs()
    backend = rig.open()
    backend.run(pictures(1))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        try:
            backend.run(pictures(1))
            queue.put("served")
        except BackendUnavailableError as error:
            queue.put(str(error))
        backend.close()  # leaves alone what is the parent's
        queue.put((rig.cuda.leaks, caplog.text))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        process = context.Process(target=child)
        process.start()
    assert "start processes by 'spawn'" in queue.get()
    assert queue.get() == ([], "")
    process.join()
    assert process.exitcode == 0
    assert backend.run(pictures(1))["heatmaps"].shape == (1, 3, 16, 12)
    backend.close()


# --- refusals -----------------------------------------------------------------------------------------------


def test_the_driver_is_asked_before_tensorrt(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `trt.Runtime` without a driver takes the process down."""
    rig = rigs()
    path = rig.engine()
    rig.control.cuda = rig.cuda.driver = False
    with pytest.raises(BackendUnavailableError, match="no CUDA-capable device is detected"):
        TensorRtBackend(path)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"needs pycuda\.driver"):
        TensorRtBackend(path)


def test_no_tensorrt(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rigs()
    path = rig.engine()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r'needs tensorrt; .*"edgepose\[tensorrt\]"'):
        open_backend(path)


def test_the_version_that_computes_wrong_results(rigs: Any) -> None:
    rig = rigs()
    path = rig.engine()
    rig.trt.__version__ = "10.2.0"
    with pytest.raises(BackendUnavailableError, match="wrong results"):
        TensorRtBackend(path)


@pytest.mark.parametrize(
    ("built", "words"),
    [
        ({"tensorrt": "10.4.0"}, "built with TensorRT 10.4.0, SM 8.7"),
        ({"sm": "7.2"}, "SM 7.2, .*, found TensorRT 10.3.0, SM 8.7"),
        ({"system": "linux-riscv"}, "linux-riscv"),
        ({"version_compatible": True, "tensorrt": "11.0.0"}, "version-compatible"),
    ],
)
def test_an_engine_for_elsewhere_never_reaches_tensorrt(rigs: Any, built: dict[str, Any], words: str) -> None:
    rig = rigs()
    path = rig.engine(**built)
    rig.control.fail.add("Runtime.__init__")
    with pytest.raises(EngineMismatchError, match=words) as caught:
        open_backend(path)
    assert caught.value.rebuild_command == "edgepose build a.onnx -o a.engine"


def test_an_engine_of_an_earlier_version_that_is_made_for_it(
    rigs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rigs("10.3.0")
    path = rig.engine(version_compatible=True)
    later = tensorrt.install(monkeypatch, "11.4.0.106", check_memory=rig.cuda.covers)
    backend = TensorRtBackend(path)
    batch = pictures(2)
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], rig.reference(batch)["heatmaps"])
    assert tensorrt.control(later).deserialized == 1
    backend.close()


def test_host_code_is_allowed_for_those_engines_alone(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import tensorrt_run

    seen = []
    honest = tensorrt_run.Runtime.deserialize_cuda_engine

    def spy(self: Any, serialized_engine: Any) -> Any:
        seen.append(self.engine_host_code_allowed)
        return honest(self, serialized_engine)

    monkeypatch.setattr(tensorrt_run.Runtime, "deserialize_cuda_engine", spy)
    rig = rigs()
    for compatible in (False, True):
        rig.open(version_compatible=compatible).close()
    assert seen == [False, True]


def test_a_plan_that_tensorrt_refuses(rig: Rig) -> None:
    other = next(version for version in tensorrt.VERSIONS if version != rig.version)
    model = rig.source().read_bytes()
    profile = [(1, 3, 64, 48)] * 3
    foreign = make_plan(tensorrt.make(other), model, profile)
    path = rig.engine(plan=foreign)  # the file says otherwise
    with pytest.raises(EngineMismatchError, match="not compatible with this version of TensorRT") as caught:
        open_backend(path)
    assert f"TensorRT {rig.version}" in caught.value.found
    path = rig.engine(plan=b"no plan at all")
    with pytest.raises(EngineMismatchError, match="magicTag"):
        open_backend(path)
    assert rig.control.deserialized == 0


def test_errors_quote_the_failure_at_hand_alone(rigs: Any) -> None:
    rig = rigs()
    with pytest.raises(EngineMismatchError, match="magicTag"):
        open_backend(rig.engine(plan=b"no plan"))
    rig.control.fail.add("Runtime.deserialize_cuda_engine")
    with pytest.raises(EngineMismatchError) as caught:
        open_backend(rig.engine())
    assert "Runtime.deserialize_cuda_engine failed" in str(caught.value)
    assert "magicTag" not in str(caught.value)
    rig.control.fail.clear()
    backend = rig.open()
    binding, stream = backend.bind((1, 3, 64, 48)), backend.cuda.stream()
    rig.control.logger.log(rig.trt.ILogger.Severity.ERROR, "an older failure")
    rig.control.fail.add("IExecutionContext.execute_async_v3")
    with pytest.raises(BackendUnavailableError, match=r"says: IExecutionContext\.execute_async_v3 failed;"):
        binding.enqueue(stream.handle)
    backend.close()
    stream.close()


def test_no_memory_to_deserialise(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import tensorrt_run

    def refuse(self: Any, serialized_engine: Any) -> None:
        self._say("Error Code 2: OutOfMemory (Requested size was 4096 bytes: out of memory.)")

    monkeypatch.setattr(tensorrt_run.Runtime, "deserialize_cuda_engine", refuse)
    rig = rigs()
    with pytest.raises(
        BackendUnavailableError, match=r"memory of the CUDA device is used up; TensorRT says: .*4096"
    ):
        open_backend(rig.engine())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("Runtime.__init__", "cannot start; it says: Runtime.__init__ failed"),
        ("ICudaEngine.create_execution_context", "make an execution context; it says: ICudaEngine.create"),
        ("IExecutionContext.set_input_shape", r"set the input's shape \(2, 3, 64, 48\)"),
        ("IExecutionContext.set_tensor_address", "take the address of image"),
        ("IExecutionContext.execute_async_v3", "run the engine; it says: IExecutionContext.execute_async_v3"),
    ],
)
def test_calls_that_fail_are_told_in_tensorrts_words(rig: Rig, call: str, words: str) -> None:
    path = rig.engine()
    backend = TensorRtBackend(path)
    batch = pictures(2)
    rig.control.fail.add(call)
    with pytest.raises(BackendUnavailableError, match=words):
        TensorRtBackend(path) if call == "Runtime.__init__" else backend.run(batch)
    rig.control.fail.clear()
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], rig.reference(batch)["heatmaps"])
    backend.close()


def test_shapes_that_stay_unknown(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import tensorrt_run

    monkeypatch.setattr(tensorrt_run.IExecutionContext, "infer_shapes", lambda self: ["heatmaps"])
    backend = rigs().open()
    with pytest.raises(BackendUnavailableError, match=r"know the shapes of \['heatmaps'\]"):
        backend.bind((1, 3, 64, 48))
    backend.close()


@pytest.mark.parametrize("integrated", [False, True])
def test_out_of_memory(rigs: Any, integrated: bool) -> None:
    rig = rigs(integrated=integrated)
    backend = rig.open()
    backend.run(pictures(1))
    held = rig.cuda.held()
    rig.cuda.memory_left = 150_000  # enough for the input alone
    kept = []  # errors, whose tracebacks must not keep memory
    for attempt in (backend.bind, lambda shape: backend.run(pictures(shape[0]))):
        with pytest.raises(BackendUnavailableError, match=r"used up; found cuMem.*out of memory") as caught:
            attempt((4, 3, 64, 48))
        kept.append(caught.value)
        assert (rig.cuda.held(), rig.cuda.memory_left) == (held, 150_000)
    assert backend.run(pictures(1))["heatmaps"].shape == (1, 3, 16, 12)
    backend.close()


def test_a_run_that_fails_on_the_device(rigs: Any) -> None:
    rig = rigs()
    backend = rig.open()
    backend.run(pictures(2))
    held = rig.cuda.held()
    rig.cuda.broken = "an illegal memory access was encountered"
    with pytest.raises(BackendUnavailableError, match="illegal memory access"):
        backend.run(pictures(2))
    assert rig.cuda.held() < held  # buffers that work may still write to are not used again
    backend.close()
    assert rig.cuda.held() == 0


@pytest.mark.parametrize("harm", ["cut", "longer", "changed", "empty", "missing"])
def test_damaged_files(rigs: Any, harm: str) -> None:
    rig = rigs()
    path = rig.engine()
    content = path.read_bytes()
    changes = {
        "cut": content[:-10],
        "longer": content + b"x",
        "changed": content[:-1] + bytes([content[-1] ^ 1]),
        "empty": b"",
    }
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(changes[harm])
    with pytest.raises(ModelNotFoundError if harm == "missing" else ModelFormatError, match=r"a\.engine"):
        open_backend(path)
    assert rig.control.deserialized == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": "cpu"}, BackendUnavailableError, "runs on CUDA; give the .onnx file"),
        ({"device": "cuda:3"}, BackendUnavailableError, "found 1 CUDA device; give a number from 0 to 0"),
        ({"device": "gpu"}, InvalidInputError, "unknown device"),
        ({"runtime": "onnxruntime"}, InvalidInputError, "'onnxruntime' does not run engines"),
        ({"runtime": "openvino"}, InvalidInputError, "'openvino' does not run engines"),
        ({"runtime": "trt"}, InvalidInputError, "unknown runtime"),
    ],
)
def test_what_cannot_run_an_engine(rigs: Any, options: dict[str, str], error: type, words: str) -> None:
    path = rigs().engine()
    with pytest.raises(error, match=words):
        open_backend(path, **options)


def test_tensorrt_runs_no_onnx(rigs: Any) -> None:
    with pytest.raises(
        InvalidInputError, match=r"edgepose build .*a\.onnx -o .*a\.engine.*onnxruntime-tensorrt"
    ):
        open_backend(rigs().source(), runtime="tensorrt")


def test_an_engine_that_its_spec_does_not_fit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tests.fakes import engines

    def told(**changes: Any) -> Path:
        honest = engines.read_spec
        monkeypatch.setattr(engines, "read_spec", lambda path: replace(honest(path), **changes))
        return rig.engine(sides=((64, 48), (64, 48)))

    with pytest.raises(ModelFormatError, match=r"its ModelSpec says tensor\(float\) \['batch', 3, 32, 48\]"):
        open_backend(told(input_size=(32, 48)))
    monkeypatch.undo()


def test_formats_other_than_linear(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import tensorrt_run

    monkeypatch.setattr(
        tensorrt_run.ICudaEngine, "get_tensor_format", lambda self, name: self._trt.TensorFormat.CHW4
    )
    with pytest.raises(ModelFormatError, match="its image has the format CHW4"):
        open_backend(rigs().engine())
