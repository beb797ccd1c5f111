"""The way from a fresh process to the first result, and the memory that it takes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgepose
from edgepose.errors import BackendUnavailableError
from edgepose.samples import PERSON

__all__ = ["time_startup"]

_CODE = """
import sys, time
start = time.perf_counter()
import edgepose
make = edgepose.Estimator
imported = time.perf_counter()
import json
from edgepose.machine import resident_memory
model, options, photo = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
memory = [resident_memory()]
clock = time.perf_counter()
estimator = make(model, **options)
opened = time.perf_counter()
memory.append(resident_memory())
second = time.perf_counter()
estimator(photo)
first = time.perf_counter()
memory.append(resident_memory())
print(json.dumps({
    "import_ms": (imported - start) * 1e3,
    "open_ms": (opened - clock) * 1e3,
    "first_call_ms": (first - second) * 1e3,
    "imported_mb": memory[0] / 1e6,
    "opened_mb": memory[1] / 1e6,
    "called_mb": memory[2] / 1e6,
    "peak_mb": resident_memory(peak=True) / 1e6,
}))
"""


def time_startup(model: Path, options: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """Medians over fresh processes that open a model and estimate the poses of one photo.

    Args:
        model: the file.
        options: of the `Estimator`, as far as JSON can hold them.
        processes: how many; one more before them, which does not count, fills the caches of files.

    Returns:
        milliseconds ``import_ms`` (edgepose and its `Estimator`), ``open_ms``, ``first_call_ms`` (reading the
        photo included) and their sum ``total_ms``; memory in units of a million bytes after each,
        ``imported_mb``, ``opened_mb``, ``called_mb``, and at most, ``peak_mb``, None where the system does
        not tell; ``processes``.

    Raises:
        BackendUnavailableError: a process failed; the message holds what it said last.
    """
    rounds = [_run(model, options) for _ in range(processes + 1)][1:]
    figures = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    stages = ("import_ms", "open_ms", "first_call_ms")
    total = statistics.median(sum(found[name] for name in stages) for found in rounds)
    told = {name: round(value, 1) or None for name, value in figures.items()}
    return {**told, "total_ms": round(total, 1), "processes": processes}


def _run(model: Path, options: Mapping[str, Any]) -> dict[str, float]:
    package = str(Path(edgepose.__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-c", _CODE, str(model), json.dumps(dict(options)), str(PERSON)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendUnavailableError(
            f"the start in a fresh process failed; found {said[-1]}; try the model by edgepose predict"
        )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result
