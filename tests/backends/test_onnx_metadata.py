"""The spec inside an ONNX file, read without ONNX packages, and every way in which it may be missing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import color_model, color_spec

from edgepose import ModelFormatError, ModelNotFoundError
from edgepose.backends.onnx_metadata import read_spec

pytest.importorskip("onnx")


def test_the_spec_is_read_back(tmp_path: Path) -> None:
    spec = color_spec(provenance={"licence": "Apache-2.0", "note": "naïve ≤ 5 px"}, padding=1.3)
    metadata = {"author": "someone", "edgepose": spec.to_json(), "zz": "x" * 5000}
    assert read_spec(color_model(tmp_path / "a.onnx", spec)) == spec
    assert read_spec(color_model(tmp_path / "b.onnx", spec, metadata=metadata)) == spec


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    data = color_model(tmp_path / "a.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 64), *range(64, len(data), 17)]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelFormatError, match=r"cut\.onnx"):
            read_spec(path)


def test_random_bytes_never_pass_or_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.onnx"
    data = bytearray(color_model(tmp_path / "a.onnx").read_bytes())
    for _ in range(200):
        path.write_bytes(rng.bytes(int(rng.integers(1, 300))))
        with pytest.raises(ModelFormatError):
            read_spec(path)
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(ModelFormatError):
            read_spec(path)


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
