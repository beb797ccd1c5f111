"""Arrays that lie in device memory, as their owners describe them by ``__cuda_array_interface__``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["DeviceView", "view"]


class DeviceView:
    """What the interface (version 2 or 3) says of a packed array in device memory.

    Attributes:
        pointer: device address of the first element; 0 where there are none.
        shape, dtype, readonly: as of a numpy array.
        stream: stream on which the array is being made, or None where no work is pending.

    Raises:
        ValueError: the description cannot be used; the text begins with "an array".
    """

    def __init__(self, described: Any) -> None:
        try:
            shape = tuple(int(length) for length in described["shape"])
            dtype = np.dtype(described["typestr"])
            pointer, readonly = described["data"]
            strides, stream = described.get("strides"), described.get("stream")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError("an array whose __cuda_array_interface__ cannot be read") from None
        if described.get("mask") is not None:
            raise ValueError("an array with a mask")
        self.pointer, self.shape, self.dtype, self.readonly = int(pointer or 0), shape, dtype, bool(readonly)
        self.stream = None if stream is None else int(stream)
        if strides is not None and self.size and not self._packed(tuple(strides)):
            raise ValueError("an array on the device that is not packed")
        if self.size and not self.pointer:
            raise ValueError("an array whose device pointer is null")
        if self.pointer % max(dtype.alignment, 1):
            raise ValueError("an array whose device pointer is not aligned")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return int(self.size * self.dtype.itemsize)

    def overlaps(self, other: DeviceView) -> bool:
        """Whether the two share memory."""
        ends = self.pointer + self.nbytes, other.pointer + other.nbytes
        return self.pointer < ends[1] and other.pointer < ends[0]

    def _packed(self, strides: tuple[int, ...]) -> bool:
        """Whether these are the strides of a packed array; axes of one element have none that counts."""
        packed = [self.dtype.itemsize * math.prod(self.shape[i + 1 :]) for i in range(self.ndim)]
        return len(strides) == self.ndim and all(
            length == 1 or found == wanted
            for length, found, wanted in zip(self.shape, strides, packed, strict=True)
        )


def view(value: Any) -> Any:
    """A `DeviceView` of an array on the device; anything else as it is.

    Raises:
        ValueError: see `DeviceView`.
    """
    if isinstance(value, (np.ndarray, DeviceView)):
        return value
    described = getattr(value, "__cuda_array_interface__", None)
    return value if described is None else DeviceView(described)
