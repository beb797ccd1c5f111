"""The `ModelSpec` inside an ONNX file, read without any ONNX package.

An ONNX file is a protocol buffer (``ModelProto``). Only its top level is walked: the graph with the
weights is stepped over, so that this costs neither memory nor time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from edgepose.errors import ModelFormatError, ModelNotFoundError
from edgepose.spec import MAX_JSON_BYTES, METADATA_KEY, ModelSpec

__all__ = ["read_spec"]

_GRAPH, _METADATA_PROPS = 7, 14  # field numbers in ModelProto
_KEY, _VALUE = 1, 2  # in StringStringEntryProto
_FIXED_SIZES = {1: 8, 5: 4}  # by wire type
_BYTES = 2


def read_spec(path: Path) -> ModelSpec:
    """Read the spec of an ONNX file.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is empty, no ONNX file, cut short, or carries no usable spec.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise ModelFormatError(f"cannot read {path}; the file is empty; get or export it again")
            try:
                spec = _find_spec(file, size)
            except _NotOnnx as error:
                raise ModelFormatError(
                    f"cannot read {path}; not a complete ONNX file: {error}; get or export it again"
                ) from None
    except FileNotFoundError:
        raise ModelNotFoundError(f"model not found: {path}; check the path") from None
    except OSError as error:
        raise ModelFormatError(f"cannot read {path}; {error.strerror}; give an .onnx file") from error
    if spec is None:
        raise ModelFormatError(
            f"cannot run {path}; the ONNX file carries no edgepose ModelSpec; export it with "
            f"python -m training export, or add one under the metadata key {METADATA_KEY!r}"
        )
    try:
        return ModelSpec.from_json(spec)
    except ModelFormatError as error:
        raise ModelFormatError(f"cannot run {path}; {error}") from error


class _NotOnnx(Exception):
    pass


def _find_spec(file: BinaryIO, size: int) -> bytes | None:
    """The value of our key in ``metadata_props``."""
    spec = None
    has_graph = False
    while file.tell() < size:
        field, wire = divmod(_varint(file), 8)
        if wire == _BYTES:
            length = _varint(file)
            end = file.tell() + length
            if end > size:
                raise _NotOnnx(f"a field ends at byte {end} of {size}")
            has_graph |= field == _GRAPH
            if field == _METADATA_PROPS and length <= MAX_JSON_BYTES + 64:
                entry = _entry(file, end)
                if entry.get(_KEY) == METADATA_KEY.encode():
                    spec = entry.get(_VALUE, b"")
            file.seek(end)
        elif wire == 0:
            _varint(file)
        elif wire in _FIXED_SIZES and file.tell() + _FIXED_SIZES[wire] <= size:
            file.seek(_FIXED_SIZES[wire], os.SEEK_CUR)
        else:
            raise _NotOnnx(f"unknown content at byte {file.tell()}")
        if field == 0:
            raise _NotOnnx("unknown content at its start")
    if not has_graph:
        raise _NotOnnx("there is no graph in it")
    return spec


def _entry(file: BinaryIO, end: int) -> dict[int, bytes]:
    """The fields of one key-value pair, which end at byte `end`."""
    fields = {}
    while file.tell() < end:
        field, wire = divmod(_varint(file), 8)
        length = _varint(file)
        if wire != _BYTES or file.tell() + length > end:
            raise _NotOnnx("damaged metadata")
        fields[field] = file.read(length)
    return fields


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
