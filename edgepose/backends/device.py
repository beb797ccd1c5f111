"""CUDA devices by pycuda: contexts, streams, events and memory. Nothing else imports pycuda."""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgepose.errors import BackendUnavailableError
from edgepose.optional import first_line, require

__all__ = ["Device", "DeviceMemory", "Event", "Held", "Staging", "Stream", "open_device"]

_log = logging.getLogger("edgepose")

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which pycuda has no name: apart from the default stream
_lock = threading.RLock()
_devices: dict[int, Device] = {}
_process: int | None = None  # the one that initialised CUDA
_left: list[object] = []  # in a fork: what is its parent's to give back
_order = itertools.count()
_at_exit: weakref.WeakValueDictionary[int, Held] = weakref.WeakValueDictionary()


def open_device(number: int = 0) -> Device:
    """A CUDA device, opened once for the whole process.

    Its primary context is used, which is that of TensorRT and of CUDA's runtime API too.

    Args:
        number: as CUDA counts, from 0.

    Raises:
        BackendUnavailableError: pycuda, the driver or the device is not there, or CUDA was initialised by the
            process that this one was forked from.
    """
    _check_process()
    with _lock:
        if number not in _devices:
            _devices[number] = Device(_driver(), number)
        return _devices[number]


class Device:
    """A CUDA device with its primary context. Made by `open_device`. Thread-safe.

    All methods, here and of what they make, put the context in place themselves, and leave none behind. An
    object that is not closed is closed when Python drops it, at the latest when the interpreter ends.

    Attributes:
        number: as CUDA counts, from 0.
        name: for instance ``"Orin"``.
        compute_capability: (major, minor), for instance (8, 7).
        integrated: whether it shares its memory with the CPU.
        driver_version: the CUDA version that the driver serves, for instance 12060 for 12.6.
        total_memory: bytes.
    """

    def __init__(self, cuda: Any, number: int) -> None:
        self._cuda = cuda
        with self._told(f"device 'cuda:{number}' cannot serve", "use another device"):
            count = cuda.Device.count()
            if not 0 <= number < count:
                raise BackendUnavailableError(
                    f"device 'cuda:{number}' cannot serve; found {count} CUDA device{'s' * (count != 1)}; "
                    + (f"give a number from 0 to {count - 1}" if count else "use device='cpu'")
                )
            device = cuda.Device(number)
            self.number = number
            self.name = str(device.name())
            self.compute_capability: tuple[int, int] = tuple(map(int, device.compute_capability()))  # type: ignore[assignment]
            self.total_memory = int(device.total_memory())
            self.driver_version = int(cuda.get_driver_version())
            attribute = cuda.device_attribute
            self.integrated = bool(device.get_attribute(attribute.INTEGRATED))
            self._maps_host = bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY))
            # Kept for good: pycuda tells allocations of one primary context by this very object.
            self._context = device.retain_primary_context()
        self._capturing = threading.RLock()

    @contextmanager
    def use(self) -> Iterator[None]:
        """In the block this device's context is current in this thread; blocks may be nested."""
        _check_process()
        with self._told("the CUDA context cannot be used", "start the program again"):
            self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def stream(self) -> Stream:
        """A stream of its own, which does not wait for the default stream."""
        return Stream(self)

    def event(self) -> Event:
        """A mark in a stream, to wait for or to measure times between."""
        return Event(self)

    def allocate(self, nbytes: int) -> DeviceMemory:
        """Memory on the device, not initialised, aligned to 256 bytes at least.

        Raises:
            BackendUnavailableError: there is not so much left.
        """
        return DeviceMemory(self, nbytes)

    def staging(self, shape: tuple[int, ...], dtype: DTypeLike) -> Staging:
        """An array that host and device share, or hand over to each other.

        Raises:
            BackendUnavailableError: there is no memory for it.
        """
        return Staging(self, shape, np.dtype(dtype))

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """In the block a stream may be captured: other threads that `synchronize`, which ends that, wait."""
        with self._capturing:
            yield

    def synchronize(self) -> None:
        """Wait for all work of the process on this device.

        Raises:
            BackendUnavailableError: some of it failed.
        """
        with self._capturing, self._working():
            self._cuda.Context.synchronize()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """In the block the context is current, and errors of CUDA are told as those of this package."""
        with self.use(), self._told("work on the CUDA device failed", "start the program again"):
            yield

    @contextmanager
    def _told(self, what: str, remedy: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise BackendUnavailableError(
                f"the memory of the CUDA device is used up; found {first_line(error)}; use a smaller batch "
                "or model, or close what else uses the device"
            ) from error
        except self._cuda.Error as error:
            raise BackendUnavailableError(f"{what}; found {first_line(error)}; {remedy}") from error

    def __repr__(self) -> str:
        return f"Device({self.number}, {self.name!r})"


class Held:
    """Something of a device that must be given back while the device's context is current.

    A subclass calls ``super().__init__`` last, and gives back in `_release`. What is open when the
    interpreter ends is closed then, the newest first: pycuda and TensorRT come to their own end after that,
    and must find nothing left.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._open = True
        _at_exit[next(_order)] = self

    def close(self) -> None:
        """Give it back; it must not be used any more. May be called twice, from any thread, in any order."""
        if not self.__dict__.pop("_open", False):  # in one step: only one of several threads goes on
            return
        if os.getpid() != _process:
            _left.append(dict(self.__dict__))
            return
        try:
            with self.device._working():
                self._release()
        except BackendUnavailableError as error:
            _log.warning("a %s could not be given back: %s", type(self).__name__, error)

    def _release(self) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        self.close()


class Stream(Held):
    """A stream of work on a device, done in order.

    Attributes:
        handle: CUDA's own, for others that put work on it.
    """

    def __init__(self, device: Device) -> None:
        with device._working():
            self._stream = device._cuda.Stream(_NON_BLOCKING)
        self.handle = int(self._stream.handle)
        super().__init__(device)

    def synchronize(self) -> None:
        """Wait for all work put on it so far.

        Raises:
            BackendUnavailableError: some of it failed.
        """
        with self.device._working():
            self._stream.synchronize()

    def wait_for(self, event: Event) -> None:
        """Let work put on it from now on wait for an event recorded on another stream."""
        with self.device._working():
            self._stream.wait_for_event(event._event)

    def _release(self) -> None:
        self._stream = None


class Event(Held):
    """A mark in a stream."""

    def __init__(self, device: Device) -> None:
        with device._working():
            self._event = device._cuda.Event()
        super().__init__(device)

    def record(self, stream: Stream) -> None:
        """Set the mark behind the work put on a stream so far."""
        with self.device._working():
            self._event.record(stream._stream)

    def synchronize(self) -> None:
        """Wait until the mark is reached."""
        with self.device._working():
            self._event.synchronize()

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds on the device between two marks that are reached."""
        with self.device._working():
            return float(self._event.time_since(earlier._event))

    def _release(self) -> None:
        self._event = None


class DeviceMemory(Held):
    """Memory on a device.

    Attributes:
        pointer: its address there.
        nbytes: its size.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        with device._working():
            self._allocation = device._cuda.mem_alloc(max(1, nbytes))
        self.pointer = int(self._allocation)
        self.nbytes = nbytes
        super().__init__(device)

    def free(self) -> None:
        """The same as `close`."""
        self.close()

    def _release(self) -> None:
        self._allocation.free()
        self._allocation = None


class Staging(Held):
    """A page-locked array on the host and its counterpart on the device.

    Where the device shares the host's memory both are the same, and nothing is copied. `array` must not be
    used, through a view neither, once this is closed.

    Attributes:
        array: on the host, C-contiguous, not initialised.
        pointer: of as much memory, for the device.
        nbytes: its size.
    """

    array: NDArray[Any]

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        cuda = device._cuda
        mapped = device.integrated and device._maps_host
        with device._working():
            flags = cuda.host_alloc_flags.DEVICEMAP if mapped else 0
            nbytes = math.prod(shape) * dtype.itemsize
            host = cuda.pagelocked_empty((max(1, nbytes),), np.uint8, mem_flags=flags)
            self._host: Any = host.base
            self._memory = None
            try:
                if mapped:
                    self.pointer = int(self._host.get_device_pointer())
                else:
                    self._memory = DeviceMemory(device, nbytes)
                    self.pointer = self._memory.pointer
            except BaseException:
                self._host.free()
                raise
        self.array = host[:nbytes].view(dtype).reshape(shape)
        self.nbytes = nbytes
        self._bytes = host[:nbytes]
        super().__init__(device)

    def upload(self, stream: Stream, nbytes: int | None = None) -> None:
        """Copy to the device, within the stream; the first bytes, or all."""
        if self._memory is not None:
            with self.device._working():
                self.device._cuda.memcpy_htod_async(self.pointer, self._bytes[:nbytes], stream._stream)

    def download(self, stream: Stream, nbytes: int | None = None) -> None:
        """Copy from the device, within the stream; `array` has it once the stream is synchronised."""
        if self._memory is not None:
            with self.device._working():
                self.device._cuda.memcpy_dtoh_async(self._bytes[:nbytes], self.pointer, stream._stream)

    def free(self) -> None:
        """The same as `close`."""
        self.close()

    def _release(self) -> None:
        del self.array, self._bytes
        if self._memory is not None:
            self._memory.close()
        self._host.free()
        self._host = None


def _driver() -> Any:
    """pycuda's driver module, with CUDA initialised."""
    global _process
    try:
        cuda = require("pycuda.driver", "CUDA", "edgepose[tensorrt]")
    except BackendUnavailableError as error:
        if "libcuda" in str(error):
            raise BackendUnavailableError(
                f"CUDA needs the NVIDIA driver; found {error.__cause__}; install it, or use device='cpu'"
            ) from error
        raise
    if _process is None:
        try:
            cuda.init()
        except cuda.Error as error:
            raise BackendUnavailableError(
                f"CUDA cannot be used; found {first_line(error)}; check that nvidia-smi lists a device, or "
                "use device='cpu'"
            ) from error
        _process = os.getpid()
        atexit.register(_close_all)  # after pycuda's import, so that it runs before what pycuda registered
    return cuda


def _check_process() -> None:
    if _process not in (None, os.getpid()):
        raise BackendUnavailableError(
            f"CUDA cannot be used in process {os.getpid()}; found that it is a fork of {_process}, which had "
            "initialised CUDA; start processes by 'spawn', as multiprocessing.get_context('spawn') does"
        )


def _close_all() -> None:
    if os.getpid() == _process:
        for number in sorted(_at_exit.keys(), reverse=True):
            thing = _at_exit.get(number)
            if thing is not None:
                thing.close()
