"""What a new user does first: the demo of a fresh clone, and the wheel in a clean environment."""

from __future__ import annotations

import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from environments import Environment, build, clone, run

SDIST = (
    "LICENSE",
    "README.md",
    "CMakeLists.txt",
    "setup.py",
    "pyproject.toml",
    "csrc/core/",
    "csrc/bindings/",
)
PACKAGE = (
    "edgepose/py.typed",
    "edgepose/models/lpn50-lsp.onnx",
    "edgepose/samples/astronaut.jpg",
    "edgepose/samples/astronaut.json",
    "edgepose/samples/CREDITS.txt",
)
FOREIGN = ("training/", "tests/", "csrc/", "benchmarks/", "docs/")


def main() -> None:
    """Run all checks; the first that fails ends the run."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        tree = clone(work / "clone")
        step("clone")
        check_demo(tree)
        step("make demo")
        sdist, wheel = build(work / "dist", tree)
        check_contents(sdist, wheel)
        step("sdist and wheel")
        environment = Environment(work / "environment")
        environment.install(f"{wheel}[cpu]")
        environment.check_predict()
        status = environment.kernels()
        if {op["implementation"] for op in status.values()} != {"native"}:
            raise SystemExit(f"the wheel's kernels are not the native ones: {status}")
        step("wheel in a clean environment")


def check_demo(tree: Path) -> None:
    """``make demo`` prints all joints and draws them."""
    printed = run(["make", "demo"], tree)
    for text in ("right_ankle", "head_top", "score"):
        if text not in printed:
            raise SystemExit(f"make demo did not print {text}:\n{printed}")
    drawn, sample = tree / "out" / "astronaut.jpg", tree / "edgepose" / "samples" / "astronaut.jpg"
    if not drawn.is_file() or drawn.read_bytes() == sample.read_bytes():
        raise SystemExit(f"make demo did not draw {drawn}:\n{printed}")
    print(printed, end="")


def check_contents(sdist: Path, wheel: Path) -> None:
    """The sdist can be built from, the wheel can be run, and holds nothing else."""
    with tarfile.open(sdist) as archive:
        sources = [name.partition("/")[2] for name in archive.getnames()]
    with zipfile.ZipFile(wheel) as archive:
        packaged = archive.namelist()
    for name in (*SDIST, *PACKAGE):
        if not any(found.startswith(name) for found in sources):
            raise SystemExit(f"{name} is not in {sdist.name}")
    for name in (*PACKAGE, "edgepose/kernels/_native."):
        if not any(found.startswith(name) for found in packaged):
            raise SystemExit(f"{name} is not in {wheel.name}")
    if not any(name.endswith("LICENSE") for name in packaged):
        raise SystemExit(f"LICENSE is not in {wheel.name}")
    foreign = [name for name in packaged if name.startswith(FOREIGN)]
    if foreign:
        raise SystemExit(f"{wheel.name} holds what it should not: {foreign}")


def step(name: str) -> None:
    """Say what is done and how long it took."""
    global _last
    now = time.monotonic()
    print(f"smoke: {name} ok ({now - _last:.0f} s)", flush=True)
    _last = now


_last = time.monotonic()

if __name__ == "__main__":
    main()
