"""Half precision: where it is, where it is not, and how far the results move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgepose import BuildError
from edgepose.backends import read_model_spec
from edgepose.builder.build import Options, build
from edgepose.builder.graph import Graph
from edgepose.builder.half import halve
from edgepose.builder.passes import rewrite
from edgepose.builder.source import load_source
from edgepose.cli import build as command
from edgepose.estimator import resolve_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxslim")
float16 = pytest.importorskip("onnxruntime.transformers.float16")
cv2 = pytest.importorskip("cv2")

FLOAT, HALF = 1, 10
PHOTO = cv2.imread(str(command.SAMPLE))


@pytest.mark.parametrize("name", ["lpn50-lsp", "multi"])
def test_the_graph(name: str) -> None:
    model = rewrite(load_source(resolve_model(name)).model)[0]
    before = model.SerializeToString()
    half = halve(model)
    assert model.SerializeToString() == before
    assert halve(model).SerializeToString() == half.SerializeToString()
    onnx.checker.check_model(half, full_check=True)
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == FLOAT
    constants = {item.name: item.data_type for item in half.graph.initializer}
    heads = Graph(model).output_layers()
    kinds: dict[bool, set[int]] = {True: set(), False: set()}
    for node in half.graph.node:
        if node.op_type == "Conv":
            kinds[node.name in heads].add(constants[node.input[1]])
    assert kinds == {True: {FLOAT}, False: {HALF}}


def test_a_build_in_half_precision(tmp_path: Path) -> None:
    source, output = resolve_model(None), tmp_path / "half.onnx"
    report = build(source, output, [PHOTO], Options("fp16"))
    assert report.precision == "fp16"
    assert 0.5 < report.bytes[1] / report.bytes[0] < 0.6
    assert 0 < report.parity.heatmap_rms < 1e-2
    spec = read_model_spec(output)
    assert spec.precision == "fp16"
    assert "onnxruntime" in spec.provenance["built"]["with"]
    assert spec.parity["built"]["oks"] > 0.99


def test_a_converter_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such luck\nat all")

    monkeypatch.setattr(float16, "convert_float_to_float16", fail)
    with pytest.raises(BuildError, match="half precision; onnxruntime says: no such luck; build it in fp32"):
        build(resolve_model(None), tmp_path / "half.onnx", [PHOTO], Options("fp16"))
    assert not list(tmp_path.iterdir())
