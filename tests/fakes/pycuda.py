"""A stand-in for `pycuda.driver`: device memory is host memory, and misuse is found out.

It has what edgepose uses, and the traits of the real one that bite: a stack of contexts of its own in each
thread, allocations that belong to the very object of the context that was current, and a thread that must
not end with a context in place.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
import time
import types
import warnings
from collections import Counter
from typing import Any

import numpy as np

from tests.fakes import streams

__all__ = ["Cuda", "install"]

_ALIGNMENT = 256
_POISON = 0xDD
_handles = itertools.count(0x5EED0)


class Cuda:
    """The state behind a fake driver, and what a test may set and look at.

    Attributes:
        devices: how many there are.
        driver: whether a driver is there.
        integrated: whether devices share the host's memory.
        compute_capability, name, total_memory: of each device.
        memory_left: bytes that can still be allocated; None: any number.
        broken: the text of an error that every later call that waits raises; None: there is none.
        aborts: threads that ended with a context in place, each of which ends a real process.
        live: what is not given back, by kind.
        visible: bytes that the device may touch, by address.
        leaks: what could not be given back for want of its context.
        counts: calls by name.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        driver: bool = True,
        integrated: bool = False,
        compute_capability: tuple[int, int] = (8, 7),
        name: str = "Fake GPU",
        memory_left: int | None = None,
    ) -> None:
        self.devices = devices
        self.driver = driver
        self.integrated = integrated
        self.compute_capability = compute_capability
        self.name = name
        self.total_memory = 8 << 30
        self.memory_left = memory_left
        self.broken: str | None = None
        self.aborts: list[str] = []
        self.leaks: list[str] = []
        self.counts: Counter[str] = Counter()
        self.live: dict[int, str] = {}
        self.visible: dict[int, int] = {}
        self.retained: list[Any] = []
        self.process: int | None = None
        self._threads = threading.local()
        self._freed: list[Any] = []
        self.module = _module(self)

    @property
    def stack(self) -> list[Any]:
        """This thread's contexts, the current one last."""
        if not hasattr(self._threads, "stack"):
            self._threads.stack = _Stack(self)
        return self._threads.stack.contexts

    def current(self, call: str) -> Any:
        """The current context, needed by a call."""
        if self.process != os.getpid():
            raise self.module.RuntimeError(f"{call} failed: initialization error")
        if not self.stack:
            raise self.module.LogicError(
                f"{call} failed: invalid device context - no currently active context?"
            )
        return self.stack[-1]

    def held(self) -> int:
        """How many things of the device are not given back."""
        return len(self.live)

    def covers(self, address: int, nbytes: int) -> bool:
        """Whether the device may touch memory, all of it."""
        return any(
            start <= address and address + nbytes <= start + size for start, size in self.visible.items()
        )

    def take(self, nbytes: int) -> _Buffer:
        """Memory, if there is so much."""
        if self.memory_left is not None:
            if nbytes > self.memory_left:
                raise self.module.MemoryError("cuMemAlloc failed: out of memory")
            self.memory_left -= nbytes
        return _Buffer(nbytes)

    def give(self, buffer: _Buffer) -> None:
        """Take memory back; it is kept, poisoned, so that `check` finds late writes."""
        if self.memory_left is not None:
            self.memory_left += buffer.nbytes
        self.visible.pop(buffer.pointer, None)
        ctypes.memset(buffer.pointer, _POISON, buffer.nbytes)
        self._freed.append(buffer)

    def check(self) -> None:
        """Assert that all is given back as it must be, and nothing was written to afterwards."""
        assert self.aborts == []
        assert self.leaks == []
        assert self.stack == []
        assert list(self.live.values()) == []
        for buffer in self._freed:
            assert set(buffer.read()) <= {_POISON}, "memory was written after it was freed"


class _Stack:
    """The contexts of a thread; dropped when the thread ends."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.contexts = cuda, []
        self.thread = threading.current_thread().name

    def __del__(self) -> None:
        if self.contexts:
            self.cuda.aborts.append(f"the context stack of {self.thread} was not empty")


class _Buffer:
    """Aligned host memory."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._memory = (ctypes.c_ubyte * (nbytes + _ALIGNMENT))()
        self.pointer = -(-ctypes.addressof(self._memory) // _ALIGNMENT) * _ALIGNMENT

    def read(self) -> bytes:
        return ctypes.string_at(self.pointer, self.nbytes)


class _Resource:
    """Something that belongs to the context that was current when it was made."""

    cuda: Cuda

    def __init__(self, call: str) -> None:
        self.context = self.cuda.current(call)
        self.cuda.live[id(self)] = type(self).__name__
        self.cuda.counts[call] += 1

    def free(self) -> None:
        if self.__dict__.pop("context", None) is None:
            raise self.cuda.module.LogicError(f"{type(self).__name__}.free failed: invalid resource handle")
        self._free()

    def _free(self) -> None:
        self.cuda.live.pop(id(self), None)

    def __del__(self) -> None:
        context = self.__dict__.pop("context", None)
        if context is None:
            return
        if self.cuda.stack and self.cuda.stack[-1] is context:
            self._free()
            return
        what = f"{type(self).__name__} could not be cleaned up: its context is not current"
        self.cuda.leaks.append(what)
        warnings.warn(what, UserWarning, stacklevel=2)


def _module(cuda: Cuda) -> Any:
    """The module `pycuda.driver`; its classes and functions close over the state."""
    module: Any = types.ModuleType("pycuda.driver")
    module.Error = type("Error", (Exception,), {})
    for kind in ("MemoryError", "LogicError", "LaunchError", "RuntimeError"):
        setattr(module, kind, type(kind, (module.Error,), {}))

    class Base(_Resource):
        pass

    Base.cuda = cuda

    def need_init(call: str) -> None:
        if cuda.process != os.getpid():
            raise module.LogicError(f"{call} failed: initialization error")

    def init(flags: int = 0) -> None:
        if not cuda.driver:
            raise module.RuntimeError("cuInit failed: no CUDA-capable device is detected")
        cuda.process = os.getpid()
        cuda.counts["init"] += 1

    class Context:
        def __init__(self, device: Any) -> None:
            self.device = device

        def push(self) -> None:
            need_init("cuCtxPushCurrent")
            cuda.stack.append(self)

        @staticmethod
        def pop() -> None:
            if not cuda.stack:
                raise module.LogicError("context::pop failed: invalid device context")
            cuda.stack.pop()

        @staticmethod
        def synchronize() -> None:
            cuda.current("cuCtxSynchronize")
            wait("cuCtxSynchronize")

    class Device:
        def __init__(self, number: int) -> None:
            need_init("cuDeviceGet")
            if not 0 <= number < cuda.devices:
                raise module.LogicError("cuDeviceGet failed: invalid device ordinal")
            self.number = number

        @staticmethod
        def count() -> int:
            need_init("cuDeviceGetCount")
            return cuda.devices

        def name(self) -> str:
            return cuda.name

        def compute_capability(self) -> tuple[int, int]:
            return cuda.compute_capability

        def total_memory(self) -> int:
            return cuda.total_memory

        def get_attribute(self, attribute: str) -> int:
            return {"integrated": int(cuda.integrated), "can map": 1}[attribute]

        def retain_primary_context(self) -> Context:
            context = Context(self)
            cuda.retained.append(context)
            return context

        def make_context(self, flags: int = 0) -> Context:
            raise AssertionError("make_context makes a second context, in which TensorRT's memory is invalid")

    def wait(call: str) -> None:
        cuda.counts[call] += 1
        if cuda.broken is not None:
            raise module.LaunchError(f"{call} failed: {cuda.broken}")

    class Stream(Base):
        def __init__(self, flags: int = 0) -> None:
            super().__init__("cuStreamCreate")
            self.flags = flags
            self.handle = next(_handles)

        def synchronize(self) -> None:
            cuda.current("cuStreamSynchronize")
            del self  # an error's traceback must not keep it
            wait("cuStreamSynchronize")

        def wait_for_event(self, event: Event) -> None:
            assert event.at is not None, "the event is not recorded"

    class Event(Base):
        def __init__(self, flags: int = 0) -> None:
            super().__init__("cuEventCreate")
            self.at: float | None = None

        def record(self, stream: Stream | None = None) -> Event:
            cuda.current("cuEventRecord")

            def mark() -> None:
                self.at = time.perf_counter()

            streams.submit(0 if stream is None else stream.handle, mark)
            return self

        def synchronize(self) -> Event:
            if cuda.broken is None:
                cuda.counts["cuEventSynchronize"] += 1
                return self
            del self  # an error's traceback must not keep it
            return wait("cuEventSynchronize")  # type: ignore[return-value]

        def time_since(self, event: Event) -> float:
            if self.at is None or event.at is None:
                raise module.LogicError("cuEventElapsedTime failed: invalid resource handle")
            return (self.at - event.at) * 1e3

    class DeviceAllocation(Base):
        def __init__(self, nbytes: int) -> None:
            cuda.current("cuMemAlloc")
            self.buffer = cuda.take(nbytes)
            cuda.visible[self.buffer.pointer] = nbytes
            super().__init__("cuMemAlloc")

        def __int__(self) -> int:
            return int(self.buffer.pointer)

        def _free(self) -> None:
            super()._free()
            cuda.give(self.buffer)

    class PagelockedHostAllocation(Base):
        def __init__(self, shape: Any, dtype: np.dtype[Any], flags: int) -> None:
            cuda.current("cuMemHostAlloc")
            count = int(np.prod(shape))
            self.buffer = cuda.take(max(1, count * dtype.itemsize))
            self.flags = flags
            if flags & module.host_alloc_flags.DEVICEMAP:
                cuda.visible[self.buffer.pointer] = self.buffer.nbytes
            self.__array_interface__ = {
                "shape": tuple(np.atleast_1d(shape).tolist()) if shape != () else (),
                "typestr": dtype.str,
                "data": (self.buffer.pointer, False),
                "version": 3,
            }
            super().__init__("cuMemHostAlloc")

        def get_device_pointer(self) -> int:
            if not self.flags & module.host_alloc_flags.DEVICEMAP:
                raise module.LogicError("cuMemHostGetDevicePointer failed: invalid argument")
            return int(self.buffer.pointer)

        def _free(self) -> None:
            super()._free()
            cuda.give(self.buffer)

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        return np.asarray(PagelockedHostAllocation(shape, np.dtype(dtype), mem_flags))

    def copy(call: str, host: np.ndarray, to: int | None, stream: Any) -> None:
        cuda.current(call)
        cuda.counts[call] += 1
        address, nbytes = host.__array_interface__["data"][0], host.nbytes
        assert host.flags.c_contiguous
        target, source = (to, address) if call == "cuMemcpyHtoDAsync" else (address, to)
        handle = 0 if stream is None else stream.handle
        streams.submit(handle, lambda: ctypes.memmove(target, source, nbytes) and None)

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Any = None) -> None:
        copy("cuMemcpyHtoDAsync", src, dest, stream)

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Any = None) -> None:
        copy("cuMemcpyDtoHAsync", dest, src, stream)

    module.init = init
    module.get_driver_version = lambda: 12060
    module.device_attribute = types.SimpleNamespace(INTEGRATED="integrated", CAN_MAP_HOST_MEMORY="can map")
    module.host_alloc_flags = types.SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4)
    module.mem_alloc = DeviceAllocation
    for thing in (Context, Device, Stream, Event, DeviceAllocation, PagelockedHostAllocation):
        setattr(module, thing.__name__, thing)
    for function in (pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(module, function.__name__, function)
    return module


def install(monkeypatch: Any = None, **knobs: Any) -> Cuda:
    """Put a fake pycuda in place of the package, and let edgepose forget the devices it has opened.

    Args:
        monkeypatch: undoes it after the test; None: for good, in a process made for it.
        knobs: of `Cuda`.
    """
    from edgepose.backends import device

    cuda = Cuda(**knobs)
    package: Any = types.ModuleType("pycuda")
    package.driver = cuda.module
    put = setattr if monkeypatch is None else monkeypatch.setattr
    put(device, "_devices", {})
    put(device, "_process", None)
    for name, module in (("pycuda", package), ("pycuda.driver", cuda.module)):
        if monkeypatch is None:
            sys.modules[name] = module
        else:
            monkeypatch.setitem(sys.modules, name, module)
    return cuda
