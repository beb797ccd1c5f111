"""Device memory for calls that take numpy arrays or arrays on the device: copies, results, reuse."""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgepose.kernels import _checks, _cuda
from edgepose.kernels._device_view import DeviceView, view

__all__ = ["STREAM", "Call", "DeviceArray", "device_view"]

STREAM = 0
"""All work of this module is put on the default stream."""
_MAX_HELD = 256 << 20
"""Bytes of freed memory that are kept for later calls."""


class _Pool:
    """Freed blocks, taken again by calls that need exactly as many bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: OrderedDict[int, tuple[int, int]] = OrderedDict()  # by pointer: bytes, pointer
        self._held = 0
        # A garbage collection may give blocks back at any moment, inside `take` too.
        self._returned: deque[tuple[int, int]] = deque()

    def take(self, size: int) -> int:
        with self._lock:
            while self._returned:
                block = self._returned.popleft()
                self._free[block[1]] = block
                self._held += block[0]
            found = next((pointer for bytes_, pointer in self._free.values() if bytes_ == size), None)
            if found is not None:
                del self._free[found]
                self._held -= size
                return found
            while self._held > _MAX_HELD:
                pointer, (freed, _) = self._free.popitem(last=False)
                self._held -= freed
                _cuda.free(pointer)
        return _cuda.allocate(size)

    def give(self, size: int, pointer: int) -> None:
        self._returned.append((size, pointer))


_pool = _Pool()


class DeviceArray:
    """A packed array in device memory, which goes back for reuse with the object, or by `free`.

    Those that are not `pooled` have memory of their own, on the device that is current.

    Any library that reads ``__cuda_array_interface__`` takes it; no work on it is pending.

    Attributes:
        shape, dtype: as of a numpy array.
        pointer: its device address.
    """

    def __init__(self, shape: Sequence[int], dtype: DTypeLike = np.float32, *, pooled: bool = True) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        if pooled:
            self.pointer = _pool.take(self.nbytes)
            give = functools.partial(_pool.give, self.nbytes, self.pointer)
        else:  # on the device that is current, and back to it with the array
            self.pointer = _cuda.allocate(max(self.nbytes, 1))
            give = functools.partial(_cuda.free, self.pointer)
        self._release = weakref.finalize(self, give)
        self._release.atexit = pooled  # of the others the device may be gone before

    @classmethod
    def of(cls, array: NDArray[Any], *, pooled: bool = True) -> DeviceArray:
        """A copy of a numpy array."""
        packed = np.require(array, requirements=["C", "A"])
        made = cls(packed.shape, packed.dtype, pooled=pooled)
        _cuda.copy_in(made.pointer, packed.ctypes.data, packed.nbytes, STREAM)
        _cuda.synchronize(STREAM)
        return made

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if not self._release.alive:
            raise ValueError("the device array is not usable; found it freed; make another")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer if self.nbytes else 0, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def numpy(self) -> NDArray[Any]:
        """A copy as a numpy array."""
        described = DeviceView(self.__cuda_array_interface__)
        result = np.empty(self.shape, self.dtype)
        _cuda.copy_out(result.ctypes.data, described.pointer, self.nbytes, STREAM)
        _cuda.synchronize(STREAM)
        return result

    def free(self) -> None:
        """Give the memory back now; the array cannot be used any more."""
        self._release()

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}, {self.shape})"


def device_view(name: str, value: Any) -> Any:
    """`value` as the checks take it: arrays on the device become a `DeviceView`.

    Raises:
        InvalidInputError: what describes the array cannot be used.
    """
    try:
        return view(value)
    except ValueError as error:
        raise _checks.rejected(name, str(error), "a packed array") from None


class Call:
    """The memory of one call, to be used by ``with``.

    Arguments come to the device by `put`, `result` makes room for what is returned, and `finish` waits
    for the work and brings the results to where the caller wants them: into the ``out=`` that was given,
    else to device arrays if any argument lies on the device, else to numpy arrays.
    """

    def __init__(self) -> None:
        self._borrowed: list[tuple[int, int]] = []
        self._kept: list[Any] = []
        self._results: list[tuple[Any, int]] = []
        self._on_device = False

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._borrowed:
                _cuda.synchronize(STREAM)
        finally:
            for size, pointer in self._borrowed:
                _pool.give(size, pointer)

    def room(self, size: int) -> int:
        """Device memory of that many bytes, for the time of the call."""
        pointer = _pool.take(size)
        self._borrowed.append((size, pointer))
        return pointer

    def put(self, array: NDArray[Any] | DeviceView) -> int:
        """Address of the array on the device. Numpy arrays are copied, packed."""
        if isinstance(array, DeviceView):
            self._on_device = True
            if array.stream is not None:
                _cuda.synchronize(array.stream)
            return array.pointer
        return self.put_host(array)

    def put_host(self, array: NDArray[Any]) -> int:
        """The same for what always lies with the host, such as options."""
        packed = np.require(array, requirements=["C", "A"])
        pointer = self.room(packed.nbytes)
        _cuda.copy_in(pointer, packed.ctypes.data, packed.nbytes, STREAM)
        self._kept.append(packed)
        return pointer

    def result(self, out: Any, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> int:
        """Room for a result; `out` is None or a checked array. Call it after every `put`."""
        described = view(out)
        if isinstance(described, DeviceView):
            pointer = described.pointer
            if described.stream is not None:
                _cuda.synchronize(described.stream)
        elif out is None and self._on_device:
            out = DeviceArray(shape, dtype)
            pointer = out.pointer
        else:
            out = np.empty(shape, dtype) if out is None else out
            pointer = self.room(out.nbytes)
        self._results.append((out, pointer))
        return pointer

    def finish(self) -> tuple[Any, ...]:
        """Wait for the work; the results, in the order of `result`."""
        for out, pointer in self._results:
            if isinstance(out, np.ndarray):
                _cuda.copy_out(out.ctypes.data, pointer, out.nbytes, STREAM)
        _cuda.synchronize(STREAM)
        return tuple(out for out, _ in self._results)
