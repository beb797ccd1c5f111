"""Reading the ONNX file that is to be built, whatever it holds: nothing in it is trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import ModelFormatError
from edgepose.optional import first_line, require
from edgepose.spec import ModelSpec

__all__ = ["Source", "load_source"]

MAX_BYTES = 2**31 - 1
"""Largest file: what a protocol buffer can hold."""
MAX_TENSOR_BYTES = 2**31 - 1
"""Largest stored tensor."""
MAX_DEPTH = 8
"""Deepest nesting of graphs within nodes."""
DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Operator sets that the runtimes know."""


@dataclass(frozen=True)
class Source:
    """A checked model.

    Attributes:
        path: the file.
        model: ``onnx.ModelProto`` with all weights inside.
        spec: its description.
    """

    path: Path
    model: Any
    spec: ModelSpec


def load_source(path: Path) -> Source:
    """Read and check an ONNX file.

    Weights in files of their own are read only from regular files below the model's folder.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is damaged, cut short, too large or no ONNX file; carries no `ModelSpec`; a
            stored tensor has more or fewer bytes than its shape, or lies outside of the folder; nodes
            form a cycle, use values that nothing makes, or operators of an unknown set.
        BackendUnavailableError: the package onnx is not installed.
    """
    spec = read_spec(path)
    onnx = require("onnx", "building a model", "edgepose[build]")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise _unusable(path, f"it has {size} bytes, at most {MAX_BYTES} are read")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's errors have no common base
        raise _unusable(path, f"not a complete ONNX file: {first_line(error)}") from error
    try:
        _check_graphs(onnx, model)
        _read_weights(onnx, model, path)
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except _Unusable as error:
        raise _unusable(path, str(error)) from None
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _unusable(path, first_line(error)) from error
    return Source(path, model, spec)


class _Unusable(Exception):
    pass


def _check_graphs(onnx: Any, model: Any) -> None:
    """Operators of known sets only, in an order in which every value is made before it is used."""
    for entry in model.opset_import:
        if entry.domain not in DOMAINS:
            raise _Unusable(f"it uses operators of the unknown set {entry.domain!r}")
    if model.functions:
        raise _Unusable(f"it defines {len(model.functions)} functions of its own; export it without")
    _check_order(onnx, model.graph, frozenset(), MAX_DEPTH)


def _check_order(onnx: Any, graph: Any, outer: frozenset[str], depth: int) -> None:
    if depth == 0:
        raise _Unusable(f"graphs within graphs are nested more than {MAX_DEPTH} deep")
    known = set(outer)
    known.update(item.name for item in graph.input)
    known.update(item.name for item in graph.initializer)
    known.update(item.values.name for item in graph.sparse_initializer)
    made = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if node.domain not in DOMAINS:
            raise _Unusable(f"node {node.name!r} is of the unknown operator set {node.domain!r}")
        for name in node.input:
            if name and name not in known:
                reason = (
                    "its nodes form a cycle or stand in a wrong order" if name in made else "nothing makes it"
                )
                raise _Unusable(f"node {node.name!r} uses the value {name!r}: {reason}")
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    _check_order(onnx, inner, frozenset(known), depth - 1)
        known.update(node.output)
    for item in graph.output:
        if item.name not in known:
            raise _Unusable(f"nothing makes the output {item.name!r}")


def _tensors(graph: Any) -> Iterator[Any]:
    """All stored tensors of a graph and of those within it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _read_weights(onnx: Any, model: Any, path: Path) -> None:
    """Check every stored tensor, and take in those that stand in other files."""
    for tensor in _tensors(model.graph):
        if any(side < 0 for side in tensor.dims):
            raise _Unusable(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}")
        try:
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, TypeError, ValueError):
            raise _Unusable(f"tensor {tensor.name!r} is of the unknown type {tensor.data_type}") from None
        length = math.prod(tensor.dims) * itemsize
        if length > MAX_TENSOR_BYTES:
            raise _Unusable(
                f"tensor {tensor.name!r} of shape {list(tensor.dims)} would take {length} bytes, at most "
                f"{MAX_TENSOR_BYTES} are read"
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = _external(tensor, length, path)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != length and itemsize > 0:
            packed = tensor.data_type in _packed_types(onnx) and len(tensor.raw_data) == -(-length // 2)
            if not packed:
                raise _Unusable(
                    f"tensor {tensor.name!r} of shape {list(tensor.dims)} has {len(tensor.raw_data)} bytes, "
                    f"its shape needs {length}"
                )


def _packed_types(onnx: Any) -> set[int]:
    """Types of two values a byte."""
    return {getattr(onnx.TensorProto, name) for name in ("INT4", "UINT4") if hasattr(onnx.TensorProto, name)}


def _external(tensor: Any, length: int, path: Path) -> bytes:
    """The bytes of a tensor that stands in another file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    relative = PurePosixPath(location)
    folder = path.parent.resolve()
    file: Path = (folder / location).resolve()
    if not location or relative.is_absolute() or ".." in relative.parts or not file.is_relative_to(folder):
        raise _Unusable(f"tensor {tensor.name!r} lies outside of the model's folder, at {location!r}")
    if not file.is_file():
        raise _Unusable(f"tensor {tensor.name!r} lies in {location!r}, which is not there")
    try:
        offset, stated = int(entries.get("offset", 0)), int(entries.get("length", length))
    except ValueError:
        raise _Unusable(f"tensor {tensor.name!r} has a place that is no number in {location!r}") from None
    if stated != length or offset < 0 or offset + length > file.stat().st_size:
        raise _Unusable(
            f"tensor {tensor.name!r} of {length} bytes does not fit its place in {location!r}: "
            f"{stated} bytes from {offset}, the file has {file.stat().st_size}"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        content: bytes = stream.read(length)
    return content


def _unusable(path: Path, found: str) -> ModelFormatError:
    return ModelFormatError(f"cannot build from {path}; {found}; get or export it again")
