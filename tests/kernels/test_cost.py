"""What a compiled kernel must not do: hold the interpreter's lock, or allocate where it is given `out`."""

from __future__ import annotations

import threading
import time
import tracemalloc

import numpy as np
import pytest

from edgepose.kernels import Kernels

PAIRS = np.array([[0, 1]])


@pytest.fixture
def compiled(ops: Kernels) -> Kernels:
    if ops.requested == "numpy":
        pytest.skip("the reference is not compiled")
    return ops


def test_nothing_of_the_results_size_is_allocated(compiled: Kernels) -> None:
    maps = np.random.default_rng(0).random((10, 17, 64, 48), np.float32)
    image = np.zeros((100, 100, 3), np.uint8)
    affine = np.tile(np.eye(2, 3), (4, 1, 1))
    crops, average = np.empty((4, 3, 256, 192), np.float32), np.empty_like(maps)
    pixels = np.empty((4, 256, 192, 3), np.uint8)
    soft, peaks = compiled.soft_argmax(maps), compiled.argmax_offset(maps)
    calls = {
        "crop_normalize": lambda: compiled.crop_normalize(
            image, affine, (256, 192), (0, 0, 0), (1, 1, 1), True, 0, crops
        ),
        "crop_pixels": lambda: compiled.crop_pixels(image, affine, (256, 192), True, out=pixels),
        "soft_argmax": lambda: compiled.soft_argmax(maps, 160.0, soft),
        "argmax_offset": lambda: compiled.argmax_offset(maps, "taylor", peaks),
        "quarter_offset": lambda: compiled.quarter_offset(maps, soft[0], soft[0]),
        "flip_average": lambda: compiled.flip_average(maps, maps, PAIRS, True, average),
    }
    for name, call in calls.items():
        call()  # numba compiles
        tracemalloc.start()
        try:
            call()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 << 10, f"{name} allocated {peak} bytes"


def test_other_threads_run_meanwhile(compiled: Kernels) -> None:
    """With the lock held, another thread would stand still for as long as the call takes."""
    maps = np.random.default_rng(0).random((40, 17, 128, 96), np.float32)
    out = compiled.soft_argmax(maps, 1.0)
    stamps: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            stamps.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        shares = []
        for _ in range(20):  # on a busy machine the other thread may have to wait for a processor
            begin = time.perf_counter()
            compiled.soft_argmax(maps, 1.0, out)
            end = time.perf_counter()
            within = [begin, *(stamp for stamp in list(stamps) if begin < stamp < end), end]
            shares.append(float(np.diff(within).max()) / (end - begin))
            if shares[-1] < 0.7:
                return
    finally:
        done.set()
        thread.join()
    pytest.fail(f"it stood still for these shares of a call: {np.round(shares, 2)}")
