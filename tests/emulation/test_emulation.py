"""The emulation of CUDA finds the faults that it is there for: kernels of faults.cpp, each in a process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
ORDERS = ("forward", "reverse", "random")
THREADS = 64


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no C++ compiler")
        pytest.skip("there is no C++ compiler")
    program = tmp_path_factory.mktemp("emulation") / "faults"
    sources = [str(HERE / "faults.cpp"), str(HERE / "emulation.cpp")]
    options = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-DEDGEPOSE_EMULATION", f"-I{HERE}"]
    done = subprocess.run(
        [compiler, *options, *SANITIZE, *sources, "-o", str(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
    return program


def run(program: Path, name: str, order: str = "forward") -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    environment |= {"EMULATION_ORDER": order, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([str(program), name], env=environment, capture_output=True, text=True, timeout=60)


def result(program: Path, name: str, order: str) -> list[int]:
    done = run(program, name, order)
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(value) for value in done.stdout.split()]


@pytest.mark.parametrize("order", ORDERS)
def test_kernels_without_a_fault_give_their_results(faults: Path, order: str) -> None:
    assert result(faults, "forward", order) == [(i + 1) % THREADS for i in range(THREADS)]
    assert result(faults, "sum_of_warps", order)[:3] == [sum(range(THREADS)), THREADS // 2, 0b1111]


@pytest.mark.parametrize(
    ("name", "step", "right"),
    [("forward_without_barrier", 1, "reverse"), ("backward_without_barrier", -1, "forward")],
)
def test_a_missing_barrier_shows_in_the_results(faults: Path, name: str, step: int, right: str) -> None:
    """In the order in which each thread comes after the one that it depends on, all but one are right."""
    expected = [(i + step) % THREADS for i in range(THREADS)]
    for order in ORDERS:
        wrong = sum(a != b for a, b in zip(result(faults, name, order), expected, strict=True))
        assert wrong >= 1
        assert (wrong == 1) == (order == right)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divergent_barriers", "threads of a block stand at different barriers: "),
        ("barrier_against_shuffle", "threads wait for each other: "),
        ("lane_out_of_its_mask", "a lane that its mask leaves out, at "),
        ("mask_of_an_ended_lane", "a mask names a thread that has ended, at |wait for each other: .*ended"),
        ("lanes_at_different_shuffles", "lanes of a mask stand at different places: "),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_misused_barriers_and_masks_end_the_process(
    faults: Path, name: str, message: str, order: str
) -> None:
    done = run(faults, name, order)
    assert done.returncode != 0
    assert re.search(f"emulated CUDA: .*({message})", done.stderr), done.stderr[-2000:]
    assert "faults.cpp:" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("read_beyond_memory", "heap-buffer-overflow"),
        ("write_beyond_static_shared", "out of bounds for type"),
        ("write_beyond_dynamic_shared", "heap-buffer-overflow"),
        ("read_out_of_line", "misaligned address"),
    ],
)
def test_the_sanitizers_see_memory_of_the_device(faults: Path, name: str, message: str) -> None:
    done = run(faults, name)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr[-2000:]


def test_memory_of_the_device_does_not_begin_as_zero(faults: Path) -> None:
    assert set(result(faults, "leave_unwritten", "forward")) == {-1}
