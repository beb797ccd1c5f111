"""Time the import and the way to the first result: ``python benchmarks/startup.py [--model FILE]``.

Every measurement is a fresh process; the contestants take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe, table

from edgepose.errors import ModelNotFoundError
from edgepose.estimator import resolve_model

TIMER = "import sys, time; t = time.perf_counter(); {timed}; print((time.perf_counter() - t) * 1e3)"
EXPORTS = "import edgepose; [getattr(edgepose, name) for name in edgepose.__all__]"
FIRST_RESULT = """
import sys, time
t = time.perf_counter()
import edgepose
estimator = edgepose.Estimator(sys.argv[1])
opened = time.perf_counter()
estimator(sys.argv[2])
first = time.perf_counter()
estimator(sys.argv[2])
second = time.perf_counter()
print((opened - t) * 1e3, (first - opened) * 1e3, (second - first) * 1e3, (first - t) * 1e3)
"""
STAGES = ("import and open the model", "first call", "second call", "import to first result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="an .onnx file or packaged name (default: the packaged default)")
    parser.add_argument("--image", help="picture for the first result (default: a synthetic one, 1280x720)")
    parser.add_argument("--rounds", type=int, default=15, help="processes per contestant")
    arguments = parser.parse_args()
    print(describe() + f" {arguments.rounds} processes per figure.\n")

    base = "import numpy, cv2; "
    imports = {
        "numpy and cv2": TIMER.format(timed="import numpy, cv2"),
        "edgepose, beyond numpy and cv2": base + TIMER.format(timed="import edgepose"),
        "edgepose and all its public names, beyond numpy and cv2": base + TIMER.format(timed=EXPORTS),
    }
    times: dict[str, list[float]] = {name: [] for name in imports}
    for code in imports.values():
        run(code)  # fills the caches of files and byte code
    for _ in range(arguments.rounds):
        for name, code in imports.items():
            times[name] += run(code)
    print(table(["import", "ms"], [[name, f"{statistics.median(t):.1f}"] for name, t in times.items()]))

    try:
        model = resolve_model(arguments.model)
    except ModelNotFoundError as error:
        sys.exit(f"\nNo time to the first result: {error}")
    picture = arguments.image or synthetic_picture()
    command = [FIRST_RESULT, str(model), str(picture)]
    run(*command)
    rounds = [run(*command) for _ in range(arguments.rounds)]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    print(f"\nModel: {model.name}.\n")
    rows = [[stage, f"{value:.1f}"] for stage, value in zip(STAGES, medians, strict=True)]
    print(table(["stage", "ms"], rows))


TEMPORARY = tempfile.TemporaryDirectory()
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(code: str, *arguments: str) -> list[float]:
    """The numbers that a fresh process prints. Byte code is cached, as for an installed package."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    environment = ENVIRONMENT | {"PYTHONPYCACHEPREFIX": TEMPORARY.name}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(word) for word in done.stdout.split()]


def synthetic_picture() -> Path:
    """A 1280x720 JPEG in the temporary folder."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    path = Path(TEMPORARY.name) / "picture.jpg"
    cv2.imwrite(str(path), cv2.resize(noise, (1280, 720), interpolation=cv2.INTER_CUBIC))
    return path


if __name__ == "__main__":
    main()
