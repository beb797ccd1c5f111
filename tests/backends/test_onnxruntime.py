"""ONNX Runtime: no silent fallback, and files that do not fit their spec."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import PAIR2, color_model, color_spec, people_model, people_spec

from edgepose import BackendUnavailableError, InvalidInputError, ModelFormatError, ModelSpec
from edgepose.backends import open_backend, read_model_spec
from edgepose.backends.onnxruntime import OnnxRuntimeBackend

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def test_runs_any_batch(tmp_path: Path) -> None:
    backend = open_backend(color_model(tmp_path / "a.onnx"), device="cpu", threads=1)
    assert backend.spec == color_spec()
    batch = np.random.default_rng(0).random((3, 3, 64, 48), np.float32)
    maps = backend.run(batch)["heatmaps"]
    assert maps.shape == (3, 3, 16, 12)
    np.testing.assert_allclose(maps[:, :, 0, 0], batch[:, :, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(backend.run(batch[1:2])["heatmaps"], maps[1:2], rtol=1e-6)
    expected = {"name": "onnxruntime", "version": ort.__version__, "device": "cpu", "threads": 1}
    assert backend.describe() == expected
    backend.close()


def test_the_callers_arithmetic_stays_as_it_is(tmp_path: Path) -> None:
    """ONNX Runtime can flush subnormal numbers to zero, and does so in the calling thread for good."""
    code = f"""
import pathlib, numpy as np
from edgepose.backends import open_backend
backend = open_backend(pathlib.Path({str(color_model(tmp_path / "a.onnx"))!r}), device="cpu")
backend.run(np.zeros((1, 3, 64, 48), np.float32))
print(np.float32(1e-38) * np.float32(0.1) > 0)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_devices(tmp_path: Path, device: str) -> None:
    with pytest.raises(InvalidInputError, match="unknown device"):
        open_backend(color_model(tmp_path / "a.onnx"), device=device)


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
    assert OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device=device).device == found


def test_cuda_that_does_not_load_raises(tmp_path: Path, fake_cuda: list[list[str]]) -> None:
    fake_cuda[0] = ["CPUExecutionProvider"]
    with pytest.raises(BackendUnavailableError, match="could not load CUDA"):
        OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device="cuda")


def test_only_auto_falls_back_and_says_so(
    tmp_path: Path, fake_cuda: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    fake_cuda[0] = ["CPUExecutionProvider"]
    assert OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device="auto").device == "cpu"
    assert "could not load CUDA" in caplog.text


def test_cuda_without_the_gpu_package_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailableError, match="onnxruntime-gpu"):
        OnnxRuntimeBackend(color_model(tmp_path / "a.onnx"), device="cuda")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_name": "input"}, r"inputs \['input'\]"),
        ({"output_name": "maps"}, r"outputs \['maps'\]"),
        ({"input_size": (32, 48)}, "ModelSpec says"),
        ({"batch": 1}, "dynamic batch"),
    ],
)
def test_files_that_do_not_fit_their_spec(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        open_backend(color_model(tmp_path / "a.onnx", **changes), device="cpu")


class TestBottomUp:
    """Several outputs, and sizes that are free or fixed."""

    def test_outputs_by_name_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        backend = open_backend(people_model(tmp_path / "a.onnx"), device="cpu", threads=1)
        assert backend.spec == people_spec()
        assert backend.input_size is None
        for height, width in ((64, 96), (128, 32)):
            batch = np.random.default_rng(0).random((2, 3, height, width), np.float32)
            outputs = backend.run(batch)
            assert {name: value.shape for name, value in outputs.items()} == {
                "heatmaps": (2, 2, height // 4, width // 4),
                "heatmaps_high": (2, 2, height // 2, width // 2),
                "tags": (2, 2, height // 4, width // 4),
            }
            assert list(outputs) == ["heatmaps", "heatmaps_high", "tags"]
            np.testing.assert_allclose(
                outputs["tags"][:, 0, 0, 0], 10 * batch[:, 2, :4, :4].mean((1, 2)), 1e-5
            )

    def test_other_outputs(self, tmp_path: Path) -> None:
        names = ("tags", "heatmaps_high")
        path = people_model(tmp_path / "a.onnx", outputs=names, tag_maps=1)
        outputs = open_backend(path, device="cpu").run(np.zeros((1, 3, 32, 64), np.float32))
        assert {name: value.shape for name, value in outputs.items()} == {
            "tags": (1, 1, 8, 16),
            "heatmaps_high": (1, 2, 16, 32),
        }

    def test_tags_of_several_numbers(self, tmp_path: Path) -> None:
        backend = open_backend(people_model(tmp_path / "a.onnx", tag_maps=4), device="cpu")
        assert backend.run(np.zeros((1, 3, 32, 32), np.float32))["tags"].shape == (1, 4, 8, 8)

    def test_a_fixed_size(self, tmp_path: Path) -> None:
        backend = open_backend(people_model(tmp_path / "a.onnx", size=(128, 192)), device="cpu")
        assert backend.input_size == (128, 192)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"outputs": ("heatmaps", "heatmaps_high")}, r"expected \['image'\] and \['heatmaps', 'tags'\]"),
            ({"outputs": ("tags",)}, r"outputs \['tags'\], expected"),
            ({"joints": 3}, "its heatmaps are .* 2 joints"),
            ({"tag_maps": 3}, "its tags are .* 2 joints"),
            ({"size": (128, "width")}, "only one side fixed"),
        ],
    )
    def test_files_that_do_not_fit_their_spec(
        self, tmp_path: Path, changes: dict[str, Any], words: str
    ) -> None:
        path = people_model(tmp_path / "a.onnx", **changes)
        with pytest.raises(ModelFormatError, match=words):
            open_backend(path, device="cpu")

    def test_a_top_down_model_gives_heatmaps_alone(self, tmp_path: Path) -> None:
        path = people_model(tmp_path / "a.onnx", ModelSpec("single", PAIR2, (128, 128)))
        outputs = open_backend(path, device="cpu").run(np.zeros((1, 3, 128, 128), np.float32))
        assert list(outputs) == ["heatmaps"]


def test_another_number_of_joints(tmp_path: Path) -> None:
    import onnx

    from edgepose import lsp14

    path = color_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.metadata_props[0].value = color_spec(skeleton=lsp14).to_json()
    onnx.save(model, path)
    with pytest.raises(ModelFormatError, match="14 joints"):
        open_backend(path, device="cpu")


def test_a_broken_graph(tmp_path: Path) -> None:
    import onnx

    path = color_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(ModelFormatError, match="NoSuchOperator"):
        open_backend(path, device="cpu")


@pytest.mark.parametrize(("name", "words"), [("a.pth", "python -m training export"), ("a.engine", "suffix")])
def test_other_files(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    for function in (open_backend, read_model_spec):
        with pytest.raises(ModelFormatError, match=words):
            function(tmp_path / name)
