"""An ONNX graph that is being rewritten: who makes a value, who uses it, and what is constant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.optional import require

__all__ = ["Graph", "copy_of"]


def copy_of(message: Any) -> Any:
    """A copy of a model, node or tensor of ONNX."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


class Graph:
    """A view of a model's graph that keeps its look-up tables while nodes come and go.

    Attributes:
        model: ``onnx.ModelProto``, changed in place.
    """

    def __init__(self, model: Any) -> None:
        self._onnx = require("onnx", "building a model", "edgepose[build]")
        self.model = model
        self._graph = model.graph
        self._constants = {item.name: item for item in self._graph.initializer}
        self._outputs = {item.name: None for item in self._graph.output}
        self._names = {name for node in self._graph.node for name in (node.name, *node.input, *node.output)}
        self._index()

    @cached_property
    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the values, as far as they are known, at the first time that one is asked for."""
        graph = self._onnx.shape_inference.infer_shapes(self.model).graph
        shapes: dict[str, tuple[int | None, ...]] = {}
        for item in (*graph.value_info, *graph.input, *graph.output):
            axes = item.type.tensor_type.shape.dim if item.type.tensor_type.HasField("shape") else ()
            shapes[item.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
        return shapes

    def _index(self) -> None:
        self._producers = {name: node for node in self._graph.node for name in node.output}
        self._consumers: dict[str, list[Any]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    @property
    def opset(self) -> int:
        """Version of the standard operators; 0 where the model names none."""
        return next((item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")), 0)

    @property
    def has_subgraphs(self) -> bool:
        """Whether a node has a graph of its own, as branches and loops do."""
        return any(item.HasField("g") or item.graphs for node in self.nodes for item in node.attribute)

    @property
    def nodes(self) -> list[Any]:
        """The nodes in their order, as a list of its own."""
        return list(self._graph.node)

    def producer(self, name: str) -> Any:
        """The node that makes a value, or None for inputs and constants."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[Any]:
        """The nodes that use a value."""
        return self._consumers.get(name, [])

    def side(self, name: str, axis: int) -> int | None:
        """The length of an axis of a value, or None where it is not known; values keep theirs."""
        shape = self._shapes.get(name, ())
        return shape[axis] if axis < len(shape) else None

    def is_output(self, name: str) -> bool:
        """Whether a value is one of the graph's outputs."""
        return name in self._outputs

    def only_consumer(self, name: str, kind: str) -> Any:
        """The node that uses a value, if it is the only one, of this kind, and the value no output."""
        found = self.consumers(name)
        fits = len(found) == 1 and found[0].op_type == kind and not self.is_output(name)
        return found[0] if fits else None

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a constant, or None if it is computed."""
        if name not in self._constants:
            return None
        value: NDArray[Any] = self._onnx.numpy_helper.to_array(self._constants[name])
        return value

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        """A node's attribute; whole numbers come as lists."""
        for item in node.attribute:
            if item.name == name:
                value = self._onnx.helper.get_attribute_value(item)
                return list(value) if isinstance(value, Sequence) and not isinstance(value, bytes) else value
        return default

    def add_constant(self, value: NDArray[Any], like: str) -> str:
        """Store a constant under a new name that tells of another."""
        name = self.new_name(like)
        tensor = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self._graph.initializer.append(tensor)
        self._constants[name] = self._graph.initializer[-1]
        return name

    def new_name(self, like: str) -> str:
        """A name that is not in use."""
        count = 0
        while (name := f"{like}:{count}") in self._names:
            count += 1
        self._names.add(name)
        return name

    def node(self, kind: str, inputs: Sequence[str], like: str, output: str = "", **attributes: Any) -> Any:
        """A node that stands nowhere yet, with one output."""
        name = self.new_name(like)
        return self._onnx.helper.make_node(kind, list(inputs), [output or name], name=name, **attributes)

    def output_layers(self) -> list[str]:
        """Names of the nodes between the last convolutions and the outputs, these convolutions included."""
        found: dict[str, None] = {}
        waiting = list(self._outputs)
        while waiting:
            node = self.producer(waiting.pop())
            if node is None or node.name in found:
                continue
            found[node.name] = None
            if node.op_type not in ("Conv", "ConvTranspose"):
                waiting.extend(node.input)
        return list(found)

    def replace(self, old: Sequence[Any], new: Sequence[Any]) -> None:
        """Put new nodes, in their order, where the last of the old ones stood."""
        gone = {id(node) for node in old}
        kept: list[Any] = []
        place = 0
        for node in self._graph.node:
            if id(node) in gone:
                place = len(kept)
            else:
                kept.append(node)
        kept[place:place] = new
        kept = [copy_of(node) for node in kept]
        del self._graph.node[:]
        self._graph.node.extend(kept)
        self._index()

    def take_bytes(self, name: str) -> None:
        """Declare an input (n, c, h, w) to be (n, h, w, c) of uint8."""
        (found,) = (item for item in self._graph.input if item.name == name)
        tensor = found.type.tensor_type
        tensor.elem_type = self._onnx.TensorProto.UINT8
        if len(axes := tensor.shape.dim) == 4:
            channels = type(axes[1])()
            channels.CopyFrom(axes[1])
            del axes[1]
            axes.append(channels)

    def clean(self) -> None:
        """Drop constants and shapes of values that are no longer there."""
        used = {name for node in self._graph.node for name in node.input} | set(self._outputs)
        stored = [item for item in self._graph.initializer if item.name in used]
        copies = [copy_of(item) for item in stored]
        del self._graph.initializer[:]
        self._graph.initializer.extend(copies)
        self._constants = {item.name: item for item in self._graph.initializer}
        del self._graph.value_info[:]
