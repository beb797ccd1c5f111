"""Memory over many frames: ``python benchmarks/memory.py [--frames N]``, as ``make soak`` runs it.

Two sources run through one tiny model. Everything that a stream keeps from frame to frame takes part: queues,
threads, the boxes between runs of the detector, identities and smoothing; with two workers several frames at
the same time, and the detector looks at each. The exit code is 1 where the process grows by more than 5 MB
after the warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import describe, table

from edgepose import Estimator, Frame, FrameSource, Source

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from tiny_models import color_model, spots

SIZE = (96, 72)
LIMIT_MB = 5.0


def resident_mb() -> float:
    """Memory that the process has in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def walk(name: str, count: int) -> FrameSource:
    """Somebody who walks to and fro, and is out of sight now and then."""
    steps = [*range(10), *range(10, 0, -1)]
    pictures = [spots(SIZE, [(20.0 + i, 25.0), (40.0 + i, 55.0), (25.0 + i, 75.0)]) for i in range(11)]
    pictures.append(np.zeros((*SIZE, 3), np.uint8))

    def frames(_: object) -> Iterator[Frame]:
        for number in range(count):
            place = 11 if number % 200 > 180 else steps[number % len(steps)]
            yield Frame(pictures[place].copy(), Source(name, number, 40.0 * number))

    return FrameSource(name, "video", frames, None, fps=25.0, total=count)


def detect(picture: np.ndarray) -> list[list[float]]:
    """Where the walker is, at most."""
    return [[5.0, 10.0, 66.0, 90.0, 0.9]] if picture.any() else []


def main() -> int:
    """Run the frames with one and with two workers, each in a process of its own; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000, help="of both sources together")
    parser.add_argument("--rounds", type=int, default=1, help="how often")
    parser.add_argument("--workers", type=int, help="frames that run at the same time (default: 1, then 2)")
    arguments = parser.parse_args()
    if arguments.workers is not None:
        print(json.dumps(run(arguments.frames, arguments.workers)))
        return 0
    print(describe())
    rows, flat = [], True
    for workers in (1, 2) * arguments.rounds:
        command = [sys.executable, __file__, "--frames", str(arguments.frames), "--workers", str(workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        usable = found["frames"] == arguments.frames and found["persons"] > arguments.frames / 2
        flat &= usable and found["grown"] < LIMIT_MB
        rows.append(
            [str(workers), str(found["frames"]), str(found["persons"]), f"{found['rate']:.0f}",
             f"{found['first']:.1f}", f"{found['grown']:.1f}"]
        )  # fmt: skip
    heads = ["workers", "frames", "persons found", "frames/s", "MB after the warm-up", "grown by, at most"]
    print(f"\n{table(heads, rows)}")
    if not flat:
        print(f"wanted: {arguments.frames} frames, and at most {LIMIT_MB} MB of growth", file=sys.stderr)
    return 0 if flat else 1


def run(total: int, workers: int) -> dict[str, float]:
    """Let `total` frames run; tells of the progress on the standard error."""
    warm_up = min(total // 5, 5000)
    with tempfile.TemporaryDirectory() as folder:
        model = color_model(Path(folder) / "colors.onnx")
        with Estimator(model, detector=detect, threads=1) as estimator:
            sources = [walk("first", total // 2), walk("second", total - total // 2)]
            results = estimator.stream(
                sources, track=True, smooth=True, detect_every=3 if workers == 1 else 1, workers=workers
            )
            started = time.perf_counter()
            first = highest = 0.0
            persons = 0
            for count, result in enumerate(results, 1):
                persons += len(result)
                if count == warm_up:
                    first = highest = resident_mb()
                elif count > warm_up and count % 500 == 0:
                    highest = max(highest, resident_mb())
                if count % max(total // 10, 1) == 0:
                    print(f"{count} frames, {resident_mb():.1f} MB", file=sys.stderr, flush=True)
            rate = count / (time.perf_counter() - started)
    grown = max(highest, resident_mb()) - first
    return {"frames": count, "persons": persons, "rate": rate, "first": first, "grown": grown}


if __name__ == "__main__":
    raise SystemExit(main())
