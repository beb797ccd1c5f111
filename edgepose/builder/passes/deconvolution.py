"""The last deconvolution of a network as convolutions, one for each phase of its output.

A deconvolution of stride 2 fills every second row and column of its output from the same few pixels of its
input: each of the four phases is a small convolution. What follows it point by point, up to the network's
output, works on the phases as well as on the whole; only the output, which has few channels, is put
together. Runtimes run such convolutions several times faster than the deconvolution, and can quantise them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.builder.graph import Graph

__all__ = ["split_last_deconvolutions"]

Taps = list[tuple[int, int]]
"""Of one phase along one axis: index into the kernel, and which input pixel it meets, by rising pixel."""


def split_last_deconvolutions(graph: Graph) -> int:
    """Rewrite the deconvolutions that only pointwise steps follow; returns how many there were."""
    count = 0
    for node in graph.nodes:
        chain = _pointwise_chain(graph, node) if node.op_type == "ConvTranspose" else None
        taps = [] if chain is None else _taps(graph, node)
        if chain is not None and taps:
            _rewrite(graph, node, chain, taps)
            count += 1
    graph.clean()
    return count


def _pointwise_chain(graph: Graph, node: Any) -> list[Any] | None:
    """The nodes from a deconvolution to an output of the graph, if all of them are pointwise."""
    chain: list[Any] = []
    value = node.output[0]
    while not graph.is_output(value):
        users = graph.consumers(value)
        if len(users) != 1 or not _is_pointwise(graph, users[0]):
            return None
        chain.append(users[0])
        value = users[0].output[0]
    return None if graph.consumers(value) else chain


def _is_pointwise(graph: Graph, node: Any) -> bool:
    if node.op_type == "Relu":
        return True
    if node.op_type != "Conv":
        return False
    weight = graph.constant(node.input[1])
    return (
        weight is not None
        and weight.shape[2:] == (1, 1)
        and graph.attribute(node, "strides", [1, 1]) == [1, 1]
        and not any(graph.attribute(node, "pads", [0, 0, 0, 0]))
    )


def _taps(graph: Graph, node: Any) -> list[list[Taps]]:
    """For each axis and phase the taps; empty where the deconvolution is of another kind."""
    weight = graph.constant(node.input[1])
    plain = (
        weight is not None
        and graph.attribute(node, "strides") == [2, 2]
        and graph.attribute(node, "dilations", [1, 1]) == [1, 1]
        and graph.attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and graph.attribute(node, "output_shape") is None
    )
    if not plain:
        return []
    assert weight is not None
    pads = graph.attribute(node, "pads", [0, 0, 0, 0])
    extra = graph.attribute(node, "output_padding", [0, 0])
    axes = []
    for axis in (0, 1):
        kernel, before, after = weight.shape[2 + axis], pads[axis], pads[axis + 2]
        if kernel - before - after + extra[axis] != 2:  # the output is not twice the input
            return []
        phases = []
        for phase in (0, 1):
            indices = [k for k in range(kernel) if (k - phase - before) % 2 == 0]
            taps = sorted(((k, (phase + before - k) // 2) for k in indices), key=lambda tap: tap[1])
            if not taps or taps[0][1] > 0 or taps[-1][1] < 0:
                return []
            phases.append(taps)
        axes.append(phases)
    return axes


def _rewrite(graph: Graph, node: Any, chain: list[Any], axes: list[list[Taps]]) -> None:
    group = graph.attribute(node, "group", 1)
    weight = graph.constant(node.input[1])
    assert weight is not None
    kernels = _as_convolution(weight, group)
    result = chain[-1].output[0] if chain else node.output[0]
    new = []
    parts = []
    for rows in axes[0]:
        for columns in axes[1]:
            taps = np.ix_([k for k, _ in rows], [k for k, _ in columns])
            part = np.ascontiguousarray(kernels[:, :, taps[0], taps[1]])
            conv = graph.node(
                "Conv",
                [node.input[0], graph.add_constant(part, node.input[1]), *node.input[2:]],
                node.name,
                group=group,
                kernel_shape=list(part.shape[2:]),
                pads=[-rows[0][1], -columns[0][1], rows[-1][1], columns[-1][1]],
            )
            new.append(conv)
            value = conv.output[0]
            for step in chain:
                copied = type(step)()
                copied.CopyFrom(step)
                copied.name = graph.new_name(step.name)
                copied.input[0] = value
                copied.output[0] = value = graph.new_name(step.output[0])
                new.append(copied)
            parts.append(value)
    together = graph.node("Concat", parts, result, axis=1)
    new.append(together)
    new.append(graph.node("DepthToSpace", [together.output[0]], result, result, blocksize=2, mode="DCR"))
    graph.replace([node, *chain], new)


def _as_convolution(weight: NDArray[Any], group: int) -> NDArray[Any]:
    """Weights (in, out / group, h, w) of a deconvolution as (out, in / group, h, w)."""
    inputs, outputs, height, width = weight.shape
    parts = weight.reshape(group, inputs // group, outputs, height, width).transpose(0, 2, 1, 3, 4)
    result: NDArray[Any] = parts.reshape(group * outputs, inputs // group, height, width)
    return result
