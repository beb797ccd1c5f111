"""Time what ``edgepose build`` makes: ``python benchmarks/build.py``.

LPN-50 at 256x192, SimpleBaseline-50, HigherLPN-50 and HRNet-w32, with random weights: as they are exported,
after each rewriting alone, built in fp32 and in int8, on ONNX Runtime and, where installed, on OpenVINO.
Times are those of the network alone. Every contestant has a process of its own, as it would have in an
application; they take turns, figures are medians. The ranges of int8 come from noise, which serves for
times, not for accuracy.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np

from edgepose.backends import open_backend, read_model_spec
from edgepose.builder.graph import Graph, copy_of
from edgepose.builder.passes import PASSES, rewrite
from edgepose.builder.passes.byte_stem import LEVELS, take_bytes_as_quantised
from edgepose.builder.passes.simplify import simplify
from edgepose.builder.quantize import Quantizer
from edgepose.builder.source import load_source
from edgepose.machine import resident_memory
from edgepose.spec import METADATA_KEY

NETWORKS = {
    "LPN-50, 256x192": ("lpn50", "topdown", (256, 192)),
    "SimpleBaseline-50, 256x192": ("simplebaseline50", "topdown", (256, 192)),
    "HigherLPN-50, 256x256": ("higherlpn50", "bottomup", (256, 256)),
    "HRNet-w32, 256x192": ("hrnet_w32", "topdown", (256, 192)),
}
CONDITIONS = [(threads, batch) for threads in (1, 2) for batch in (1, 8)]
RUNS = 5
"""Of a contestant in its turn; the first is not counted, as another one had the caches."""
AS_IT_COMES = "openvino as it comes"


class Contestant(NamedTuple):
    """A file and what runs it."""

    name: str
    runtime: str
    file: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each contestant")
    parser.add_argument("--only", metavar="NAME", help="one network, such as lpn50")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        runtime, file, threads, batch = arguments.serve
        serve(runtime, Path(file), int(threads), int(batch))
        return
    print(f"{machine.describe()} {arguments.rounds} turns of {RUNS - 1} runs; milliseconds a run.")
    for title, (name, task, size) in NETWORKS.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                print(f"\n**{title}**\n")
                print(table(contestants(Path(folder), name, task, size), arguments.rounds))


def contestants(folder: Path, name: str, task: str, size: tuple[int, int]) -> list[Contestant]:
    """The contestants' files."""
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
    found = [Contestant("exported", "onnxruntime", exported)]

    def add(kind: str, model: Any, runtime: str = "onnxruntime", spec: Any = source.spec) -> Path:
        file = folder / f"{len(found)}.onnx"
        onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
        onnx.save(model, str(file))
        found.append(Contestant(kind, runtime, file))
        return file

    simplified = simplify(source.model)
    add("simplified", simplified)
    for kind, apply in PASSES.items():
        model = simplify(source.model)
        if apply(Graph(model)):
            add(f"simplified, {kind.replace('_', ' ')}", model)
    built, _ = rewrite(source.model)
    fp32 = add("**built, fp32**", built)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((1, 3, *size)).astype(np.float32) for _ in range(8)]
    plain = add("exported, int8 by ONNX Runtime's `quantize_static`", plain_int8(exported, batches))
    add("**built, int8**", Quantizer(built, batches).quantize())
    small = copy_of(built)
    levels = take_bytes_as_quantised(Graph(small), source.spec)
    if levels is not None:
        pictures = [rng.integers(0, 256, (1, *size, 3)).astype(np.uint8) for _ in range(8)]
        quantized = Quantizer(small, pictures, "uint8", {LEVELS: levels}).quantize()
        add("**built, int8, input uint8**", quantized, spec=replace(source.spec, input_format="uint8_nhwc"))
    if importlib.util.find_spec("openvino"):
        found += [
            Contestant("exported, OpenVINO as it comes", AS_IT_COMES, exported),
            Contestant("exported, OpenVINO in float32", "openvino", exported),
            Contestant("built, fp32, OpenVINO in float32", "openvino", fp32),
            Contestant("exported, int8 by `quantize_static`, OpenVINO", "openvino", plain),
            Contestant("the same, OpenVINO as it comes", AS_IT_COMES, plain),
        ]
        add("built, int8 (signed), OpenVINO", Quantizer(built, batches, "int8").quantize(), "openvino")
    return found


def plain_int8(exported: Path, batches: list[np.ndarray]) -> Any:
    """What ONNX Runtime's own tool makes of the exported file, with per-channel weights."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {"image": batch}

    prepared, output = exported.with_name("prepared.onnx"), exported.with_name("plain.onnx")
    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(output), Reader(), per_channel=True)
    return onnx.load(str(output))


def table(found: list[Contestant], rounds: int) -> str:
    """One row a contestant: its times, and what its file costs."""
    columns: list[list[str]] = []
    for threads, batch in CONDITIONS:
        columns.append([f"{value:.2f}" for value in times(found, threads, batch, rounds)])
    heads = ["", *(f"{threads} thr., batch {batch}" for threads, batch in CONDITIONS)]
    heads += ["file, MB", "until warm, ms", "memory, MB"]
    rows = []
    for index, one in enumerate(found):
        facts = [f"{one.file.stat().st_size / 1e6:.1f}", *opened(one)]
        rows.append([one.name, *(column[index] for column in columns), *facts])
    return machine.table(heads, rows)


def times(found: list[Contestant], threads: int, batch: int, rounds: int) -> list[float]:
    """Median milliseconds of each, taken in turns."""
    servers = [start(one, threads, batch) for one in found]
    try:
        for server in servers:
            answer(server)  # it is open and has run
        taken: list[list[float]] = [[] for _ in found]
        for _ in range(rounds):
            for server, values in zip(servers, taken, strict=True):
                server.stdin.write("go\n")
                server.stdin.flush()
                values += [float(word) for word in answer(server).split()]
        return [statistics.median(values) for values in taken]
    finally:
        for server in servers:
            server.kill()
            server.wait()


def start(one: Contestant, threads: int, batch: int) -> Any:
    command = [sys.executable, __file__, "--serve", one.runtime, str(one.file), str(threads), str(batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(server: Any) -> str:
    line: str = server.stdout.readline()
    if not line:
        raise RuntimeError(f"a contestant failed: {server.args}")
    return line


def serve(runtime: str, file: Path, threads: int, batch: int) -> None:
    """Open a file, tell what that took, and run it as often as asked for."""
    before = resident_memory(peak=True)
    began = time.perf_counter()
    run = opening(runtime, file, threads, batch)
    run()
    elapsed = 1e3 * (time.perf_counter() - began)
    print(f"{elapsed:.0f} {(resident_memory(peak=True) - before) / 1e6:.0f}", flush=True)
    for _ in sys.stdin:
        taken = []
        for _ in range(RUNS):
            began = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - began))
        print(*taken[1:], flush=True)


def opening(runtime: str, file: Path, threads: int, batch: int) -> Callable[[], Any]:
    """A function that runs the network once."""
    spec = read_model_spec(file)
    rng = np.random.default_rng(1)
    if spec.input_format == "uint8_nhwc":
        images: Any = rng.integers(0, 256, (batch, *spec.input_size, 3)).astype(np.uint8)
    else:
        images = rng.standard_normal((batch, 3, *spec.input_size)).astype(np.float32)
    if runtime == AS_IT_COMES:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(file))
        model.reshape(list(images.shape))
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda: request.infer([images], share_inputs=True)
    backend = open_backend(file, runtime=runtime, threads=threads)
    backend.run(images)
    backend.run(images)  # OpenVINO's backend compiles a shape that comes again
    return lambda: backend.run(images)


def opened(one: Contestant) -> list[str]:
    """Milliseconds to open a file and have it warm, and growth of the memory of the process in MB."""
    server = start(one, 1, 1)
    try:
        return answer(server).split()
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
