"""Which runtime serves, and the reason that is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import color_model, color_spec

from edgepose import BackendUnavailableError, InvalidInputError
from edgepose.backends import choose_runtime, open_backend, read_model_spec
from edgepose.backends.onnxruntime import OnnxRuntimeBackend, import_onnxruntime
from edgepose.backends.openvino import OpenVinoBackend, import_openvino

pytest.importorskip("onnx")
try:
    import_onnxruntime()
    import_openvino()
except BackendUnavailableError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return color_model(tmp_path / "a.onnx")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call with names of packages that shall seem not to be installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An ONNX Runtime whose binary does not load."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("raise RuntimeError('wrong ABI')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("runtime", "device", "kind", "reason"),
    [
        ("auto", "auto", OnnxRuntimeBackend, "onnxruntime is installed and offers no CUDA"),
        ("auto", "cpu", OnnxRuntimeBackend, "onnxruntime is installed, and device 'cpu' was asked for"),
        ("onnxruntime", "auto", OnnxRuntimeBackend, "onnxruntime was asked for and offers no CUDA"),
        ("onnxruntime", "cpu", OnnxRuntimeBackend, "onnxruntime and device 'cpu' were asked for"),
        ("openvino", "auto", OpenVinoBackend, "openvino was asked for"),
        ("openvino", "cpu", OpenVinoBackend, "openvino and device 'cpu' were asked for"),
    ],
)
def test_both_installed(
    model: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, device: str, kind: type, reason: str
) -> None:
    monkeypatch.setattr(import_onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    backend = open_backend(model, runtime=runtime, device=device)
    assert type(backend) is kind
    assert backend.describe()["reason"] == reason


def test_openvino_where_it_is_the_only_one(
    model: Path, without: Any, caplog: pytest.LogCaptureFixture
) -> None:
    without("onnxruntime")
    backend = open_backend(model)
    assert type(backend) is OpenVinoBackend
    assert backend.describe()["reason"] == "onnxruntime is not installed"
    reason = open_backend(model, device="cpu").describe()["reason"]
    assert reason == "onnxruntime is not installed, and device 'cpu' was asked for"
    assert caplog.text == ""
    with pytest.raises(BackendUnavailableError, match=r'needs onnxruntime; .*"edgepose\[cpu\]"'):
        open_backend(model, runtime="onnxruntime")


def test_onnxruntime_without_openvino(model: Path, without: Any) -> None:
    without("openvino")
    assert type(open_backend(model)) is OnnxRuntimeBackend
    with pytest.raises(BackendUnavailableError, match=r'needs openvino; .*"edgepose\[openvino\]"'):
        open_backend(model, runtime="openvino")


def test_neither(model: Path, without: Any) -> None:
    without("onnxruntime", "openvino")
    with pytest.raises(BackendUnavailableError, match="needs onnxruntime or openvino") as caught:
        open_backend(model)
    for extra in ("cpu", "openvino"):
        assert f'pip install "edgepose[{extra}]"' in str(caught.value)


def test_an_onnxruntime_that_does_not_load_is_told(
    model: Path, broken: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_backend(model).describe()["reason"] == "onnxruntime does not load"
    assert "openvino serves, as onnxruntime does not load: wrong ABI" in caplog.text
    with pytest.raises(BackendUnavailableError, match="found wrong ABI"):
        open_backend(model, runtime="onnxruntime")


def test_cuda_is_never_openvinos(model: Path, without: Any) -> None:
    with pytest.raises(BackendUnavailableError, match="openvino serves the CPU alone"):
        open_backend(model, runtime="openvino", device="cuda:1")
    assert choose_runtime(device="cuda") == ("onnxruntime", "device 'cuda' was asked for")
    without("onnxruntime")
    with pytest.raises(BackendUnavailableError, match="needs onnxruntime"):
        open_backend(model, device="cuda")


@pytest.mark.parametrize("runtime", ["tensorflow", "OpenVINO", "", None])
def test_unknown_runtimes(model: Path, runtime: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"unknown runtime .*'auto', 'onnxruntime', .*'tensorrt'"):
        open_backend(model, runtime=runtime)


def test_signed_int8_runs_in_openvino_on_x86(
    tmp_path: Path, without: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = {"quantization": {"activations": "int8"}}
    spec = color_spec(precision="int8", provenance={"built": built})
    signed = color_model(tmp_path / "signed.onnx", spec)
    built["quantization"]["activations"] = "uint8"
    unsigned = color_spec(precision="int8", provenance={"built": built})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    backend = open_backend(signed)
    assert backend.name == "openvino"
    assert backend.describe()["reason"] == "openvino is installed and runs signed int8 faster"
    backend.close()
    assert choose_runtime(spec=unsigned)[0] == "onnxruntime"
    assert choose_runtime("onnxruntime", spec=spec)[0] == "onnxruntime"
    assert choose_runtime(device="cuda", spec=spec)[0] == "onnxruntime"
    spec = read_model_spec(signed)
    assert choose_runtime(spec=spec)[0] == "openvino"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert choose_runtime(spec=spec)[0] == "onnxruntime"
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr(import_onnxruntime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert choose_runtime(spec=spec)[0] == "onnxruntime"
    assert choose_runtime(device="cpu", spec=spec)[0] == "openvino"
    without("openvino")
    assert choose_runtime(device="cpu", spec=spec)[0] == "onnxruntime"
