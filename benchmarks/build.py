"""Time what ``edgepose build`` makes: ``python benchmarks/build.py``.

LPN-50 at 256x192, HigherLPN-50 and HRNet-w32, with random weights, as they are exported, after each
rewriting alone, built in fp32, and built in int8; also OpenVINO on the exported file, where it is installed.
Times are those of the network alone; the contestants take turns, figures are medians. The ranges of int8 come
from noise, which serves for times, not for accuracy.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

from edgepose.backends import open_backend
from edgepose.builder.graph import Graph
from edgepose.builder.passes import PASSES, rewrite
from edgepose.builder.passes.simplify import simplify
from edgepose.builder.quantize import Quantizer
from edgepose.builder.source import load_source

NETWORKS = {
    "LPN-50, 256x192": ("lpn50", "topdown", (256, 192)),
    "HigherLPN-50, 256x256": ("higherlpn50", "bottomup", (256, 256)),
    "HRNet-w32, 256x192": ("hrnet_w32", "topdown", (256, 192)),
}
CONDITIONS = [(threads, batch) for threads in (1, 2) for batch in (1, 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="how often each contestant is timed")
    parser.add_argument("--open", metavar="FILE", help="print the time and memory that opening a file takes")
    arguments = parser.parse_args()
    if arguments.open:
        print(*opening(Path(arguments.open)))
        return
    print(f"{machine.describe()} n = {arguments.rounds}; milliseconds.")
    for title, (name, task, size) in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            files = make(Path(folder), name, task, size)
            print(f"\n**{title}**\n")
            heads = ["threads, batch", *files] + ["OpenVINO, exported"] * has_openvino()
            rows = [row(files, size, *condition, arguments.rounds) for condition in CONDITIONS]
            print(machine.table(heads, rows))
            print()
            facts = [
                [kind, f"{path.stat().st_size / 1e6:.1f}", *opened(path)] for kind, path in files.items()
            ]
            print(machine.table(["", "file, MB", "opening, ms", "growth of the process, MB"], facts))


def make(folder: Path, name: str, task: str, size: tuple[int, int]) -> dict[str, Path]:
    """The contestants' files by name."""
    import onnx
    import torch

    from training.config import TrainConfig
    from training.export import export, model_spec
    from training.models import create

    torch.manual_seed(0)
    exported = folder / "exported.onnx"
    config = TrainConfig(
        name=name, model=name, task=task, skeleton="coco17", input_size=list(size), coordinates="legacy"
    )
    export(create(name, joints=17).eval(), model_spec(config), exported)
    source = load_source(exported)
    files = {"exported": exported}

    def add(kind: str, model: Any) -> None:
        files[kind] = folder / f"{len(files)}.onnx"
        onnx.save(model, str(files[kind]))

    add("simplified", simplify(source.model))
    for kind, apply in PASSES.items():
        model = simplify(source.model)
        if apply(Graph(model)):
            add(kind.replace("_", " "), model)
    built, _ = rewrite(source.model)
    add("built, fp32", built)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((1, 3, *size)).astype(np.float32) for _ in range(8)]
    add("exported, int8", Quantizer(simplify(source.model), batches).quantize())
    add("built, int8", Quantizer(built, batches).quantize())
    return files


def row(files: dict[str, Path], size: tuple[int, int], threads: int, batch: int, rounds: int) -> list[str]:
    images = np.random.default_rng(1).standard_normal((batch, 3, *size)).astype(np.float32)
    backends = {kind: open_backend(path, threads=threads) for kind, path in files.items()}
    runs: dict[str, Callable[[], Any]] = {
        kind: (lambda backend=backend: backend.run(images)) for kind, backend in backends.items()
    }
    if has_openvino():
        runs["openvino"] = openvino(files["exported"], images, threads)
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for round_ in range(rounds + 2):
        for kind, run in runs.items():
            start = time.perf_counter()
            run()
            if round_ >= 2:
                times[kind].append(1e3 * (time.perf_counter() - start))
    for backend in backends.values():
        backend.close()
    return [f"{threads}, {batch}", *(f"{statistics.median(values):.2f}" for values in times.values())]


def has_openvino() -> bool:
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def openvino(path: Path, images: np.ndarray, threads: int) -> Callable[[], Any]:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(images.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([images], share_inputs=True)


def opening(path: Path) -> tuple[float, float]:
    """Milliseconds to open a file and run it once, and growth of the process's memory in MB."""
    import onnxruntime  # noqa: F401

    before = machine.resident_peak()
    start = time.perf_counter()
    backend = open_backend(path, threads=1)
    height, width = backend.input_size or backend.spec.input_size
    backend.run(np.zeros((1, 3, height, width), np.float32))
    elapsed = 1e3 * (time.perf_counter() - start)
    return elapsed, (machine.resident_peak() - before) / 1e6


def opened(path: Path) -> list[str]:
    """`opening` in a process of its own."""
    command = [sys.executable, __file__, "--open", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [f"{float(word):.0f}" for word in done.stdout.split()]


if __name__ == "__main__":
    main()
