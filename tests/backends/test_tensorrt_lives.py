"""TensorRT engines among threads and processes, and how they end."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import people_model, people_spec

from edgepose import BackendUnavailableError
from edgepose.backends.tensorrt import SHAPES_KEPT
from tests.fakes.engines import Rig, pictures

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_threads_share_an_engine_and_nothing_else(rig: Rig) -> None:
    backend = rig.open()
    batches = [pictures(count) for count in (1, 2, 3, 6)]
    expected = [rig.reference(batch)["heatmaps"] for batch in batches]
    idle = rig.cuda.held()
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(place: int) -> None:
        try:
            start.wait()
            for turn in range(8):
                number = (place + turn) % 4
                np.testing.assert_array_equal(backend.run(batches[number])["heatmaps"], expected[number])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({stream for stream, _ in rig.control.runs}) == 4
    assert rig.control.deserialized == 1
    assert rig.cuda.held() == idle  # what a thread had is gone with it
    backend.close()


def test_closing_waits_for_runs_in_other_threads(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes import streams

    rig = rigs()
    backend = rig.open()
    running, go_on = threading.Event(), threading.Event()

    def slow(stream: int, work: Callable[[], None]) -> None:
        running.set()
        assert go_on.wait(10)
        work()

    monkeypatch.setattr(streams, "_forward", slow)
    found: list[Any] = []
    runner = threading.Thread(target=lambda: found.append(backend.run(pictures(1))))
    runner.start()
    assert running.wait(10)
    closer = threading.Thread(target=backend.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive()
    go_on.set()
    closer.join(10)
    runner.join(10)
    np.testing.assert_array_equal(found[0]["heatmaps"], rig.reference(pictures(1))["heatmaps"])
    with pytest.raises(BackendUnavailableError, match="found it closed"):
        backend.run(pictures(1))


def test_few_shapes_keep_their_buffers(rigs: Any) -> None:
    rig = rigs()
    source = people_model(rig.folder / "p.onnx", people_spec())
    backend = rig.open(source=source, sides=((64, 64), (64, 1024)))
    held = []
    for width in range(64, 64 + 32 * (SHAPES_KEPT + 3), 32):
        backend.run(pictures(1, (64, width)))
        held.append(rig.cuda.held())
    assert held[0] < held[SHAPES_KEPT - 1] == held[-1]

    def made(width: int) -> bool:
        before = rig.cuda.counts["cuMemAlloc"]
        backend.run(pictures(1, (64, width)))
        return rig.cuda.counts["cuMemAlloc"] > before

    oldest = width - 32 * (SHAPES_KEPT - 1)
    assert not made(width)
    assert not made(oldest)
    assert made(64)  # in the place of the one that was used longest ago
    assert not made(oldest)
    assert made(oldest + 32)
    backend.close()


# --- closing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["backend", "binding"])
def test_closing_in_any_order_and_from_another_thread(rig: Rig, first: str) -> None:
    backend = rig.open()
    backend.run(pictures(2))
    binding, stream = backend.bind((1, 3, 64, 48)), backend.cuda.stream()
    binding.enqueue(stream.handle)
    things = [backend, binding] if first == "backend" else [binding, backend]
    thread = threading.Thread(target=lambda: [thing.close() for thing in (*things, *things)])
    thread.start()
    thread.join()
    assert rig.cuda.held() == 1
    stream.close()


def test_work_has_ended_when_a_binding_is_released(rigs: Any) -> None:
    rig = rigs()
    backend = rig.open()
    binding, stream = backend.bind((1, 3, 64, 48)), backend.cuda.stream()
    binding.enqueue(stream.handle)
    waits = rig.cuda.counts["cuCtxSynchronize"]
    binding.close()
    assert rig.cuda.counts["cuCtxSynchronize"] == waits + 1
    backend.close()
    stream.close()


def test_what_is_never_closed_goes_with_its_last_reference(rig: Rig) -> None:
    backend = rig.open()
    backend.run(pictures(2))
    binding = backend.bind((1, 3, 64, 48))
    del backend
    gc.collect()
    assert rig.cuda.held() > 0  # the binding still serves
    stream = binding.device.stream()
    binding.enqueue(stream.handle)
    del binding, stream
    gc.collect()
    assert rig.cuda.held() == 0


AT_EXIT = """
import atexit, sys, threading, pathlib
sys.path.insert(0, "tests")
from tests.fakes import pycuda, tensorrt
cuda = pycuda.install()
trt = sys.modules["tensorrt"] = tensorrt.make("10.3.0", check_memory=cuda.covers)
def last():  # registered first, so that it runs last, as pycuda's own end does
    cuda.check()
    print("clean", len(tensorrt.control(trt).runs))
atexit.register(last)
import numpy as np
import edgepose
from edgepose.backends import open_backend
from tests.fakes.engines import make_engine
from tiny_models import color_model
folder = pathlib.Path(sys.argv[1])
path = make_engine(folder / "a.engine", trt, color_model(folder / "a.onnx"))
"""
ENDS = {
    "estimator": """
estimator = edgepose.Estimator(path, kernels="numpy")
estimator(np.zeros((64, 48, 3), np.uint8))
""",
    "bindings": """
backend = open_backend(path)
sys.kept = [backend.bind((1, 3, 64, 48)), backend]
sys.kept[0].enqueue(sys.kept[0].device.stream().handle)
""",
    "thread": """
backend = open_backend(path)
def forever():
    backend.run(np.zeros((2, 3, 64, 48), np.float32))
    ready.set()
    threading.Event().wait()
ready = threading.Event()
threading.Thread(target=forever, daemon=True).start()
ready.wait()
""",
    "error": """
estimator = edgepose.Estimator(path, kernels="numpy")
estimator(np.zeros((64, 48, 3), np.uint8))
sys.exit(3)
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreters_end(tmp_path: Path, end: str) -> None:
    command = [sys.executable, "-W", "error", "-c", AT_EXIT + ENDS[end], str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3 if end == "error" else 0, "clean 1\n", "")


def test_a_fork_is_refused(rigs: Any, caplog: pytest.LogCaptureFixture) -> None:
    rig = rigs()
    backend = rig.open()
    backend.run(pictures(1))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        try:
            backend.run(pictures(1))
            queue.put("served")
        except BackendUnavailableError as error:
            queue.put(str(error))
        backend.close()  # leaves alone what is the parent's
        queue.put((rig.cuda.leaks, caplog.text))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        process = context.Process(target=child)
        process.start()
    assert "start processes by 'spawn'" in queue.get()
    assert queue.get() == ([], "")
    process.join()
    assert process.exitcode == 0
    assert backend.run(pictures(1))["heatmaps"].shape == (1, 3, 16, 12)
    backend.close()
