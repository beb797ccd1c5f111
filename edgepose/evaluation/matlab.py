"""Numeric arrays of MATLAB files of level 5, in which Leeds Sports Pose and MPII are published.

Source: MathWorks, "MAT-File Format", chapter 1, level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError

__all__ = ["read_arrays"]

HEADER = 128
MATRIX, COMPRESSED = 14, 15
STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"
}  # fmt: skip
"""How numbers lie in the file, by the number of their type."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""What an array holds, by the number of its class; it may be stored in a smaller type."""
COMPLEX = 0x800


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The real numeric arrays of a file by name; cells, structures, text and sparse arrays are passed over.

    Raises:
        InvalidInputError: the file is missing, damaged, or of another level, such as 7.3 (HDF5).
    """
    try:
        content = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
        if order is None or struct.unpack_from(f"{order}H", content, 124) != (0x0100,):
            raise ValueError(f"it begins with {content[:20]!r}")
        return dict(_arrays(content[HEADER:], order))
    except (OSError, ValueError, KeyError, struct.error, zlib.error) as error:
        raise InvalidInputError(
            f"cannot read {path}; {type(error).__name__}: {error}; give a MATLAB file of level 5, as saved "
            "by -v6 or -v7: fetch the data set again"
        ) from error


def _arrays(content: bytes, order: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for kind, data in _elements(content, order):
        if kind == COMPRESSED:
            yield from _arrays(zlib.decompress(data), order)
        elif kind == MATRIX and data:
            yield from _numeric(data, order)


def _numeric(content: bytes, order: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and values of a matrix, if it is a numeric one."""
    parts = _elements(content, order)
    flags = struct.unpack_from(f"{order}I", next(parts, (0, b""))[1])[0]
    if flags & 0xFF not in CLASSES or flags & COMPLEX:
        return
    sides, name, values = (next(parts, (0, b"")) for _ in range(3))
    shape = tuple(int(side) for side in np.frombuffer(sides[1], f"{order}i4"))
    stored = np.frombuffer(values[1], order + STORED[values[0]])
    if min(shape, default=0) < 0 or math.prod(shape) != stored.size:
        raise ValueError(f"array of {shape} with {stored.size} values")
    yield name[1].decode(), stored.reshape(shape, order="F").astype(CLASSES[flags & 0xFF])


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of each element."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        if kind >> 16:  # a small element: both numbers in four bytes, the data in the other four
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
        else:
            place = start + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(content):
            raise ValueError(f"it ends {start + size - len(content)} bytes too soon")
        yield kind, content[start : start + size]
