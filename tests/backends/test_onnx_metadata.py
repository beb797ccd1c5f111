"""The spec inside an ONNX file, read without ONNX packages, and every way in which it may be missing."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, pixel_model

from edgepose import ModelFormatError, ModelNotFoundError
from edgepose.backends.onnx_metadata import (
    read_first_operators,
    read_input_shape,
    read_metadata,
    read_spec,
)
from edgepose.cli import main
from edgepose.estimator import MODELS

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def test_the_spec_is_read_back(tmp_path: Path) -> None:
    spec = color_spec(provenance={"licence": "Apache-2.0", "note": "naïve ≤ 5 px"}, padding=1.3)
    metadata = {"author": "someone", "edgepose": spec.to_json(), "zz": "x" * 5000}
    assert read_spec(color_model(tmp_path / "a.onnx", spec)) == spec
    assert read_spec(color_model(tmp_path / "b.onnx", spec, metadata=metadata)) == spec


def test_the_shape_of_the_input_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    assert read_input_shape(people_model(path)) == [None, 3, None, None]
    assert read_input_shape(people_model(path, size=(160, "width"))) == [None, 3, 160, None]
    assert read_input_shape(people_model(path, size=(160, 256))) == [None, 3, 160, 256]
    assert read_input_shape(color_model(path, batch=4)) == [4, 3, 64, 48]
    assert read_input_shape(color_model(path, input_name="images")) is None
    assert read_input_shape(pixel_model(tmp_path / "b.onnx", people_model(path, size=(160, "w")))) == [
        None, 160, None, 3
    ]  # fmt: skip
    packaged = MODELS / "lpn50-lsp.onnx"
    assert read_input_shape(packaged) == [None, 3, *read_spec(packaged).input_size]


@pytest.mark.parametrize("shape", [None, [], [7], ["a", 2, 3], [0, -5, 1 << 40, 2], [1] * 8, [1] * 9])
def test_odd_shapes(tmp_path: Path, shape: list[Any] | None, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(color_model(tmp_path / "a.onnx"))
    tensor = model.graph.input[0].type.tensor_type
    # Of an input of another name as well, before ours and after it.
    model.graph.input.extend([helper.make_tensor_value_info("zz", 1, [9])])
    model.graph.input.insert(0, helper.make_tensor_value_info("initial", 7, [5]))
    tensor.ClearField("shape")
    if shape is not None:
        tensor.CopyFrom(helper.make_tensor_type_proto(1, shape).tensor_type)
    onnx.save(model, tmp_path / "a.onnx")
    if shape is not None and len(shape) > 8:
        with pytest.raises(ModelFormatError, match="too many axes"):
            read_input_shape(tmp_path / "a.onnx")
        return
    wanted = None if shape is None else [s if isinstance(s, int) and 0 < s < 1 << 31 else None for s in shape]
    assert read_input_shape(tmp_path / "a.onnx") == wanted
    assert main(["info", str(tmp_path / "a.onnx")]) == 0
    assert "64 x 48" in capsys.readouterr().out


def test_all_metadata(tmp_path: Path) -> None:
    metadata = {"names": "{0: 'person'}", "": "empty", "größe": "640"}
    assert read_metadata(color_model(tmp_path / "a.onnx", metadata=metadata)) == metadata
    assert read_metadata(color_model(tmp_path / "b.onnx", metadata={})) == {}


def test_weights_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all of this file is weights."""
    path = color_model(tmp_path / "a.onnx", mask=np.ones((1, 3, 1000, 1000)))
    read = 0

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    monkeypatch.setattr(Path, "open", lambda path, mode: Counting(io.FileIO(path)))
    assert read_spec(path) == color_spec()
    assert read_input_shape(path) == [None, 3, 64, 48]
    assert read_first_operators(path, "image") == {"Conv"}
    assert read_first_operators(path, "picked") == {"Resize"}
    assert read < 5000 < path.stat().st_size


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    data = color_model(tmp_path / "a.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 64), *range(64, len(data), 17)]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelFormatError, match=r"cut\.onnx"):
            read_spec(path)
        try:
            shape = read_input_shape(path)
        except ModelFormatError:
            pass
        else:  # cut behind the graph
            assert shape == [None, 3, 64, 48]
            assert length > len(onnx.load(tmp_path / "a.onnx").graph.SerializeToString())


READERS = (
    read_spec,
    read_input_shape,
    read_metadata,
    functools.partial(read_first_operators, name="image"),
)


def test_random_bytes_never_pass_or_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.onnx"
    data = bytearray(color_model(tmp_path / "a.onnx").read_bytes())
    for _ in range(200):
        path.write_bytes(rng.bytes(int(rng.integers(1, 300))))
        for read in READERS:
            with pytest.raises(ModelFormatError):
                read(path)
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for read in READERS:
            with contextlib.suppress(ModelFormatError):
                read(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "no edgepose ModelSpec"),
        ({"other": "value"}, "no edgepose ModelSpec"),
        ({"edgepose": ""}, "not JSON"),
        ({"edgepose": "{"}, "not JSON"),
        ({"edgepose": "[" * 100000}, "not JSON"),
        ({"edgepose": "[]"}, "expected an object"),
        ({"edgepose": json.dumps({"format_version": 2})}, "version 2"),
    ],
)
def test_unusable_specs(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    path = color_model(tmp_path / "a.onnx", metadata=metadata)
    with pytest.raises(ModelFormatError, match=words):
        read_spec(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="missing"):
        read_spec(tmp_path / "missing.onnx")
    with pytest.raises(ModelFormatError, match="directory"):
        read_spec(tmp_path)
