"""Each rewriting computes the same, and leaves alone what it does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose.builder.graph import Graph
from edgepose.builder.passes import rewrite
from edgepose.builder.passes.context_pooling import simplify_context_pooling
from edgepose.builder.passes.deconvolution import split_deconvolutions

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)


def make(
    nodes: list[Any], constants: dict[str, NDArray[Any]], channels: int, output: str = "heatmaps"
) -> Any:
    """A model from ``image`` (n, channels, h, w) to an output of any size."""
    shape = ["n", channels, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: Any, image: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": image})[0]


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def deconvolution(
    kernel: int, group: int, inputs: int, outputs: int, *, bias: bool = True, **changes: Any
) -> tuple[Any, dict[str, NDArray[Any]]]:
    """A ConvTranspose that doubles its input, from ``image`` to ``up``."""
    padding, extra = {4: (1, 0), 3: (1, 1), 2: (0, 0)}[kernel]
    constants = {"up.weight": normal(inputs, outputs // group, kernel, kernel), "up.bias": normal(outputs)}
    attributes = {
        "kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": [padding] * 4,
        "output_padding": [extra] * 2, "group": group, **changes,
    }  # fmt: skip
    names = ["image", "up.weight"] + ["up.bias"] * bias
    return helper.make_node("ConvTranspose", names, ["up"], name="up", **attributes), constants


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize(("group", "inputs", "outputs"), [(1, 6, 4), (4, 4, 4), (4, 8, 4), (2, 4, 8)])
def test_the_last_deconvolution(kernel: int, group: int, inputs: int, outputs: int) -> None:
    node, constants = deconvolution(kernel, group, inputs, outputs, bias=kernel != 3)
    constants |= {"w": normal(5, outputs, 1, 1), "b": normal(5)}
    nodes = [
        node,
        helper.make_node("Relu", ["up"], ["active"]),
        helper.make_node("Conv", ["active", "w", "b"], ["heatmaps"], kernel_shape=[1, 1]),
    ]
    model = make(nodes, constants, inputs)
    image = normal(2, inputs, 5, 7)
    expected = run(model, image)
    assert split_deconvolutions(Graph(model)) == 1
    kinds = [node.op_type for node in model.graph.node]
    assert "ConvTranspose" not in kinds
    assert kinds.count("Conv") == 8
    np.testing.assert_allclose(run(model, image), expected, atol=1e-5)
    assert {item.name for item in model.graph.initializer}.isdisjoint({"up.weight"})


def test_a_deconvolution_that_is_the_output() -> None:
    node, constants = deconvolution(4, 1, 3, 2)
    node.output[0] = "heatmaps"
    model = make([node], constants, 3)
    image = normal(1, 3, 4, 4)
    expected = run(model, image)
    assert split_deconvolutions(Graph(model)) == 1
    np.testing.assert_allclose(run(model, image), expected, atol=1e-5)


@pytest.mark.parametrize("follows", ["wide_conv", "branch", "pool", "deconvolution"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("group", "inputs", "outputs"), [(1, 6, 4), (4, 4, 4), (48, 96, 48), (6, 6, 12)])
def test_a_deconvolution_within(follows: str, static: bool, group: int, inputs: int, outputs: int) -> None:
    node, constants = deconvolution(4, group, inputs, outputs)
    side = 3 if follows == "wide_conv" else 1
    constants |= {"w0": normal(outputs, outputs, 1, 1), "w": normal(2, outputs, side, side)}
    nodes = [
        node,
        helper.make_node("Conv", ["up", "w0"], ["pointwise"]),
        helper.make_node("Relu", ["pointwise"], ["active"]),
        helper.make_node("Conv", ["active", "w"], ["heatmaps"], pads=[side // 2] * 4),
    ]
    if follows == "branch":
        nodes[3].output[0] = "other"
        nodes.append(helper.make_node("Conv", ["active", "w"], ["more"]))
        nodes.append(helper.make_node("Add", ["other", "more"], ["heatmaps"]))
    if follows == "pool":
        nodes.insert(3, helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2]))
        nodes[4].input[0] = "pooled"
    if follows == "deconvolution":
        again, more = deconvolution(4, 1, 2, 3)
        again.input[:] = ["last", "again.weight", "again.bias"]
        again.name, again.output[0], nodes[3].output[0] = "again", "heatmaps", "last"
        nodes.append(again)
        constants |= {f"again.{name[3:]}": value for name, value in more.items()}
    model = make(nodes, constants, inputs)
    image = normal(2, inputs, 5, 7)
    if static:
        for axis, length in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (5, 7), strict=True):
            axis.dim_value = length
    expected = run(model, image)
    assert split_deconvolutions(Graph(model)) == 1 + (follows == "deconvolution")
    kinds = [node.op_type for node in model.graph.node]
    assert "ConvTranspose" not in kinds
    assert ("Shape" in kinds) != static
    np.testing.assert_allclose(run(model, image), expected, atol=1e-6 * np.abs(expected).max())
    groups = [
        attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "group" and attribute.i > 1
    ]
    # One channel a group stays so; other narrow groups become wider ones.
    assert set(groups) == {(1, 6, 4): set(), (4, 4, 4): {4}, (48, 96, 48): {1}}.get(
        (group, inputs, outputs), set()
    ) - {1}


@pytest.mark.parametrize(
    "change",
    ["uneven", "dilated", "stride", "computed"],
)
def test_deconvolutions_that_stay(change: str) -> None:
    changes: dict[str, Any] = {
        "uneven": {"pads": [1, 1, 0, 0], "output_padding": [0, 0]},
        "dilated": {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        "stride": {"strides": [1, 1]},
    }.get(change, {})
    node, constants = deconvolution(4, 1, 3, 4, **changes)
    constants |= {"w": normal(2, 4, 1, 1)}
    nodes = [node, helper.make_node("Conv", ["up", "w"], ["heatmaps"])]
    if change == "computed":
        nodes.insert(0, helper.make_node("Identity", ["up.weight"], ["weight"]))
        node.input[1] = "weight"
    model = make(nodes, constants, 3)
    before = model.SerializeToString()
    assert split_deconvolutions(Graph(model)) == 0
    model.graph.ClearField("value_info")
    assert model.SerializeToString() == before


def context_block(channels: int = 8, inner: int = 6, hidden: int = 4) -> tuple[list[Any], dict[str, Any]]:
    """A residual block with a GC block, from ``image`` to ``heatmaps``, as the exporter writes it."""
    constants = {
        "w1": normal(inner, channels, 1, 1), "b1": normal(inner), "w3": normal(channels, inner, 1, 1),
        "b3": normal(channels), "wm": normal(1, channels, 1, 1), "bm": normal(1),
        "w4": normal(hidden, channels, 1, 1), "b4": normal(hidden), "g": normal(hidden, 1, 1),
        "o": normal(hidden, 1, 1), "w5": normal(channels, hidden, 1, 1), "b5": normal(channels),
        "flat": np.array([0, 0, -1]), "axis": np.array([3]),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["hidden"]),
        node("Relu", ["hidden"], ["y"]),
        node("Conv", ["y", "w3", "b3"], ["x"], name="conv3"),
        node("Conv", ["x", "wm", "bm"], ["mask"]),
        node("Reshape", ["mask", "flat"], ["flat_mask"]),
        node("Softmax", ["flat_mask"], ["attention"], axis=2),
        node("Transpose", ["attention"], ["column"], perm=[0, 2, 1]),
        node("Reshape", ["x", "flat"], ["flat_x"]),
        node("MatMul", ["flat_x", "column"], ["context"]),
        node("Unsqueeze", ["context", "axis"], ["context4"]),
        node("Conv", ["context4", "w4", "b4"], ["squeezed"]),
        node("LayerNormalization", ["squeezed", "g", "o"], ["normal"], axis=-3, epsilon=1e-3),
        node("Relu", ["normal"], ["active"]),
        node("Conv", ["active", "w5", "b5"], ["t"]),
        node("Add", ["x", "t"], ["shifted"]),
        node("Add", ["shifted", "image"], ["total"]),
        node("Relu", ["total"], ["heatmaps"]),
    ]
    return nodes, constants


def test_context_pooling() -> None:
    model = make(*context_block(), 8)
    image = normal(2, 8, 5, 6)
    expected = run(model, image)
    assert simplify_context_pooling(Graph(model)) == 1
    np.testing.assert_allclose(run(model, image), expected, atol=2e-5)
    x = next(node.output[0] for node in model.graph.node if node.name.startswith("conv3"))
    users = [node.op_type for node in model.graph.node if x in node.input]
    assert users == ["Add"]  # so that a runtime can fuse convolution, sum and activation
    assert [node.op_type for node in model.graph.node].count("Gemm") == 2
    assert simplify_context_pooling(Graph(model)) == 0


@pytest.mark.parametrize(
    "change", ["used", "output", "wide", "axis", "strided", "no_identity", "norm", "shown", "twice"]
)
def test_context_pooling_that_stays(change: str) -> None:
    nodes, constants = context_block()
    if change == "used":  # x serves elsewhere too
        nodes[-1].output[0] = "last"
        nodes.append(helper.make_node("Add", ["last", "x"], ["heatmaps"]))
    if change == "wide":
        constants["w3"] = normal(8, 6, 3, 3)
        nodes[2].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    if change == "axis":
        nodes[5].attribute[0].i = 1
    if change == "strided":
        constants["w1"] = normal(6, 8, 1, 1)
        nodes[2].attribute.append(helper.make_attribute("strides", [2, 2]))
        nodes[15] = helper.make_node("Relu", ["shifted"], ["total"])
    if change == "no_identity":
        nodes[15] = helper.make_node("Relu", ["shifted"], ["total"])
    if change == "twice":  # the pooled map serves elsewhere too
        nodes[-1].output[0] = "last"
        nodes.append(helper.make_node("GlobalMaxPool", ["flat_x"], ["most"]))
        nodes.append(helper.make_node("Unsqueeze", ["most", "axis"], ["most4"]))
        nodes.append(helper.make_node("Add", ["last", "most4"], ["heatmaps"]))
    if change == "norm":  # over one axis alone
        nodes[11].attribute[0].i = 3
        constants["g"], constants["o"] = normal(1), normal(1)
    model = make(nodes, constants, 8)
    if change == "output":
        model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, None, None]))
    if change == "shown":
        model.graph.output.append(
            helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["n", 1, None])
        )
    before = run(model, image := normal(1, 8, 4, 4))
    assert simplify_context_pooling(Graph(model)) == 0
    np.testing.assert_array_equal(run(model, image), before)


def test_all_together_leave_the_source_alone() -> None:
    nodes, constants = context_block()
    nodes[-1].output[0] = "features"
    node, more = deconvolution(4, 8, 8, 8)
    node.input[0], node.output[0] = "features", "heatmaps"
    model = make([*nodes, node], constants | more, 8)
    before = model.SerializeToString()
    rewritten, counts = rewrite(model)
    assert counts == {"context_pooling": 1, "deconvolution": 1}
    assert model.SerializeToString() == before
    image = normal(2, 8, 6, 5)
    np.testing.assert_allclose(run(rewritten, image), run(model, image), atol=1e-4)
    assert rewrite(model)[0].SerializeToString() == rewritten.SerializeToString()
    simple, counts = rewrite(model, tensorrt=True)
    assert counts == {}
    kinds = [node.op_type for node in simple.graph.node]
    assert {"Softmax", "ConvTranspose"} <= set(kinds)
    assert len(kinds) == len(model.graph.node)
    np.testing.assert_allclose(run(simple, image), run(model, image), atol=1e-4)


@pytest.mark.parametrize("shape", [[-1, 8, 30], [0, 0, -1], [1, 0, 30]])
def test_context_pooling_of_a_static_shape(shape: list[int]) -> None:
    nodes, constants = context_block()
    constants["flat_x"] = np.array(shape)
    nodes[7].input[1], nodes[7].output[0], nodes[8].input[0] = "flat_x", "values", "values"
    model = make(nodes, constants, 8)
    expected = run(model, image := normal(1, 8, 5, 6))
    assert simplify_context_pooling(Graph(model)) == 1
    np.testing.assert_allclose(run(model, image), expected, atol=2e-5)


def test_graphs_with_branches_and_of_an_old_opset_are_only_simplified() -> None:
    model = make(*context_block(), 8)
    old = type(model).FromString(model.SerializeToString())
    old.opset_import[0].version = 12
    assert Graph(old).opset == 12
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["inner"])], "branch", [], [value])
    branched = type(model).FromString(model.SerializeToString())
    branched.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    choice = helper.make_node("If", ["which"], ["chosen"], then_branch=branch, else_branch=branch)
    branched.graph.node.append(choice)
    branched.graph.output.append(
        helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["n", 8, None, None])
    )
    onnx.checker.check_model(branched)
    assert Graph(branched).has_subgraphs
    assert not Graph(model).has_subgraphs
    assert rewrite(branched)[1] == {"context_pooling": 0, "deconvolution": 0}
