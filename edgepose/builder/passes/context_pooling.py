"""GC blocks (Cao et al. 2019; LPN section 3.2) in a form that needs fewer passes over the maps.

A GC block pools its input x with attention and adds a vector to every position. Where x = W y + b comes
out of a pointwise convolution, both the attention's logits and the pooled vector follow from y, since the
attention sums up to one. Then x is used for nothing but the residual sum, so that the convolution, the
sum and the activation can run as one:

    relu(x + t + identity)  =  relu(conv(y) + (identity + t))

The pooling is written channels last, the layout in which runtimes keep quantised maps, so that they need not
turn y round; and what it pools is a vector, which fully connected layers take as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from edgepose.builder.graph import Graph

__all__ = ["simplify_context_pooling"]


class _Block(NamedTuple):
    """The nodes of a GC block behind a pointwise convolution, in the order in which they run."""

    conv: Any
    mask: Any
    flat_mask: Any
    softmax: Any
    transpose: Any
    flat: Any
    pool: Any
    unsqueeze: Any
    squeeze: Any
    between: list[Any]
    expand: Any
    add: Any
    total: Any


def simplify_context_pooling(graph: Graph) -> int:
    """Rewrite the GC blocks of a graph; returns how many there were."""
    count = 0
    while (block := next(filter(None, (_find(graph, node) for node in graph.nodes)), None)) is not None:
        _rewrite(graph, block)
        count += 1
    graph.clean()
    return count


def _find(graph: Graph, pool: Any) -> _Block | None:
    """The block that a MatMul belongs to, if it is the pooling of one."""
    if pool.op_type != "MatMul":
        return None
    flat, transpose = (graph.producer(name) for name in pool.input)
    if flat is None or transpose is None or flat.op_type != "Reshape" or transpose.op_type != "Transpose":
        return None
    chain = [transpose]
    for kind in ("Softmax", "Reshape", "Conv"):
        made = graph.producer(chain[-1].input[0])
        if made is None or made.op_type != kind or len(graph.consumers(made.output[0])) != 1:
            return None
        chain.append(made)
    _, softmax, flat_mask, mask = chain
    inner = [flat, *chain]
    if any(len(graph.consumers(n.output[0])) != 1 or graph.is_output(n.output[0]) for n in inner):
        return None
    conv = graph.producer(mask.input[0])
    if conv is None or conv is not graph.producer(flat.input[0]) or not _pointwise(graph, conv):
        return None
    weight = graph.constant(mask.input[1])
    if weight is None or weight.shape[0] != 1 or weight.shape[2:] != (1, 1):
        return None
    if not (_flattens(graph, flat, len(_weights(graph, conv)[1])) and _flattens(graph, flat_mask, 1)):
        return None
    if graph.attribute(softmax, "axis", -1) not in (2, -1):
        return None
    if graph.attribute(transpose, "perm") != [0, 2, 1]:
        return None
    unsqueeze = graph.only_consumer(pool.output[0], "Unsqueeze")
    squeeze = unsqueeze and graph.only_consumer(unsqueeze.output[0], "Conv")
    if squeeze is None or not _pointwise(graph, squeeze):
        return None
    between = _vector_steps(graph, squeeze)
    expand = graph.only_consumer((between or [squeeze])[-1].output[0], "Conv")
    if expand is None or not _pointwise(graph, expand):
        return None
    add = graph.only_consumer(expand.output[0], "Add")
    if add is None or conv.output[0] not in add.input:
        return None
    if len(graph.consumers(conv.output[0])) != 3 or graph.is_output(conv.output[0]):
        return None
    total = graph.only_consumer(add.output[0], "Add")
    if total is None or total.input[0] == total.input[1]:
        return None
    return _Block(
        conv, mask, flat_mask, softmax, transpose, flat, pool, unsqueeze, squeeze, between, expand, add, total
    )


def _vector_steps(graph: Graph, node: Any) -> list[Any]:
    """The activations and normalisations of all channels that follow a node."""
    steps: list[Any] = []
    while True:
        value = (steps or [node])[-1].output[0]
        users = graph.consumers(value)
        if len(users) != 1 or graph.is_output(value):
            return steps
        normalizes = (
            users[0].op_type == "LayerNormalization"
            and len(users[0].output) == 1
            and graph.attribute(users[0], "axis", -1) in (1, -3)
            and all(graph.constant(name) is not None for name in users[0].input[1:])
        )
        if not normalizes and users[0].op_type != "Relu":
            return steps
        steps.append(users[0])


def _flattens(graph: Graph, node: Any, channels: int) -> bool:
    """Whether a Reshape makes (n, c, h, w) into (n, c, h * w)."""
    shape = graph.constant(node.input[1])
    if shape is None or len(shape) != 3 or graph.attribute(node, "allowzero", 0):
        return False
    return int(shape[1]) in (0, channels)


def _pointwise(graph: Graph, node: Any) -> bool:
    """Whether a node is a 1x1 convolution of stride 1 and one group with constant weights and bias."""
    if node.op_type != "Conv" or len(node.input) != 3:
        return False
    weight = graph.constant(node.input[1])
    return (
        weight is not None
        and graph.constant(node.input[2]) is not None
        and weight.shape[2:] == (1, 1)
        and graph.attribute(node, "group", 1) == 1
        and graph.attribute(node, "strides", [1, 1]) == [1, 1]
        and not any(graph.attribute(node, "pads", [0, 0, 0, 0]))
    )


def _weights(graph: Graph, node: Any) -> tuple[Any, Any]:
    """Matrix (out, in) and bias (out,) of a pointwise convolution, float64."""
    weight, bias = (graph.constant(name) for name in node.input[1:3])
    assert weight is not None
    assert bias is not None
    return weight.reshape(weight.shape[:2]).astype(np.float64), bias.astype(np.float64)


def _rewrite(graph: Graph, block: _Block) -> None:
    matrix, bias = _weights(graph, block.conv)
    attention = graph.constant(block.mask.input[1])
    assert attention is not None
    # Logits of y; a constant changes no softmax.
    logits = (attention.reshape(1, -1).astype(np.float64) @ matrix).astype(np.float32)
    inner, inner_bias = _weights(graph, block.squeeze)
    outer, outer_bias = _weights(graph, block.expand)

    y = block.conv.input[0]
    like = block.mask.output[0]
    new: list[Any] = []

    def step(kind: str, *inputs: str, **attributes: Any) -> str:
        new.append(graph.node(kind, inputs, like, **attributes))
        return str(new[-1].output[0])

    def shape(*sizes: int) -> str:
        return graph.add_constant(np.array(sizes, np.int64), like)

    def dense(value: str, weight: Any, offset: Any) -> str:
        names = [graph.add_constant(array.astype(np.float32), like) for array in (weight, offset)]
        return step("Gemm", value, *names, transB=1)

    mask = step("Conv", y, graph.add_constant(logits[:, :, None, None], like), kernel_shape=[1, 1])
    weights = step("Softmax", step("Reshape", mask, block.flat_mask.input[1]), axis=2)
    columns = step("Reshape", step("Transpose", y, perm=[0, 2, 3, 1]), shape(0, -1, matrix.shape[1]))
    vector = step("Reshape", step("MatMul", weights, columns), shape(-1, matrix.shape[1]))
    vector = dense(vector, inner @ matrix, inner @ bias + inner_bias)
    for node in block.between:
        constants = [graph.constant(name) for name in node.input[1:]]
        names = [graph.add_constant(array.reshape(-1), like) for array in constants if array is not None]
        axis = {"axis": -1, "epsilon": graph.attribute(node, "epsilon", 1e-5)} if names else {}
        vector = step(node.op_type, vector, *names, **axis)
    vector = step("Reshape", dense(vector, outer, outer_bias), shape(-1, len(outer), 1, 1))
    identity = next(name for name in block.total.input if name != block.add.output[0])
    shifted = step("Add", identity, vector)
    conv = graph.node(
        "Conv", block.conv.input, block.conv.name, kernel_shape=[1, 1], output=block.conv.output[0]
    )
    total = graph.node("Add", [conv.output[0], shifted], block.total.name, block.total.output[0])
    old = [
        block.conv, block.mask, block.flat_mask, block.softmax, block.transpose, block.flat, block.pool,
        block.unsqueeze, block.squeeze, *block.between, block.expand, block.add, block.total,
    ]  # fmt: skip
    graph.replace(old, [*new, conv, total])
