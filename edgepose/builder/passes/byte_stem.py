"""The first convolution of a quantised network on the picture's own bytes.

A byte is a quantised value already: a grey level less a mean one, in steps of one level. So where the
network takes bytes (`pixel_input`) and its first layer is a convolution of stride 2, as in most networks of
this project, the normalisation goes into its weights and bias, and nothing has to be computed before it.
Two by two pixels stand side by side as channels there, so that the convolution has stride 1 and runs along
12 channels in place of 3, which runtimes do in little more than half the time.

It is exact but for the frame around the picture, which then is grey in place of the mean colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import INPUT
from edgepose.builder.graph import Graph
from edgepose.spec import ModelSpec

__all__ = ["LEVELS", "join_bytes", "take_bytes_as_quantised"]

LEVELS = "image_levels"
"""The value that `take_bytes_as_quantised` makes of the bytes: grey levels less the mean one."""


def take_bytes_as_quantised(graph: Graph, spec: ModelSpec) -> tuple[float, float] | None:
    """Let the first convolution of a graph with the input ``image`` (n, 3, h, w) take (n, h, w, 3) uint8.

    Returns:
        the range of `LEVELS`, which is to be quantised in steps of 1, or None, and the graph as it was,
        where it begins otherwise or its input's size is free.
    """
    users = graph.consumers(INPUT)
    height, width = graph.side(INPUT, 2), graph.side(INPUT, 3)
    if len(users) != 1 or graph.has_subgraphs or not height or not width or height % 2 or width % 2:
        return None
    stem = users[0]
    weight = graph.constant(stem.input[1]) if stem.op_type == "Conv" else None
    bias = graph.constant(stem.input[2]) if len(stem.input) == 3 else None
    if weight is None or bias is None or not _halves(graph, stem, weight):
        return None
    mean, std = 255 * np.asarray(spec.mean), 255 * np.asarray(spec.std)
    middle = round(float(mean.mean()))
    weight = weight.astype(np.float64) / std[:, None, None]
    bias = bias + (weight.sum((2, 3)) * (middle - mean)).sum(1)
    packed, before, after = _packed(weight)

    new: list[Any] = []

    def step(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        new.append(graph.node(kind, inputs, INPUT, output, **attributes))
        return str(new[-1].output[0])

    def constant(value: Any, kind: Any) -> str:
        return graph.add_constant(np.asarray(value, kind), INPUT)

    half = height // 2, width // 2
    rows = step("Reshape", INPUT, constant([0, half[0], 2, half[1], 6], np.int64))
    blocks = step("Transpose", rows, perm=[0, 1, 3, 2, 4])
    flat = step("Reshape", blocks, constant([0, *half, 12], np.int64))
    number = step("Cast", step("Transpose", flat, perm=[0, 3, 1, 2]), to=1)  # float32
    levels = step("Sub", number, constant(middle, np.float32), output=LEVELS)
    new.append(
        graph.node(
            "Conv",
            [levels, constant(packed, np.float32), constant(bias, np.float32)],
            stem.name,
            stem.output[0],
            kernel_shape=list(packed.shape[2:]),
            pads=[before, before, after, after],
        )
    )
    graph.replace([stem], new)
    graph.take_bytes(INPUT)
    graph.clean()
    return float(-middle), float(255 - middle)


def join_bytes(graph: Graph) -> None:
    """Leave out the steps from bytes to `LEVELS` and back, once these are quantised in steps of 1."""
    for quantize in graph.consumers(LEVELS):
        if quantize.op_type != "QuantizeLinear":
            continue
        levels = graph.producer(LEVELS)
        number = graph.producer(levels.input[0])
        scale, zero = (graph.constant(name) for name in quantize.input[1:3])
        if (
            scale == 1
            and zero is not None
            and zero.dtype == np.uint8
            and zero == graph.constant(levels.input[1])
        ):
            for node in graph.consumers(quantize.output[0]):
                node.input[0] = number.input[0]
            graph.replace([number, levels, quantize], [])
            graph.clean()


def _halves(graph: Graph, node: Any, weight: NDArray[Any]) -> bool:
    """Whether a convolution halves its input as a plain one of an odd kernel does."""
    side = weight.shape[2]
    return (
        weight.shape[1:] == (3, side, side)
        and side % 2 == 1
        and graph.attribute(node, "group", 1) == 1
        and graph.attribute(node, "strides") == [2, 2]
        and graph.attribute(node, "dilations", [1, 1]) == [1, 1]
        and graph.attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and graph.attribute(node, "pads") == [side // 2] * 4
    )


def _packed(weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], int, int]:
    """Weights (out, 3, k, k) of stride 2 as (out, 12, m, m) of stride 1 on blocks of 2 x 2 pixels.

    Returns:
        the weights, channels being row, column, colour; and the blocks of padding before and after.
    """
    reach = weight.shape[2] // 2
    before, after = (reach + 1) // 2, reach // 2
    side = before + 1 + after
    packed = np.zeros((len(weight), 2, 2, 3, side, side))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            (y, row), (x, column) = divmod(i - reach, 2), divmod(j - reach, 2)
            packed[:, row, column, :, y + before, x + before] = weight[:, :, i, j]
    return packed.reshape(len(weight), 12, side, side), before, after
