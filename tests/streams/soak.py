"""Memory over many frames, run by `make soak`: two sources through one model for as long as is asked for.

Everything that a stream keeps from frame to frame takes part: queues, threads, the boxes between runs of the
detector, identities and smoothing; with --workers several frames at the same time, and the detector looks at
each. Fails where the process grows by more than 5 MB after a warm-up.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_models import color_model, spots  # noqa: E402

from edgepose import Estimator, Frame, FrameSource, Source  # noqa: E402

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
    """Run the frames, print a line of figures now and then, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="of both sources together")
    parser.add_argument("--workers", type=int, default=1, help="frames that run at the same time")
    arguments = parser.parse_args()
    total, workers = arguments.frames, arguments.workers
    warm_up = min(total // 5, 5000)
    with tempfile.TemporaryDirectory() as folder:
        model = color_model(Path(folder) / "colors.onnx")
        with Estimator(model, detector=detect, threads=1) as estimator:
            sources = [walk("first", total // 2), walk("second", total - total // 2)]
            detect_every = 3 if workers == 1 else 1
            results = estimator.stream(
                sources, track=True, smooth=True, detect_every=detect_every, workers=workers
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
                    rate = count / (time.perf_counter() - started)
                    print(f"{count} frames, {rate:.0f} frames/s, {resident_mb():.1f} MB", flush=True)  # noqa: T201
    grown = max(highest, resident_mb()) - first
    memory = f"{first:.1f} MB after {warm_up} frames, grown by {grown:.1f} MB"
    print(f"{count} frames, {persons} persons: {memory}")  # noqa: T201
    usable = count == total and persons > total / 2 and grown < LIMIT_MB
    print("flat" if usable else f"FAILED: wanted {total} frames, at most {LIMIT_MB} MB of growth")  # noqa: T201
    return 0 if usable else 1


if __name__ == "__main__":
    raise SystemExit(main())
