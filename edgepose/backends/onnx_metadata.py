"""What an ONNX file says of itself, read without any ONNX package.

An ONNX file is a protocol buffer (``ModelProto``). For its metadata, such as the `ModelSpec`, only the top
level is walked, for its input that of the graph too: weights are stepped over, so that this costs neither
memory nor time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from edgepose.backends.base import INPUT
from edgepose.errors import ModelFormatError, ModelNotFoundError
from edgepose.spec import MAX_JSON_BYTES, METADATA_KEY, ModelSpec

__all__ = ["read_first_operators", "read_input_shape", "read_metadata", "read_spec"]

_GRAPH, _METADATA_PROPS = 7, 14  # field numbers in ModelProto
_KEY, _VALUE = 1, 2  # in StringStringEntryProto
_GRAPH_NODE, _GRAPH_INPUT = 1, 11  # in GraphProto
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE = 1, 2, 4  # in NodeProto
_NAME, _TYPE = 1, 2  # in ValueInfoProto
_TENSOR_TYPE = 1  # in TypeProto
_SHAPE = 2  # in TypeProto.Tensor
_DIM = 1  # in TensorShapeProto
_DIM_VALUE = 1  # in TensorShapeProto.Dimension
_MAX_DIMS = 8
_FIXED_SIZES = {1: 8, 5: 4}  # by wire type
_VARINT, _BYTES = 0, 2

_T = TypeVar("_T")


def read_spec(path: Path) -> ModelSpec:
    """Read the spec of an ONNX file.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is empty, no ONNX file, cut short, or carries no usable spec.
    """
    spec = _read(path, _find_metadata).get(METADATA_KEY.encode())
    if spec is None:
        raise ModelFormatError(
            f"cannot run {path}; the ONNX file carries no edgepose ModelSpec; export it with "
            f"python -m training export, or add one under the metadata key {METADATA_KEY!r}; an object "
            "detector goes to detector="
        )
    try:
        return ModelSpec.from_json(spec)
    except ModelFormatError as error:
        raise ModelFormatError(f"cannot run {path}; {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read the texts that an ONNX file carries beside its graph, by name; very long ones are left out.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is empty, no ONNX file, or cut short.
    """
    found = _read(path, _find_metadata)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()}


def read_first_operators(path: Path, name: str) -> set[str]:
    """Read what operators an input of an ONNX file goes into, after any change of its type.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is empty, no ONNX file, or cut short before the end of its graph.
    """
    return _read(path, lambda file, size: _find_first_operators(file, size, name.encode()))


def read_input_shape(path: Path) -> list[int | None] | None:
    """Read the shape of the input ``image`` of an ONNX file: None for an axis that is free.

    Returns:
        The shape, its axes as `ModelSpec.input_format` says; None where there is no such input or no shape.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is empty, no ONNX file, or cut short before the end of its graph.
    """
    return _read(path, _find_input_shape)


def _read(path: Path, find: Callable[[BinaryIO, int], _T]) -> _T:
    """What `find` makes of the open file and its size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise ModelFormatError(f"cannot read {path}; the file is empty; get or export it again")
            try:
                return find(file, size)
            except _NotOnnx as error:
                raise ModelFormatError(
                    f"cannot read {path}; not a complete ONNX file: {error}; get or export it again"
                ) from None
    except FileNotFoundError:
        raise ModelNotFoundError(f"model not found: {path}; check the path") from None
    except OSError as error:
        raise ModelFormatError(f"cannot read {path}; {error.strerror}; give an .onnx file") from error


class _NotOnnx(Exception):
    pass


def _find_metadata(file: BinaryIO, size: int) -> dict[bytes, bytes]:
    """The entries of ``metadata_props``."""
    found: dict[bytes, bytes] = {}
    has_graph = False
    for field, wire, end in _fields(file, size):
        has_graph |= field == _GRAPH and wire == _BYTES
        if field == _METADATA_PROPS and wire == _BYTES and end - file.tell() <= MAX_JSON_BYTES + 64:
            entry = {
                number: file.read(stop - file.tell())
                for number, kind, stop in _fields(file, end)
                if kind == _BYTES
            }
            found[entry.get(_KEY, b"")] = entry.get(_VALUE, b"")
    if not has_graph:
        raise _NotOnnx("there is no graph in it")
    return found


def _find_first_operators(file: BinaryIO, size: int, name: bytes) -> set[str]:
    """The types of the nodes, which stand in the order of their execution, that take an input."""
    carriers = {name}
    operators: set[str] = set()
    for graph in _parts(file, size, _GRAPH):
        for node in _parts(file, graph, _GRAPH_NODE):
            inputs: set[bytes] = set()
            outputs: set[bytes] = set()
            kind = ""
            for field, wire, end in _fields(file, node):
                if wire == _BYTES and field in (_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE):
                    text = file.read(end - file.tell())
                    if field == _NODE_TYPE:
                        kind = text.decode(errors="replace")
                    else:
                        (inputs if field == _NODE_INPUT else outputs).add(text)
            if inputs & carriers:
                if kind in ("Cast", "Identity"):
                    carriers |= outputs
                else:
                    operators.add(kind)
    return operators


def _find_input_shape(file: BinaryIO, size: int) -> list[int | None] | None:
    """The shape of our input."""
    graph = None
    for graph in _parts(file, size, _GRAPH):
        for value in _parts(file, graph, _GRAPH_INPUT):
            name, shape = b"", None
            for field, wire, end in _fields(file, value):
                if field == _NAME and wire == _BYTES:
                    name = file.read(min(end - file.tell(), len(INPUT) + 1))
                elif field == _TYPE and wire == _BYTES:
                    shape = _shape(file, end)
            if name == INPUT.encode():
                return shape
    if graph is None:
        raise _NotOnnx("there is no graph in it")
    return None


def _shape(file: BinaryIO, end: int) -> list[int | None] | None:
    """The axes of a tensor's type."""
    shape: list[int | None] | None = None
    for tensor in _parts(file, end, _TENSOR_TYPE):
        for axes in _parts(file, tensor, _SHAPE):
            shape = []
            for axis in _parts(file, axes, _DIM):
                if len(shape) == _MAX_DIMS:
                    raise _NotOnnx("an input has too many axes")
                length = 0
                for field, wire, value in _fields(file, axis):
                    if field == _DIM_VALUE and wire == _VARINT:
                        length = value
                shape.append(length if 0 < length < 1 << 31 else None)
    return shape


def _parts(file: BinaryIO, end: int, number: int) -> Iterator[int]:
    """The ends of the messages with this field number; the file stands at the start of each in turn."""
    for field, wire, stop in _fields(file, end):
        if field == number and wire == _BYTES:
            yield stop


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Walk the fields of a message that ends at byte `end`.

    Yields:
        Number, wire type, and the value of a varint, else the byte at which the field's content ends;
        the file stands at its start, and may be moved within.
    """
    while file.tell() < end:
        field, wire = divmod(_varint(file), 8)
        value = _varint(file) if wire in (_VARINT, _BYTES) else _FIXED_SIZES.get(wire)
        if field == 0 or value is None:
            raise _NotOnnx(f"unknown content at byte {file.tell()}")
        stop = file.tell() + (0 if wire == _VARINT else value)
        if stop > end:
            raise _NotOnnx(f"a field ends at byte {stop} of {end}")
        yield field, wire, value if wire == _VARINT else stop
        file.seek(stop)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise _NotOnnx("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _NotOnnx("a number is too long")
