"""Deconvolutions as convolutions, one for each phase of their output.

A deconvolution of stride 2 fills every second row and column of its output from the same few pixels of its
input: each of the four phases is a small convolution. What follows it point by point works on the phases as
well as on the whole, which is put together only behind that. Runtimes run such convolutions several times
faster than the deconvolution, and can quantise them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.builder.graph import Graph, copy_of

__all__ = ["split_deconvolutions"]

Taps = list[tuple[int, int]]
"""Of one phase along one axis: index into the kernel, and which input pixel it meets, by rising pixel."""

LEAST_CHANNELS = 32
"""Runtimes compute so many channels of a convolution at once; narrower groups are put together."""


def split_deconvolutions(graph: Graph) -> int:
    """Rewrite the deconvolutions of stride 2; returns how many there were."""
    count = 0
    while (found := next(filter(None, (_find(graph, node) for node in graph.nodes)), None)) is not None:
        _rewrite(graph, *found)
        count += 1
    graph.clean()
    return count


def _find(graph: Graph, node: Any) -> tuple[Any, list[Any], list[list[Taps]]] | None:
    """A node with the pointwise steps behind it and its taps, if it is a deconvolution of stride 2."""
    taps = _taps(graph, node) if node.op_type == "ConvTranspose" else []
    return (node, _pointwise_chain(graph, node), taps) if taps else None


def _pointwise_chain(graph: Graph, node: Any) -> list[Any]:
    """The pointwise nodes that follow one another from a deconvolution on."""
    chain: list[Any] = []
    value = node.output[0]
    while not graph.is_output(value):
        users = graph.consumers(value)
        if len(users) != 1 or not _is_pointwise(graph, users[0]):
            break
        chain.append(users[0])
        value = users[0].output[0]
    return chain


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
    weight = graph.constant(node.input[1])
    assert weight is not None
    kernels, group = _widened(*_as_convolution(weight, graph.attribute(node, "group", 1)))
    last = chain[-1] if chain else node
    result = last.output[0]
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
                copied = copy_of(step)
                copied.name = graph.new_name(step.name)
                copied.input[0] = value
                copied.output[0] = value = graph.new_name(step.output[0])
                new.append(copied)
            parts.append(value)
    if graph.is_output(result):
        together = graph.node("Concat", parts, result, axis=1)
        space = graph.node("DepthToSpace", [together.output[0]], result, result, blocksize=2, mode="DCR")
        new += [together, space]
    else:
        new += _interleaved(graph, parts, result, (graph.side(result, 2), graph.side(result, 3)))
    graph.replace([node, *chain], new)


def _interleaved(graph: Graph, parts: list[str], result: str, size: tuple[int | None, ...]) -> list[Any]:
    """Nodes that put four phases together, channels last: the layout in which runtimes keep quantised maps.

    ``(h, w, 2 c)`` is ``(h, 2 w, c)`` and ``(h, 2 * 2 w, c)`` is ``(2 h, 2 w, c)``: whole pixels move.
    """
    new: list[Any] = []

    def step(kind: str, *inputs: str, **attributes: Any) -> str:
        new.append(graph.node(kind, inputs, result, **attributes))
        return str(new[-1].output[0])

    turned = [step("Transpose", part, perm=[0, 2, 3, 1]) for part in parts]

    def enlarged(rows: int) -> str:
        """The shape of a phase with so many times its rows, and twice its columns."""
        if None not in size:
            sides = [side // 2 for side in size if side is not None]
            return graph.add_constant(np.array([0, rows * sides[0], 2 * sides[1], -1], np.int64), result)
        factors = graph.add_constant(np.array([1, rows, 2, 1], np.int64), result)
        return step("Mul", step("Shape", turned[0]), factors)

    lines = [step("Reshape", step("Concat", *turned[i : i + 2], axis=3), enlarged(1)) for i in (0, 2)]
    whole = step("Reshape", step("Concat", *lines, axis=2), enlarged(2))
    new.append(graph.node("Transpose", [whole], result, result, perm=[0, 3, 1, 2]))
    return new


def _as_convolution(weight: NDArray[Any], group: int) -> tuple[NDArray[Any], int]:
    """Weights (in, out / group, h, w) of a deconvolution as (out, in / group, h, w)."""
    inputs, outputs, height, width = weight.shape
    parts = weight.reshape(group, inputs // group, outputs, height, width).transpose(0, 2, 1, 3, 4)
    return parts.reshape(group * outputs, inputs // group, height, width), group


def _widened(weight: NDArray[Any], group: int) -> tuple[NDArray[Any], int]:
    """The same with fewer, wider groups where they are narrow, but not one channel each."""
    outputs, inputs, height, width = weight.shape
    each = outputs // group
    if group == 1 or each == inputs == 1:
        return weight, group
    factor = next(
        (n for n in range(1, group + 1) if group % n == 0 and n * min(inputs, each) >= LEAST_CHANNELS), group
    )
    wide = np.zeros((group // factor, factor, each, factor, inputs, height, width), weight.dtype)
    for i in range(factor):
        wide[:, i, :, i] = weight.reshape(group // factor, factor, each, inputs, height, width)[:, i]
    return wide.reshape(outputs, factor * inputs, height, width), group // factor
