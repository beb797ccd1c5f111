"""Time LPN-50 from picture to joints: ``python benchmarks/end_to_end.py [--model FILE]``.

Compares PyTorch eager (network alone), ONNX Runtime (session alone) and the whole `Estimator` call
(crop, normalise, network, decode, result), and splits the call into its stages. Without --model the
network is LPN-50 with 17 joints at 256x192 and random weights, exported for the run. The contestants
take turns within each round; figures are medians, and the share outside the network is the median of
each round's share.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, table

import edgepose
from edgepose import ModelSpec, coco17
from edgepose.backends import open_backend, read_model_spec

BATCHES = (1, 8)
FRAME = (1080, 1920)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="an .onnx file to time in place of the exported LPN-50")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=30, help="how often each contestant is timed")
    arguments = parser.parse_args()
    print(describe() + f" {arguments.rounds} rounds; milliseconds.\n")
    with ExitStack() as stack:
        network, path = None, arguments.model
        if path is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            network, path = export_lpn50(folder / "lpn50.onnx")
        spec = read_model_spec(path)
        size = "x".join(map(str, spec.input_size))
        print(
            f"{spec.name}, {len(spec.skeleton)} joints, {size}; boxes on a {FRAME[1]}x{FRAME[0]} picture.\n"
        )
        heads = [
            "threads, batch", "torch eager", "ONNX Runtime alone", "Estimator call", "preprocess",
            "inference", "postprocess", "rest", "outside the network",
        ]  # fmt: skip
        print(table(heads, []))
        for threads in arguments.threads:
            for batch in BATCHES:
                row = compare(network, path, spec, threads, batch, arguments.rounds)
                print("| " + " | ".join(row) + " |", flush=True)


def export_lpn50(path: Path) -> tuple[Any, Path]:
    """LPN-50 with random weights, as a PyTorch network and as a file."""
    import torch

    from training.export import export
    from training.models import create

    torch.manual_seed(0)
    network = create("lpn50", joints=17).eval()
    export(network, ModelSpec("lpn50", coco17, (256, 192)), path)
    return network, path


def compare(network: Any, path: Path, spec: ModelSpec, threads: int, batch: int, rounds: int) -> list[str]:
    """One row of the table."""
    rng = np.random.default_rng(0)
    crops = rng.standard_normal((batch, 3, *spec.input_size)).astype(np.float32)
    picture = rng.integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    corner = np.stack([rng.uniform(0, FRAME[1] - 400, batch), rng.uniform(0, FRAME[0] - 600, batch)], axis=1)
    boxes = np.concatenate([corner, corner + rng.uniform([150, 300], [400, 600], (batch, 2))], axis=1)

    backend = open_backend(path, device="cpu", threads=threads)
    estimator = edgepose.Estimator(path, device="cpu", threads=threads)
    contestants: dict[str, Callable[[], Any]] = {}
    if network is not None:
        contestants["torch"] = eager(network, crops, threads)
    contestants["session"] = lambda: backend.run(crops)
    contestants["call"] = lambda: estimator(picture, boxes=boxes)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    stages: list[tuple[float, float, float, float, float]] = []
    for round_ in range(rounds + 3):
        for name, function in contestants.items():
            started = time.perf_counter()
            result = function()
            elapsed = (time.perf_counter() - started) * 1e3
            if round_ < 3:  # warm-up
                continue
            times[name].append(elapsed)
            if name == "call":
                t = result.timings
                rest = elapsed - t.preprocess - t.inference - t.postprocess
                outside = (elapsed - t.inference) / elapsed
                stages.append((t.preprocess, t.inference, t.postprocess, rest, outside))
    estimator.close()
    backend.close()
    medians = {name: f"{statistics.median(values):.2f}" for name, values in times.items()}
    *parts, outside = (statistics.median(column) for column in zip(*stages, strict=True))
    return [
        f"{threads}, {batch}",
        medians.get("torch", "-"),
        medians["session"],
        medians["call"],
        *(f"{part:.2f}" for part in parts),
        f"{outside:.1%}",
    ]


def eager(network: Any, crops: np.ndarray, threads: int) -> Callable[[], Any]:
    """The network in PyTorch on as many threads."""
    import torch

    tensor = torch.from_numpy(crops)

    @torch.inference_mode()
    def run() -> Any:
        torch.set_num_threads(threads)
        return network(tensor)

    return run


if __name__ == "__main__":
    main()
