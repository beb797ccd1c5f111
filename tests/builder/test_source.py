"""Sources that are damaged, hostile or foreign are told so; nothing outside of their folder is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec

from edgepose import ModelFormatError, ModelNotFoundError
from edgepose.builder.source import load_source
from edgepose.spec import METADATA_KEY

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Edit = Callable[[Any], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return color_model(tmp_path / "model" / "a.onnx" if (tmp_path / "model").mkdir() is None else tmp_path)


def edited(path: Path, edit: Edit) -> Path:
    content = onnx.load(str(path))
    edit(content)
    path.write_bytes(content.SerializeToString())
    return path


def outside(content: Any, location: str, **entries: str) -> None:
    """Let the first weights stand in another file."""
    tensor = content.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)


def test_a_model_as_it_is(model: Path) -> None:
    source = load_source(model)
    assert source.spec == color_spec()
    assert source.path == model
    assert [item.name for item in source.model.graph.output] == ["heatmaps"]


def test_weights_in_another_file_are_taken_in(model: Path) -> None:
    weights = numpy_helper.to_array(onnx.load(str(model)).graph.initializer[0])
    (model.parent / "sub").mkdir()
    (model.parent / "sub/weights.bin").write_bytes(b"12345678" + weights.tobytes() + b"rest")
    entries = {"offset": "8", "length": str(weights.nbytes)}
    edited(model, lambda content: outside(content, "sub/weights.bin", **entries))
    found = load_source(model).model.graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(found), weights)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link", ""])
def test_weights_outside_of_the_folder_are_not_read(model: Path, location: str) -> None:
    secret = model.parent.parent / "secret"
    secret.write_bytes(bytes(1000))
    (model.parent / "link").symlink_to(secret)
    edited(model, lambda content: outside(content, location))
    with pytest.raises(ModelFormatError, match="outside of the model's folder"):
        load_source(model)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "100000"}, "does not fit its place"),
        ({"offset": "-8"}, "does not fit its place"),
        ({"length": "3"}, "does not fit its place"),
        ({"offset": "x"}, "no number"),
        ({}, "which is not there"),
    ],
)
def test_weights_that_do_not_fit_their_file(model: Path, entries: dict[str, str], words: str) -> None:
    if entries:
        (model.parent / "weights.bin").write_bytes(bytes(200))
    edited(model, lambda content: outside(content, "weights.bin", **entries))
    with pytest.raises(ModelFormatError, match=words):
        load_source(model)


def grow(content: Any) -> None:
    content.graph.initializer[0].dims[0] = 1 << 40


def shrink(content: Any) -> None:
    content.graph.initializer[0].raw_data = b"1234"


def negative(content: Any) -> None:
    content.graph.initializer[0].dims[0] = -3


def strange_type(content: Any) -> None:
    content.graph.initializer[0].data_type = 999


def reverse(content: Any) -> None:
    nodes = list(content.graph.node)[::-1]
    del content.graph.node[:]
    content.graph.node.extend(nodes)


def cycle(content: Any) -> None:
    content.graph.node[0].input[0] = "small"


def lost(content: Any) -> None:
    content.graph.node[0].input[0] = "nobody"


def foreign_node(content: Any) -> None:
    content.graph.node[0].domain = "com.evil"


def foreign_set(content: Any) -> None:
    content.opset_import.add(domain="com.evil", version=1)


def function(content: Any) -> None:
    content.functions.add(name="f", domain="com.microsoft")


def no_output(content: Any) -> None:
    content.graph.output[0].name = "nobody"


def deep(content: Any) -> None:
    graph = content.graph
    for _ in range(20):
        inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("image", 1, None)])
        graph.node.append(helper.make_node("If", ["image"], [], then_branch=inner, else_branch=inner))
        graph = graph.node[-1].attribute[0].g


def wrong_types(content: Any) -> None:
    content.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones((3, 3, 1, 1), np.int64), content.graph.initializer[0].name)
    )


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (grow, r"would take \d+ bytes"),
        (shrink, r"has 4 bytes, its shape needs 36"),
        (negative, r"has the shape \[-3"),
        (strange_type, "unknown type 999"),
        (reverse, "cycle or stand in a wrong order"),
        (cycle, "cycle or stand in a wrong order"),
        (lost, "nothing makes it"),
        (no_output, "nothing makes the output 'nobody'"),
        (foreign_node, "unknown operator set 'com.evil'"),
        (foreign_set, "unknown set 'com.evil'"),
        (function, "functions of its own"),
        (deep, "more than 8 deep"),
        (wrong_types, "Conv"),
    ],
)
def test_graphs_that_cannot_be(model: Path, edit: Edit, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        load_source(edited(model, edit))
    assert str(model) in str(caught.value)


def test_damaged_files(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    for cut in (0, 1, 10, len(content) // 2, len(content) - 1):
        model.write_bytes(content[:cut])
        with pytest.raises(ModelFormatError, match=r"empty|not a complete|no edgepose ModelSpec"):
            load_source(model)
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] ^= int(rng.integers(1, 256))
        model.write_bytes(damaged)
        try:
            load_source(model)
        except ModelFormatError:
            told += 1
    assert told > 20
    with pytest.raises(ModelNotFoundError):
        load_source(tmp_path / "none.onnx")
    model.write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(ModelFormatError):
        load_source(model)


def test_foreign_files(model: Path) -> None:
    edited(model, lambda content: content.ClearField("metadata_props"))
    with pytest.raises(ModelFormatError, match="no edgepose ModelSpec"):
        load_source(model)
    edited(model, lambda content: onnx.helper.set_model_props(content, {METADATA_KEY: "{}"}))
    with pytest.raises(ModelFormatError, match="unknown ModelSpec format"):
        load_source(model)
