"""Networks that take pictures as they are: uint8, channels last, the normalisation within the graph.

The picture is turned round, made float, and normalised by a BatchNormalization, which is one step for mean
and standard deviation; the network that follows stays as it is. A subtraction would be moved, where maps are
quantised, to where the channels lie side by side; there ONNX Runtime takes 25 times as long for it.
"""

from __future__ import annotations

import numpy as np

from edgepose.backends.base import INPUT
from edgepose.builder.graph import Graph
from edgepose.errors import BuildError
from edgepose.spec import ModelSpec

__all__ = ["take_pixels"]


def take_pixels(graph: Graph, spec: ModelSpec) -> None:
    """Let a graph's input ``image`` (n, 3, h, w) float32, normalised, be (n, h, w, 3) uint8.

    Args:
        graph: changed in place.
        spec: its mean and standard deviation, for ``(value / 255 - mean) / std``.

    Raises:
        BuildError: the graph has branches or loops, whose bodies may use the input.
    """
    if graph.has_subgraphs:
        raise BuildError(
            "cannot let the network take bytes; found branches or loops in its graph; build it with "
            "input float32"
        )
    parts = {
        "scale": 1 / (255 * np.asarray(spec.std)),
        "shift": np.zeros(3),
        "mean": 255 * np.asarray(spec.mean),
        "variance": np.ones(3),
    }
    names = [graph.add_constant(v.astype(np.float32), f"{INPUT}_{name}") for name, v in parts.items()]
    users = graph.consumers(INPUT)
    turned = graph.node("Transpose", [INPUT], INPUT, perm=[0, 3, 1, 2])
    number = graph.node("Cast", [turned.output[0]], INPUT, to=1)  # float32
    normal = graph.node("BatchNormalization", [number.output[0], *names], INPUT, epsilon=0.0)
    for node in users:
        for index, name in enumerate(node.input):
            if name == INPUT:
                node.input[index] = normal.output[0]
    graph.replace([], [turned, number, normal])
    graph.take_bytes(INPUT)
    graph.clean()
