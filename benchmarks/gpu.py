"""Time whole calls on a GPU: ``python benchmarks/gpu.py lpn50.engine [--onnx lpn50.onnx]``.

Needs a GPU and an engine built on it. Each row is a way of making the same call, from a picture in host
memory to the joints: the engine with everything as one CUDA graph; the same steps put on the stream one by
one; the engine with crops and decoding on the CPU; and, with --onnx, ONNX Runtime's CUDA provider with crops
and decoding on the CPU, and with them on the GPU. Contestants run in processes of their own and take turns;
the last column tells how far their joints lie from those of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, table

import edgepose
from edgepose.backends import read_model_spec
from edgepose.samples import PERSON

FRAME = (1080, 1920)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WARM_UP = 20
GRAPHS_OFF = {"EDGEPOSE_CUDA_GRAPHS": "off"}


def main() -> None:
    """Time all contestants, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", type=Path, help="an .engine file built on this GPU")
    parser.add_argument("--onnx", type=Path, help="the model that it was built from, for ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default: 3)")
    parser.add_argument("--calls", type=int, default=300, help="calls in a turn (default: 300)")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="boxes in a picture")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(time_calls(**json.loads(arguments.one))))
        return
    topdown = read_model_spec(arguments.engine).task == "topdown"
    ways: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ("one CUDA graph", {"model": str(arguments.engine)}, {}),
        ("single steps", {"model": str(arguments.engine)}, GRAPHS_OFF),
        ("engine, rest on the CPU", {"model": str(arguments.engine), "kernels": "native"}, {}),
    ]
    if arguments.onnx:
        session = {"model": str(arguments.onnx), "device": "cuda", "runtime": "onnxruntime"}
        ways.append(("ONNX Runtime CUDA, rest on the CPU", {**session, "kernels": "native"}, {}))
        ways.append(("ONNX Runtime CUDA, rest on the GPU", {**session, "kernels": "cuda"}, {}))
    print(describe() + f" {arguments.rounds} turns of {arguments.calls} calls; milliseconds.\n")
    for batch in arguments.batches if topdown else [0]:
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in ways}
        for _ in range(arguments.rounds):
            for name, options, environment in ways:
                turns[name].append(run_alone(options, environment, batch, arguments.calls))
        first, *_ = turns.values()
        expected = np.array(first[0]["keypoints"], np.float64)
        rows = []
        for name, found in turns.items():
            joints = np.array(found[0]["keypoints"], np.float64)
            apart = "other persons"
            if joints.shape == expected.shape:
                apart = f"{np.nanmax(np.abs(joints - expected), initial=0):.3f}"
            percentiles = np.percentile(np.concatenate([turn["ms"] for turn in found]), [50, 95, 99])
            rows.append([name, *(f"{value:.3f}" for value in percentiles), apart])
        what = f"{batch} {'box' if batch == 1 else 'boxes'}" if topdown else "a whole picture"
        print(f"\n{what}, {first[0]['device']}\n")
        print(table(["way", "p50", "p95", "p99", "px from the first"], rows), flush=True)


def run_alone(options: dict[str, Any], environment: dict[str, str], batch: int, calls: int) -> dict[str, Any]:
    """`time_calls` in a process of its own."""
    task = json.dumps({"options": options, "batch": batch, "calls": calls})
    done = subprocess.run(
        [sys.executable, __file__, options["model"], "--one", task],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def time_calls(options: dict[str, Any], batch: int, calls: int) -> dict[str, Any]:
    """Time calls with so many boxes, 0 for a bottom-up model; with the joints of the last."""
    person = edgepose.read_image(PERSON)
    picture = np.tile(person, (4, 4, 1))[: FRAME[0], : FRAME[1]]
    boxes = None
    if batch:
        rng = np.random.default_rng(0)
        corner = rng.uniform(0, 400, (batch, 2))
        boxes = np.concatenate([corner, corner + rng.uniform([150, 300], [400, 600], (batch, 2))], axis=1)
    with edgepose.Estimator(**options) as estimator:
        for _ in range(WARM_UP):
            result = estimator(picture, boxes=boxes)
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            result = estimator(picture, boxes=boxes)
            times.append(1e3 * (time.perf_counter() - start))
        device = estimator.info.backend["device"]
    return {"ms": times, "keypoints": result.keypoints.tolist(), "device": device}


if __name__ == "__main__":
    main()
