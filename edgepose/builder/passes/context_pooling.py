"""GC blocks (Cao et al. 2019; LPN section 3.2) in a form that needs fewer passes over the maps.

A GC block pools its input x with attention and adds a vector to every position. Where x = W y + b comes
out of a pointwise convolution, both the attention's logits and the pooled vector follow from y, since the
attention sums up to one. Then x is used for nothing but the residual sum, so that the convolution, the
sum and the activation can run as one:

    relu(x + t + identity)  =  relu(conv(y) + (identity + t))
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
    squeeze_conv: Any
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
    conv = graph.producer(mask.input[0])
    if conv is None or conv is not graph.producer(flat.input[0]) or not _pointwise(graph, conv):
        return None
    weight = graph.constant(mask.input[1])
    if weight is None or weight.shape[0] != 1 or weight.shape[2:] != (1, 1):
        return None
    matrix, _ = _weights(graph, conv)
    if not (_flattens(graph, flat, set(matrix.shape)) and _flattens(graph, flat_mask, {1})):
        return None
    if graph.attribute(softmax, "axis", -1) not in (2, -1):
        return None
    if graph.attribute(transpose, "perm") != [0, 2, 1]:
        return None
    unsqueeze = graph.only_consumer(pool.output[0], "Unsqueeze")
    squeeze_conv = unsqueeze and graph.only_consumer(unsqueeze.output[0], "Conv")
    if squeeze_conv is None or not _pointwise(graph, squeeze_conv):
        return None
    users = {node.op_type: node for node in graph.consumers(conv.output[0])}
    add = users.get("Add")
    if add is None or len(graph.consumers(conv.output[0])) != 3 or graph.is_output(conv.output[0]):
        return None
    total = graph.only_consumer(add.output[0], "Add")
    other = next((name for name in add.input if name != conv.output[0]), None)
    expand = other and graph.producer(other)
    if total is None or expand is None or expand.op_type != "Conv":
        return None
    return _Block(
        conv, mask, flat_mask, softmax, transpose, flat, pool, unsqueeze, squeeze_conv, expand, add, total
    )


def _flattens(graph: Graph, node: Any, channels: set[int]) -> bool:
    """Whether a Reshape makes (n, c, h, w) into (n, c, h * w), whichever of these c is."""
    shape = graph.constant(node.input[1])
    if shape is None or len(shape) != 3 or graph.attribute(node, "allowzero", 0):
        return False
    return shape[1] == 0 or channels == {int(shape[1])}


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
    inner, inner_bias = _weights(graph, block.squeeze_conv)
    squeeze, squeeze_bias = inner @ matrix, inner @ bias + inner_bias

    y = block.conv.input[0]
    like = block.mask.output[0]
    mask = graph.node(
        "Conv", [y, graph.add_constant(logits[:, :, None, None], like)], like, kernel_shape=[1, 1]
    )
    flat_mask = graph.node("Reshape", [mask.output[0], block.flat_mask.input[1]], like)
    softmax = graph.node("Softmax", [flat_mask.output[0]], like, axis=2)
    transpose = graph.node("Transpose", [softmax.output[0]], like, perm=[0, 2, 1])
    flat = graph.node("Reshape", [y, block.flat.input[1]], like)
    pool = graph.node("MatMul", [flat.output[0], transpose.output[0]], like)
    unsqueeze = graph.node("Unsqueeze", [pool.output[0], block.unsqueeze.input[1]], like)
    squeeze_conv = graph.node(
        "Conv",
        [
            unsqueeze.output[0],
            graph.add_constant(squeeze[:, :, None, None].astype(np.float32), block.squeeze_conv.input[1]),
            graph.add_constant(squeeze_bias.astype(np.float32), block.squeeze_conv.input[2]),
        ],
        block.squeeze_conv.name,
        block.squeeze_conv.output[0],
        kernel_shape=[1, 1],
    )
    graph.replace(
        [block.mask, block.flat_mask, block.softmax, block.transpose, block.flat, block.pool, block.unsqueeze,
         block.squeeze_conv],
        [mask, flat_mask, softmax, transpose, flat, pool, unsqueeze, squeeze_conv],
    )  # fmt: skip
    identity = next(name for name in block.total.input if name != block.add.output[0])
    shifted = graph.node("Add", [identity, block.expand.output[0]], block.add.name)
    conv = graph.node(
        "Conv", block.conv.input, block.conv.name, kernel_shape=[1, 1], output=block.conv.output[0]
    )
    total = graph.node("Add", [conv.output[0], shifted.output[0]], block.total.name, block.total.output[0])
    old = {name: graph.producer(name) for name in (block.conv.output[0], block.add.output[0],
                                                   block.total.output[0])}  # fmt: skip
    graph.replace(list(old.values()), [shifted, conv, total])
