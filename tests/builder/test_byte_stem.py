"""The first convolution on the bytes of the picture: the same but for the frame, with no step before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_spec

from edgepose.builder.build import Options, build
from edgepose.builder.graph import Graph
from edgepose.builder.passes.byte_stem import LEVELS, join_bytes, take_bytes_as_quantised
from edgepose.builder.passes.pixel_input import take_pixels
from edgepose.builder.quantize import Quantizer
from edgepose.cli import build as command
from edgepose.estimator import resolve_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)
GREY = replace(color_spec(), mean=(0.4, 0.4, 0.4), std=(0.2, 0.25, 0.3))
"""Its mean is grey, and of a whole level, so that the frame is right too."""


def stem(
    side: int = 7, size: tuple[Any, Any] = (16, 12), *, bias: bool = True, wide: bool = False, **changes: Any
) -> Any:
    """A model whose first layer is a convolution of stride 2."""
    attributes = {"kernel_shape": [side] * 2, "strides": [2, 2], "pads": [side // 2] * 4, **changes}
    constants = {
        "w": RNG.standard_normal((5, 3, side, side)).astype(np.float32) / side,
        "b": RNG.standard_normal(5).astype(np.float32),
        "v": RNG.standard_normal((2, 5, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"][: 2 + bias], ["x"], name="stem", **attributes),
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("Conv", ["y", "v"], ["z"], name="middle"),
        helper.make_node("Relu", ["z"], ["a"], name="last_relu"),
        helper.make_node("GlobalAveragePool", ["image" if wide else "a"], ["mean"], name="pool"),
        helper.make_node("Conv", ["a", "h"], ["heatmaps"], name="head"),
    ]
    constants["h"] = RNG.standard_normal((2, 2, 1, 1)).astype(np.float32)
    if not wide:
        del nodes[4]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["n", 2, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Any, image: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def pixels(count: int = 2) -> np.ndarray:
    return RNG.integers(0, 256, (count, 16, 12, 3)).astype(np.uint8)


def of_pixels(model: Any, spec: Any) -> Any:
    """The same network on bytes, normalised exactly."""
    copied = type(model).FromString(model.SerializeToString())
    take_pixels(Graph(copied), spec)
    return copied


@pytest.mark.parametrize("side", [3, 5, 7])
def test_the_same_function(side: int) -> None:
    model = stem(side)
    exact = of_pixels(model, GREY)
    assert take_bytes_as_quantised(Graph(model), GREY) == (-102, 153)
    image = pixels()
    expected = run(exact, image)
    np.testing.assert_allclose(run(model, image), expected, atol=1e-5 * np.abs(expected).max())
    conv = next(node for node in model.graph.node if node.name.startswith("stem"))
    kernel = next(item for item in model.graph.initializer if item.name == conv.input[1])
    assert list(kernel.dims) == [5, 12, *[(side + 1) // 2] * 2]


def test_only_the_frame_differs_where_the_mean_is_a_colour() -> None:
    model = stem(7)
    spec = replace(GREY, mean=(0.485, 0.456, 0.406))
    exact = of_pixels(model, spec)
    assert take_bytes_as_quantised(Graph(model), spec) == (-114, 141)  # the mean colour is 114.5
    image = pixels()
    difference = np.abs(run(model, image) - run(exact, image))
    assert difference[:, :, 2:-2, 2:-2].max() < 1e-5
    assert difference[:, :, 0].max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (16, 11)},
        {"size": ("h", "w")},
        {"strides": [1, 1]},
        {"pads": [2, 2, 3, 3]},
        {"dilations": [2, 2]},
        {"bias": False},
        {"wide": True},
    ],
)
def test_other_beginnings_stay(changes: dict[str, Any]) -> None:
    model = stem(**changes)
    before = model.SerializeToString()
    assert take_bytes_as_quantised(Graph(model), GREY) is None
    assert model.SerializeToString() == before


def test_nothing_stands_before_the_quantised_convolution() -> None:
    model = stem()
    known = {LEVELS: take_bytes_as_quantised(Graph(model), GREY)}
    batches = [pixels(1) for _ in range(8)]
    small = Quantizer(model, batches, "uint8", known).quantize()
    kinds = [node.op_type for node in small.graph.node]
    assert "Cast" not in kinds
    assert "Sub" not in kinds
    graph = Graph(small)
    conv = next(node for node in small.graph.node if node.name.startswith("stem"))
    bytes_in = graph.producer(conv.input[0])
    assert bytes_in.op_type == "DequantizeLinear"
    assert (graph.constant(bytes_in.input[1]), graph.constant(bytes_in.input[2])) == (1, 102)
    image = pixels()
    expected = run(model, image)
    assert np.abs(run(small, image) - expected).mean() < 0.02 * expected.std()
    # In float the steps stay, and so they do where the range is another.
    kept = Quantizer(model, batches, "uint8", known).quantize(keep=[conv.name])
    assert LEVELS in {name for node in kept.graph.node for name in node.output}
    other = Quantizer(model, batches, "uint8", {LEVELS: (-102.0, 200.0)}).quantize()
    join_bytes(Graph(other))
    assert "Sub" in [node.op_type for node in other.graph.node]


def test_a_build(tmp_path: Path) -> None:
    photo = cv2.imread(str(command.SAMPLE))
    height, width = photo.shape[:2]
    views = [photo[: height - 8 * i, 4 * i : width - 4 * i] for i in range(9)]
    report = build(
        resolve_model(None),
        tmp_path / "small.onnx",
        views[:2],
        Options("int8", views, max_drop=0.2, input="uint8"),
    )
    assert report.input == "uint8"
    model = onnx.load(str(tmp_path / "small.onnx"))
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert "Cast" not in [node.op_type for node in model.graph.node]
    graph = Graph(model)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    assert graph.constant(graph.producer(convolution.input[1]).input[0]).shape[1] == 12
