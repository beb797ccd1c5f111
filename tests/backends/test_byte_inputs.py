"""Networks that take the pictures' own bytes: what their files must offer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, pixel_model

from edgepose import ModelFormatError
from edgepose.backends import open_backend

onnx = pytest.importorskip("onnx")


def test_runs_any_batch(tmp_path: Path, runtime: str) -> None:
    source = color_model(tmp_path / "a.onnx", color_spec(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)))
    backend = open_backend(pixel_model(tmp_path / "b.onnx", source), device="cpu", runtime=runtime, threads=1)
    assert backend.input_size == (64, 48)
    batch = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    for _ in range(2):  # the second run of a shape may be another network's
        maps = backend.run(batch)["heatmaps"]
    expected = (batch[:, 0, 0] / 255 - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(maps[:, :, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [("height", "width"), (128, 192)])
def test_sizes_of_bottom_up_models(tmp_path: Path, size: tuple[int, int], runtime: str) -> None:
    path = pixel_model(tmp_path / "b.onnx", people_model(tmp_path / "a.onnx", size=size))
    backend = open_backend(path, device="cpu", runtime=runtime, threads=1)
    assert backend.input_size == (size if size[0] == 128 else None)
    assert backend.run(np.zeros((2, 128, 192, 3), np.uint8))["heatmaps_high"].shape == (2, 2, 64, 96)


def told(path: Path, source: Path, **changes: str) -> Path:
    """A copy of a model file that describes itself otherwise."""
    model = onnx.load(source)
    spec = dataclasses.replace(open_backend(source, device="cpu").spec, **changes)
    onnx.helper.set_model_props(model, {"edgepose": spec.to_json()})
    onnx.save(model, path)
    return path


def test_files_that_do_not_fit_their_spec(tmp_path: Path, runtime: str) -> None:
    source = color_model(tmp_path / "a.onnx")
    pixels = pixel_model(tmp_path / "b.onnx", source)
    with pytest.raises(ModelFormatError, match=r"tensor\(uint8\) \['batch', 64, 48, 3\] with dynamic batch"):
        open_backend(told(tmp_path / "c.onnx", source, input_format="uint8_nhwc"), runtime=runtime)
    with pytest.raises(ModelFormatError, match=r"tensor\(float\) \['batch', 3, 64, 48\] with dynamic batch"):
        open_backend(told(tmp_path / "c.onnx", pixels, input_format="float32_nchw"), runtime=runtime)
    people = pixel_model(tmp_path / "e.onnx", people_model(tmp_path / "d.onnx"))
    with pytest.raises(ModelFormatError, match=r"\['batch', 3, height, width\]"):
        open_backend(told(tmp_path / "c.onnx", people, input_format="float32_nchw"), runtime=runtime)
    half = pixel_model(tmp_path / "e.onnx", people_model(tmp_path / "d.onnx", size=(128, "width")))
    with pytest.raises(ModelFormatError, match="only one side fixed"):
        open_backend(half, runtime=runtime)
