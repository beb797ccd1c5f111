"""Devices by pycuda: one context for each, nothing left pushed or held, and errors that tell what to do."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepose import BackendUnavailableError
from edgepose.backends.device import open_device
from tests.fakes import pycuda


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., pycuda.Cuda]]:
    """Makes fake drivers; each must end with all given back."""
    made = []

    def make(**knobs: Any) -> pycuda.Cuda:
        made.append(pycuda.install(monkeypatch, **knobs))
        return made[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield make
        gc.collect()
        for cuda in made:
            cuda.check()


def test_what_a_device_says_of_itself(fake: Any) -> None:
    fake(compute_capability=(8, 7), name="Orin", integrated=True)
    device = open_device()
    assert (device.number, device.name, device.compute_capability) == (0, "Orin", (8, 7))
    assert (device.integrated, device.driver_version, device.total_memory) == (True, 12060, 8 << 30)


def test_a_device_is_opened_once_for_all_threads(fake: Any) -> None:
    cuda = fake(devices=2)
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_device(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert len(cuda.retained) == 1
    assert open_device(0) is not found[0]
    assert (len(cuda.retained), cuda.counts["init"]) == (2, 1)


def test_contexts_nest_and_are_taken_back(fake: Any) -> None:
    cuda = fake(devices=2)
    first, second = open_device(0), open_device(1)
    with first.use(), second.use():
        with first.use():
            assert [context.device.number for context in cuda.stack] == [0, 1, 0]
        assert len(cuda.stack) == 2
    with pytest.raises(KeyError), first.use():
        raise KeyError
    assert cuda.stack == []


@pytest.mark.parametrize("integrated", [False, True])
def test_staging_goes_there_and_back(fake: Any, integrated: bool) -> None:
    cuda = fake(integrated=integrated)
    device = open_device()
    stream = device.stream()
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    staging = device.staging((3, 4), np.float16)
    assert (staging.array.shape, staging.array.dtype, staging.nbytes) == ((3, 4), np.float16, 24)
    on_device = np.asarray(Pointed(staging.pointer, 24))
    on_device[:] = 0
    staging.array[:] = values
    staging.upload(stream, 8)
    assert on_device[:8].tobytes() == values.tobytes()[:8]
    assert on_device[8:].any() == integrated  # there it is the same memory
    staging.upload(stream)
    assert on_device.tobytes() == values.tobytes()
    on_device[:] = 7
    staging.download(stream, 2)
    assert staging.array.tobytes()[:2] == b"\7\7"
    staging.download(stream)
    assert staging.array.tobytes() == b"\7" * 24
    assert cuda.counts["cuMemcpyHtoDAsync"] == cuda.counts["cuMemcpyDtoHAsync"] == (0 if integrated else 2)
    assert cuda.counts["cuMemAlloc"] == (0 if integrated else 1)
    del on_device
    staging.free()
    assert not hasattr(staging, "array")


class Pointed:
    """Bytes at an address."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.__array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (pointer, False),
            "version": 3,
        }


def test_streams_are_their_own_and_events_measure(fake: Any) -> None:
    fake()
    device = open_device()
    first, second = device.stream(), device.stream()
    assert first.handle
    assert first.handle != second.handle
    assert first._stream.flags == 1  # not held up by the default stream
    start, stop = device.event(), device.event()
    start.record(first)
    second.wait_for(start)
    stop.record(second)
    stop.synchronize()
    assert stop.ms_since(start) > 0
    first.synchronize()
    device.synchronize()


@pytest.mark.parametrize("order", [1, -1])
def test_closing_in_any_order_twice_and_elsewhere(fake: Any, order: int) -> None:
    cuda = fake()
    device = open_device()
    held = [device.stream(), device.allocate(100), device.event(), device.staging((4,), np.uint8)]
    assert cuda.held() == 5
    assert held[1].pointer % 256 == 0  # type: ignore[union-attr]
    assert held[1].nbytes == 100  # type: ignore[union-attr]

    def close() -> None:
        for thing in held[::order]:
            thing.close()

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cuda.held() == 0
    close()


def test_what_is_dropped_is_given_back(fake: Any) -> None:
    cuda = fake()
    held = [open_device().allocate(8), open_device().stream(), open_device().staging((2,), np.uint8)]
    thread = threading.Thread(target=held.clear)  # the last references end in a thread with no context
    thread.start()
    thread.join()
    gc.collect()
    assert cuda.held() == 0


def test_out_of_memory_is_told_and_nothing_is_lost(fake: Any) -> None:
    cuda = fake(memory_left=1000)
    device = open_device()
    with pytest.raises(BackendUnavailableError, match=r"used up; found .*out of memory; use a smaller batch"):
        device.allocate(1001)
    with pytest.raises(BackendUnavailableError, match="out of memory"):
        device.staging((600,), np.uint8)  # the host's part still fits
    assert cuda.held() == 0
    assert cuda.memory_left == 1000
    device.allocate(1000).free()


@pytest.mark.parametrize("wait", ["stream", "event", "device"])
def test_work_that_fails_is_told_where_it_is_waited_for(fake: Any, wait: str) -> None:
    cuda = fake()
    device = open_device()
    stream, event = device.stream(), device.event()
    event.record(stream)
    cuda.broken = "an illegal memory access was encountered"
    waits = {"stream": stream, "event": event, "device": device}
    with pytest.raises(BackendUnavailableError, match="illegal memory access"):
        waits[wait].synchronize()
    assert cuda.stack == []


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendUnavailableError, match=r'needs pycuda\.driver; .*"edgepose\[tensorrt\]"'):
        open_device()


def test_pycuda_without_the_drivers_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/__init__.py").touch()
    text = "raise ImportError('libcuda.so.1: cannot open shared object file')"
    (tmp_path / "pycuda/driver.py").write_text(text)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        BackendUnavailableError, match=r"needs the NVIDIA driver; found libcuda\.so\.1: cannot"
    ):
        open_device()


def test_no_driver(fake: Any) -> None:
    fake(driver=False)
    with pytest.raises(BackendUnavailableError, match=r"found cuInit failed: no CUDA-capable.*nvidia-smi"):
        open_device()


@pytest.mark.parametrize(
    ("devices", "number", "text"),
    [
        (0, 0, "'cuda:0' cannot serve; found 0 CUDA devices; use device='cpu'"),
        (1, 1, "'cuda:1' cannot serve; found 1 CUDA device; give a number from 0 to 0"),
        (2, -1, "'cuda:-1' cannot serve; found 2 CUDA devices; give a number from 0 to 1"),
    ],
)
def test_no_such_device(fake: Any, devices: int, number: int, text: str) -> None:
    fake(devices=devices)
    with pytest.raises(BackendUnavailableError, match=text):
        open_device(number)


def test_a_fork_is_refused(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    cuda = fake(devices=2)
    device = open_device()
    memory = device.allocate(16)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        memory.close()  # leaves alone what is the parent's
        for use in (open_device, lambda: open_device(1), lambda: device.allocate(1)):
            try:
                use()
                queue.put("served")
            except BackendUnavailableError as error:
                queue.put(str(error))
        queue.put((cuda.held(), caplog.text))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        process = context.Process(target=child)
        process.start()
    told = [queue.get() for _ in range(4)]
    process.join()
    assert process.exitcode == 0
    for text in told[:3]:
        assert f"a fork of {os.getpid()}" in text
        assert "spawn" in text
    assert told[3] == (1, "")
    memory.close()


AT_EXIT = """
import atexit, os, sys, threading
from tests.fakes import pycuda
cuda = pycuda.install()
def last():  # registered first, so that it runs last, as pycuda's own end does
    cuda.check()
    print("clean", cuda.counts["cuMemAlloc"])
atexit.register(last)
from edgepose.backends.device import open_device
device = open_device()
kept = [device.allocate(8), device.stream(), device.event(), device.staging((3,), "f4")]
sys.kept = kept
"""


def test_all_is_given_back_at_the_interpreters_end() -> None:
    command = [sys.executable, "-W", "error", "-c", AT_EXIT]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean 2\n", "")


def test_the_fake_finds_misuse_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing above could fail."""
    cuda = pycuda.install(monkeypatch)
    device = open_device()
    with pytest.raises(cuda.module.LogicError, match="no currently active context"):
        cuda.module.mem_alloc(1)
    with pytest.raises(cuda.module.LogicError, match="pop"):
        cuda.module.Context.pop()
    device._context.push()
    dropped = [cuda.module.mem_alloc(1)]
    freed = cuda.module.mem_alloc(4)
    freed.free()
    with pytest.raises(cuda.module.LogicError):
        freed.free()
    cuda.module.Context.pop()
    with pytest.warns(UserWarning, match="could not be cleaned up"):
        dropped.clear()
    with pytest.raises(AssertionError):
        cuda.check()
    cuda.leaks.clear()
    cuda.live.clear()
    cuda.check()
    np.asarray(Pointed(int(freed.buffer.pointer), 4))[1] = 0
    with pytest.raises(AssertionError, match="after it was freed"):
        cuda.check()
    thread = threading.Thread(target=device._context.push, name="careless")
    thread.start()
    thread.join()
    gc.collect()
    assert cuda.aborts == ["the context stack of careless was not empty"]
