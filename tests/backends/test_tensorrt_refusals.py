"""TensorRT engines that cannot run: what is told, and that nothing is left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose import (
    BackendUnavailableError,
    EngineMismatchError,
    InvalidInputError,
    ModelFormatError,
    ModelNotFoundError,
)
from edgepose.backends import open_backend
from edgepose.backends.tensorrt import TensorRtBackend
from tests.fakes import tensorrt
from tests.fakes.engines import Rig, make_plan, pictures

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


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
