"""ONNX Runtime on CUDA and by TensorRT: no silent fallback, and device memory bound to it."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, people_model, pixel_model

from edgepose import BackendUnavailableError, ModelFormatError
from edgepose.backends import choose_runtime, device_network, open_backend
from edgepose.backends.onnxruntime import OnnxRuntimeBackend
from tests.fakes import onnxruntime as fakes
from tests.fakes import pycuda

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return color_model(tmp_path / "a.onnx")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[pycuda.Cuda]:
    """A fake GPU, which must end with all given back."""
    cuda = pycuda.install(monkeypatch, devices=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield cuda
        gc.collect()
        cuda.check()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, cuda: pycuda.Cuda, tmp_path: Path) -> fakes.Gpu:
    """An ONNX Runtime that offers CUDA and TensorRT."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fakes.install(monkeypatch, cuda.covers)


@pytest.fixture
def no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)


def host(array: Any) -> np.ndarray:
    """A device's array, whose memory is the host's here."""
    interface = {**array.__cuda_array_interface__}
    del interface["stream"]
    return np.asarray(type("Interface", (), {"__array_interface__": interface})())


# --- which provider serves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "found"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:2", "cuda:2")])
def test_cuda_where_it_loads(model: Path, gpu: fakes.Gpu, device: str, found: str) -> None:
    backend = OnnxRuntimeBackend(model, device=device)
    assert backend.device == found
    told = backend.describe()
    assert told["providers"] == [fakes.CUDA, fakes.CPU]
    assert told["device_memory"] == "pycuda"
    assert told["reason"] == ("asked for and offers CUDA" if device == "auto" else "asked for")
    assert len(gpu.sessions) == 1
    assert gpu.sessions[0].asked[fakes.CUDA]["device_id"] == found[-1]
    assert fakes.CPU not in gpu.sessions[0].asked
    backend.close()


def test_arithmetic_of_shapes_on_the_cpu_is_no_fallback_and_is_told(model: Path, gpu: fakes.Gpu) -> None:
    gpu.cpu_nodes = True
    backend = OnnxRuntimeBackend(model, device="cuda")
    assert backend.device == "cuda:0"
    assert backend.describe()["reason"] == "asked for, which leaves some nodes to the CPU"
    assert list(gpu.sessions[0].asked) == [fakes.CUDA, fakes.CPU]
    backend.close()


@pytest.mark.parametrize("raises", [None, "CUDA_PATH is set but CUDA wasn't able to be loaded"])
def test_cuda_that_does_not_load_raises(model: Path, gpu: fakes.Gpu, raises: str | None) -> None:
    gpu.loads.clear()
    gpu.raises = raises
    found = raises or "took CPUExecutionProvider"
    with pytest.raises(
        BackendUnavailableError, match=f"'cuda' cannot serve; .* could not load CUDA and .*{found}"
    ):
        OnnxRuntimeBackend(model, device="cuda")


@pytest.mark.parametrize("raises", [None, "CUDA_PATH is set but CUDA wasn't able to be loaded"])
def test_only_auto_falls_back_and_says_so(
    model: Path, gpu: fakes.Gpu, caplog: pytest.LogCaptureFixture, raises: str | None
) -> None:
    gpu.loads.clear()
    gpu.raises = raises
    backend = OnnxRuntimeBackend(model, device="auto")
    assert backend.device == "cpu"
    assert device_network(backend) is None
    told = backend.describe()
    assert told["providers"] == [fakes.CPU]
    assert "device_memory" not in told
    assert told["reason"] == "asked for and offers CUDA, which does not load"
    assert "could not load CUDA" in caplog.text
    assert backend.run(np.zeros((1, 3, 64, 48), np.float32))["heatmaps"].shape == (1, 3, 16, 12)


def test_the_loaders_words_are_quoted(
    model: Path, gpu: fakes.Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    gpu.loads.clear()
    with pytest.raises(BackendUnavailableError, match=r"took CPU.*: .*providers_cuda\.so: .*(short|invalid)"):
        OnnxRuntimeBackend(model, device="cuda")


def test_cuda_without_the_gpu_package_raises(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [fakes.CPU])
    with pytest.raises(BackendUnavailableError, match="offers CPUExecutionProvider; install onnxruntime-gpu"):
        OnnxRuntimeBackend(model, device="cuda")
    with pytest.raises(
        BackendUnavailableError, match=r"runtime 'onnxruntime-tensorrt' cannot serve; .*offers CPU"
    ):
        open_backend(model, runtime="onnxruntime-tensorrt")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_broken_file_is_not_blamed_on_the_device(model: Path, gpu: fakes.Gpu, device: str) -> None:
    import onnx

    broken = onnx.load(model)
    broken.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(broken, model)
    with pytest.raises(ModelFormatError, match="NoSuchOperator"):
        OnnxRuntimeBackend(model, device=device)


def test_a_real_session_that_may_not_use_the_cpu_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package here has no CUDA, although it says so: what the fake says it says too."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [fakes.CUDA, fakes.CPU])
    pycuda.install(monkeypatch, devices=0)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not among the available providers
        with pytest.raises(BackendUnavailableError, match="could not load CUDA and took CPUExecution"):
            OnnxRuntimeBackend(model, device="cuda")
        for provider, text in ((fakes.CUDA, fakes.REFUSED), (fakes.CPU, fakes.CONFLICT)):
            with pytest.raises(Exception, match=r"explicitly disabled|Conflicting") as caught:
                ort.InferenceSession(str(model), options, providers=[provider], enable_fallback=0)
            assert str(caught.value) == text


# --- TensorRT by ONNX Runtime -------------------------------------------------------------------------------


def test_tensorrt_then_cuda(model: Path, gpu: fakes.Gpu, tmp_path: Path) -> None:
    backend = open_backend(model, runtime="onnxruntime-tensorrt", device="cuda:1")
    assert (backend.name, backend.device) == ("onnxruntime-tensorrt", "cuda:1")
    session = gpu.sessions[0]
    assert list(session.asked) == [fakes.TENSORRT, fakes.CUDA]
    options = session.asked[fakes.TENSORRT]
    folder = tmp_path / "cache/edgepose/onnxruntime"
    assert folder.is_dir()
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    streams = {each["user_compute_stream"] for each in session.asked.values()}
    assert streams == {str(backend.stream.handle)}  # type: ignore[attr-defined]
    reason = "onnxruntime-tensorrt and device 'cuda:1' were asked for"
    assert backend.describe()["reason"] == reason
    assert choose_runtime("onnxruntime-tensorrt", "cuda:1")[1] == reason
    backend.close()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_tensorrt_that_does_not_load_raises(model: Path, gpu: fakes.Gpu, device: str) -> None:
    gpu.loads.discard(fakes.TENSORRT)
    with pytest.raises(
        BackendUnavailableError, match=r"could not load TensorRT and took CUDAExec.*use runtime='onnxruntime'"
    ):
        open_backend(model, runtime="onnxruntime-tensorrt", device=device)
    backend = open_backend(model, runtime="onnxruntime", device=device)
    assert backend.device == "cuda:0"
    backend.close()


def test_tensorrt_is_not_for_the_cpu(model: Path, gpu: fakes.Gpu) -> None:
    with pytest.raises(BackendUnavailableError, match="it runs on CUDA, and found device='cpu'"):
        open_backend(model, runtime="onnxruntime-tensorrt", device="cpu")


def test_a_cache_that_cannot_be(
    model: Path, gpu: fakes.Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("in the way")
    backend = open_backend(model, runtime="onnxruntime-tensorrt")
    assert not [name for name in gpu.sessions[0].asked[fakes.TENSORRT] if "cache" in name]
    assert "engines are built anew each time" in caplog.text
    backend.close()


# --- device memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float32", "uint8", "bottomup"])
def test_bindings(model: Path, gpu: fakes.Gpu, tmp_path: Path, form: str) -> None:
    path = {
        "float32": lambda: model,
        "uint8": lambda: pixel_model(tmp_path / "b.onnx", model),
        "bottomup": lambda: people_model(tmp_path / "p.onnx"),
    }[form]()
    shape = {"float32": (2, 3, 64, 48), "uint8": (2, 64, 48, 3), "bottomup": (2, 3, 64, 128)}[form]
    batch = (
        np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8 if form == "uint8" else np.float32)
    )
    backend = OnnxRuntimeBackend(path, device="cuda:1")
    network = device_network(backend)
    assert network is not None
    assert (network.cuda.number, network.capturable) == (1, False)
    assert network.batch_sizes[0] == 1
    stream = network.stream
    assert stream is not None
    binding = network.bind(shape)
    session = gpu.sessions[0]
    assert session.stream == stream.handle
    assert (binding.input.shape, binding.input.dtype) == (shape, batch.dtype)
    for factor in (1, 2):
        host(binding.input)[:] = batch // factor
        binding.enqueue(stream.handle)
        expected = backend.run(batch // factor)
        assert list(binding.outputs) == list(expected)
        for name, values in expected.items():
            found = binding.outputs[name]
            assert (found.shape, found.dtype) == (values.shape, values.dtype)
            np.testing.assert_array_equal(host(found), values)
    assert session.waits == [False, False]
    pointers = {"image": binding.input, **binding.outputs}
    bound = binding._io.bound  # type: ignore[attr-defined]
    assert bound == {name: ("cuda", 1, array.pointer) for name, array in pointers.items()}
    backend.close()


@pytest.mark.parametrize("first", ["backend", "binding"])
def test_closing_in_any_order(model: Path, gpu: fakes.Gpu, cuda: pycuda.Cuda, first: str) -> None:
    backend = OnnxRuntimeBackend(model, device="cuda")
    binding, handle = backend.bind((1, 3, 64, 48)), backend.stream.handle  # type: ignore[union-attr]
    things = [backend, binding] if first == "backend" else [binding, backend]
    held = backend._held
    assert held is not None
    things[0].close()  # type: ignore[attr-defined]
    assert cuda.held() == (0 if first == "backend" else 1)  # the stream
    assert (held.session is None) == (first == "backend")
    for thing in (*things, *things):
        thing.close()  # type: ignore[attr-defined]
        with pytest.raises(BackendUnavailableError, match="found it closed"):
            binding.enqueue(handle)
    assert cuda.held() == 0
    with pytest.raises(BackendUnavailableError):
        backend.bind((1, 3, 64, 48))


def test_what_is_never_closed_goes_with_its_last_reference(
    model: Path, gpu: fakes.Gpu, cuda: pycuda.Cuda
) -> None:
    backend = OnnxRuntimeBackend(model, device="cuda")
    binding = backend.bind((1, 3, 64, 48))
    gpu.sessions.clear()
    del backend, binding
    gc.collect()
    assert cuda.held() == 0


def test_refused_runs_are_told(model: Path, gpu: fakes.Gpu) -> None:
    backend = OnnxRuntimeBackend(model, device="cuda")
    binding, handle = backend.bind((1, 3, 64, 48)), backend.stream.handle  # type: ignore[union-attr]
    with pytest.raises(BackendUnavailableError, match="found another than the network's own"):
        binding.enqueue(handle + 1)
    gpu.refuses = "CUDA failure 700: an illegal memory access was encountered"
    with pytest.raises(BackendUnavailableError, match="failed on cuda:0; found CUDA failure 700"):
        binding.enqueue(handle)
    with pytest.raises(BackendUnavailableError, match="failed on cuda:0; found CUDA failure 700"):
        backend.run(np.zeros((1, 3, 64, 48), np.float32))
    backend.close()


def test_out_of_memory(model: Path, gpu: fakes.Gpu, cuda: pycuda.Cuda) -> None:
    backend = OnnxRuntimeBackend(model, device="cuda")
    held = cuda.held()
    cuda.memory_left = 38_000  # the input fits, the outputs do not
    with pytest.raises(BackendUnavailableError, match="used up") as caught:
        backend.bind((1, 3, 64, 48))
    assert caught.value.__traceback__ is not None  # which must not keep memory
    assert (cuda.held(), cuda.memory_left) == (held, 38_000)
    backend.close()


def test_without_pycuda_the_session_serves_from_the_host(
    model: Path, gpu: fakes.Gpu, no_pycuda: None
) -> None:
    backend = OnnxRuntimeBackend(model, device="cuda")
    assert backend.device == "cuda:0"
    assert "user_compute_stream" not in gpu.sessions[0].asked[fakes.CUDA]
    assert "needs pycuda.driver" in backend.describe()["device_memory"]
    assert device_network(backend) is None
    batch = np.ones((2, 3, 64, 48), np.float32)
    reference = OnnxRuntimeBackend(model, device="cpu").run(batch)
    np.testing.assert_array_equal(backend.run(batch)["heatmaps"], reference["heatmaps"])
    with pytest.raises(BackendUnavailableError, match=r"needs pycuda\.driver"):
        backend.bind((2, 3, 64, 48))
    backend.close()


def test_versions_that_take_no_stream(model: Path, gpu: fakes.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.17.3")
    backend = OnnxRuntimeBackend(model, device="cuda")
    assert backend.describe()["device_memory"] == "onnxruntime 1.17.3 takes no stream"
    assert device_network(backend) is None
    backend.close()


def test_a_session_that_fails_leaves_nothing(model: Path, gpu: fakes.Gpu, cuda: pycuda.Cuda) -> None:
    from tiny_models import color_spec

    wrong = color_model(model.with_name("b.onnx"), color_spec(), input_size=(32, 48))
    with pytest.raises(ModelFormatError, match="its ModelSpec says") as caught:
        OnnxRuntimeBackend(wrong, device="cuda")
    assert caught.value.__traceback__ is not None  # which must not keep memory
    assert cuda.held() == 0
