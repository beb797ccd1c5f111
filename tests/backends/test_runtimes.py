"""What every runtime does: any batch, several outputs, and files that do not fit their spec."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import PAIR2, color_model, color_spec, people_model, people_spec

from edgepose import BackendUnavailableError, InvalidInputError, ModelFormatError, ModelSpec
from edgepose.backends import open_backend, read_model_spec
from edgepose.backends.base import default_threads

pytest.importorskip("onnx")


def test_runs_any_batch(tmp_path: Path, runtime: str) -> None:
    backend = open_backend(color_model(tmp_path / "a.onnx"), runtime=runtime, threads=1)
    assert backend.spec == color_spec()
    batch = np.random.default_rng(0).random((3, 3, 64, 48), np.float32)
    maps = backend.run(batch)["heatmaps"]
    assert maps.shape == (3, 3, 16, 12)
    np.testing.assert_allclose(maps[:, :, 0, 0], batch[:, :, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(backend.run(batch[1:2])["heatmaps"], maps[1:2], rtol=1e-6)
    told = backend.describe()
    assert (told["name"], told["device"], told["threads"]) == (runtime, "cpu", 1)
    assert metadata.version(runtime) == told["version"]
    assert told["reason"].startswith(f"{runtime} was asked for")
    backend.close()


def test_outputs_may_be_kept(tmp_path: Path, runtime: str) -> None:
    backend = open_backend(color_model(tmp_path / "a.onnx"), runtime=runtime)
    batches = np.random.default_rng(0).random((6, 1, 3, 64, 48), np.float32)
    before = batches.copy()
    batches.flags.writeable = False
    kept = [backend.run(batch)["heatmaps"] for batch in batches]
    backend.close()
    del backend
    for maps, batch in zip(kept, before, strict=True):
        np.testing.assert_allclose(maps[:, :, 0, 0], batch[:, :, 0, 0], rtol=1e-6)
    assert np.array_equal(batches, before)


def test_a_run_that_fails(tmp_path: Path, runtime: str) -> None:
    backend = open_backend(color_model(tmp_path / "a.onnx"), runtime=runtime)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError, match="the network failed on cpu; found "):
            backend.run(np.zeros((1, 3, 32, 48), np.float32))
    assert backend.run(np.zeros((1, 3, 64, 48), np.float32))["heatmaps"].shape == (1, 3, 16, 12)


@pytest.mark.skipif(default_threads() < 2, reason="one thread at most")
def test_threads(tmp_path: Path, runtime: str) -> None:
    path = color_model(tmp_path / "a.onnx")
    assert open_backend(path, runtime=runtime, threads=2).describe()["threads"] == 2
    assert open_backend(path, runtime=runtime).describe()["threads"] == default_threads()


def test_the_callers_arithmetic_stays_as_it_is(tmp_path: Path, runtime: str) -> None:
    """A runtime can flush subnormal numbers to zero, or pin threads, in the calling thread for good."""
    code = f"""
import os, pathlib, numpy as np
from edgepose.backends import open_backend
before = os.sched_getaffinity(0)
backend = open_backend(pathlib.Path({str(color_model(tmp_path / "a.onnx"))!r}), runtime={runtime!r})
for _ in range(3):
    backend.run(np.zeros((1, 3, 64, 48), np.float32))
print(np.float32(1e-38) * np.float32(0.1) > 0, os.sched_getaffinity(0) == before)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.stdout.strip() == "True True", done.stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_devices(tmp_path: Path, runtime: str, device: str) -> None:
    with pytest.raises(InvalidInputError, match="unknown device"):
        open_backend(color_model(tmp_path / "a.onnx"), device=device, runtime=runtime)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_name": "input"}, r"inputs \['input'\]"),
        ({"output_name": "maps"}, r"outputs \['maps'\]"),
        ({"input_size": (32, 48)}, "ModelSpec says"),
        ({"batch": 1}, "dynamic batch"),
    ],
)
def test_files_that_do_not_fit_their_spec(
    tmp_path: Path, runtime: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelFormatError, match=words):
        open_backend(color_model(tmp_path / "a.onnx", **changes), runtime=runtime)


class TestBottomUp:
    """Several outputs, and sizes that are free or fixed."""

    def test_outputs_by_name_in_the_order_of_the_file(self, tmp_path: Path, runtime: str) -> None:
        backend = open_backend(people_model(tmp_path / "a.onnx"), runtime=runtime, threads=1)
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

    def test_other_outputs(self, tmp_path: Path, runtime: str) -> None:
        names = ("tags", "heatmaps_high")
        path = people_model(tmp_path / "a.onnx", outputs=names, tag_maps=1)
        outputs = open_backend(path, runtime=runtime).run(np.zeros((1, 3, 32, 64), np.float32))
        assert {name: value.shape for name, value in outputs.items()} == {
            "tags": (1, 1, 8, 16),
            "heatmaps_high": (1, 2, 16, 32),
        }

    def test_tags_of_several_numbers(self, tmp_path: Path, runtime: str) -> None:
        backend = open_backend(people_model(tmp_path / "a.onnx", tag_maps=4), runtime=runtime)
        assert backend.run(np.zeros((1, 3, 32, 32), np.float32))["tags"].shape == (1, 4, 8, 8)

    def test_a_fixed_size(self, tmp_path: Path, runtime: str) -> None:
        backend = open_backend(people_model(tmp_path / "a.onnx", size=(128, 192)), runtime=runtime)
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
        self, tmp_path: Path, runtime: str, changes: dict[str, Any], words: str
    ) -> None:
        path = people_model(tmp_path / "a.onnx", **changes)
        with pytest.raises(ModelFormatError, match=words):
            open_backend(path, runtime=runtime)

    def test_a_top_down_model_gives_heatmaps_alone(self, tmp_path: Path, runtime: str) -> None:
        path = people_model(tmp_path / "a.onnx", ModelSpec("single", PAIR2, (128, 128)))
        outputs = open_backend(path, runtime=runtime).run(np.zeros((1, 3, 128, 128), np.float32))
        assert list(outputs) == ["heatmaps"]


def test_another_number_of_joints(tmp_path: Path, runtime: str) -> None:
    import onnx

    from edgepose import lsp14

    path = color_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.metadata_props[0].value = color_spec(skeleton=lsp14).to_json()
    onnx.save(model, path)
    with pytest.raises(ModelFormatError, match="14 joints"):
        open_backend(path, runtime=runtime)


def test_a_broken_graph(tmp_path: Path, runtime: str) -> None:
    import onnx

    path = color_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(ModelFormatError, match="NoSuchOperator"):
        open_backend(path, runtime=runtime)


@pytest.mark.parametrize(("name", "words"), [("a.pth", "python -m training export"), ("a.tflite", "suffix")])
def test_other_files(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    for function in (open_backend, read_model_spec):
        with pytest.raises(ModelFormatError, match=words):
            function(tmp_path / name)
