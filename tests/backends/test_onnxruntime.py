"""ONNX Runtime: no silent fallback from CUDA, and what it tells of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import color_model

from edgepose import BackendUnavailableError
from edgepose.backends.onnxruntime import OnnxRuntimeBackend

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


class FakeSession:
    """A session that took another provider than it was asked for, as ONNX Runtime does with a log line."""

    def __init__(self, real: Any, providers: list[str]) -> None:
        self._real, self._providers = real, providers

    def get_providers(self) -> list[str]:
        return self._providers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """ONNX Runtime that lists CUDA; the test decides which providers a session then has."""
    outcome = [["CUDAExecutionProvider", "CPUExecutionProvider"]]
    real = ort.InferenceSession

    def session(path: str, options: Any, providers: list[Any]) -> Any:
        fallen = FakeSession(real(path, options, providers=["CPUExecutionProvider"]), outcome[0])
        return fallen if providers[0][0] == "CUDAExecutionProvider" else fallen._real

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    return outcome


@pytest.mark.parametrize(("device", "found"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:2", "cuda:2")])
def test_cuda_where_it_loads(tmp_path: Path, fake_cuda: object, device: str, found: str) -> None:
    backend = OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device=device)
    assert backend.device == found
    told = backend.describe()
    assert told["providers"] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert told["reason"] == ("asked for and offers CUDA" if device == "auto" else "asked for")


def test_cuda_that_does_not_load_raises(tmp_path: Path, fake_cuda: list[list[str]]) -> None:
    fake_cuda[0] = ["CPUExecutionProvider"]
    with pytest.raises(BackendUnavailableError, match="could not load CUDA"):
        OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device="cuda")


def test_only_auto_falls_back_and_says_so(
    tmp_path: Path, fake_cuda: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    fake_cuda[0] = ["CPUExecutionProvider"]
    backend = OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device="auto")
    assert backend.device == "cpu"
    assert backend.describe()["providers"] == ["CPUExecutionProvider"]
    assert backend.describe()["reason"] == "asked for and offers CUDA, which does not load"
    assert "could not load CUDA" in caplog.text


def test_cuda_without_the_gpu_package_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match="onnxruntime-gpu"):
        OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device="cuda")


def test_nothing_is_reported_home(tmp_path: Path) -> None:
    """ONNX Runtime from 1.29 on would write an identity to the home directory, and events to send."""
    home = tmp_path / "home"
    home.mkdir()
    code = "import edgepose; edgepose.Estimator().close()"
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(home)}  # without CI, which silences it too
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
    assert [file for file in home.rglob("*") if file.is_file() and "numba" not in str(file)] == []
