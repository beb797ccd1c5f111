"""Rewritings of a graph that keep its function.

Each stands in a file of its own and tells how often it applied.
"""

from __future__ import annotations

from typing import Any

from edgepose.builder.graph import Graph
from edgepose.builder.passes.context_pooling import simplify_context_pooling
from edgepose.builder.passes.deconvolution import split_deconvolutions
from edgepose.builder.passes.simplify import simplify

__all__ = ["PASSES", "rewrite"]

PASSES = {"context_pooling": simplify_context_pooling, "deconvolution": split_deconvolutions}
"""By name, in the order in which they run; the simplifier runs before them."""

OPSET = 13
"""From here on Softmax, Unsqueeze and DepthToSpace mean what the passes take them for."""


def rewrite(model: Any, *, tensorrt: bool = False) -> tuple[Any, dict[str, int]]:
    """Simplify a model, then run all passes.

    TensorRT has deconvolutions and fusions of its own, which the passes would hide from it: what it shall run
    is only simplified.

    Graphs of an older opset, and those with branches or loops, whose bodies use values that a pass does not
    see, are only simplified.

    Args:
        model: ``onnx.ModelProto``; it stays as it is.
        tensorrt: TensorRT will run it.

    Returns:
        the new model, and how often each pass applied.
    """
    model = simplify(model)
    if tensorrt:
        return model, {}
    graph = Graph(model)
    if graph.opset < OPSET or graph.has_subgraphs:
        return model, dict.fromkeys(PASSES, 0)
    return model, {name: apply(graph) for name, apply in PASSES.items()}
