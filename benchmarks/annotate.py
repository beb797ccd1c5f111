"""Annotate many pictures: ``python benchmarks/annotate.py [--data DIR]``.

Prints the pictures per second of a plain loop over `Estimator` calls, of `edgepose.annotate` on one and two
workers, and through Ray on two, all from files to a COCO file; then kills the command at three random
points, lets it go on, and compares its output with that of an uninterrupted run. Without --data the pictures
are copies of the packaged sample. The first two contestants use all cores in one process. Time includes the
start of processes; that of Ray itself is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import describe, table

from edgepose import Estimator, annotate, open_source
from edgepose.backends.base import default_threads
from edgepose.estimator import DEFAULT_MODEL
from edgepose.samples import PERSON

KILLS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of pictures (default: copies of the sample)")
    parser.add_argument("--pictures", type=int, default=400, help="copies of the sample (default: 400)")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=3, help="of which each figure is the median")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = Path(folder) / "pictures"
            data.mkdir()
            for number in range(arguments.pictures):
                shutil.copy(PERSON, data / f"{number:06d}.jpg")
        count = len(open_source(data).paths)
        print(f"{describe()} Ray {ray_version()}. Medians of {arguments.rounds} rounds.\n")
        print(f"{count} pictures, {arguments.model}.\n")
        print(speeds(data, count, Path(folder), arguments.model, arguments.rounds) + "\n")
        print(killed(data, Path(folder), arguments.model))


def ray_version() -> str:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    return str(ray.__version__)


def speeds(data: Path, count: int, folder: Path, model: str, rounds: int) -> str:
    """The table of pictures per second; the contestants take turns."""
    import ray

    def bulk(**options: Any) -> Callable[[], None]:
        def run() -> None:
            done = annotate(data, folder / "out.json", model=model, overwrite=True, **options)
            if done.errors:
                raise SystemExit(f"pictures that cannot be used: {done.first_errors[0]}; leave them out")

        return run

    contestants = {
        "a loop over calls": lambda: loop(data, folder / "loop.json", model),
        "annotate": bulk(),
        "annotate, 2 workers": bulk(workers=2),
        "annotate, Ray, 2 workers": bulk(workers=2, ray="auto"),
    }
    started = time.perf_counter()
    ray.init(address="local", num_cpus=default_threads(), include_dashboard=False, log_to_driver=False)
    start_of_ray = time.perf_counter() - started
    times: dict[str, list[float]] = {name: [] for name in contestants}
    try:
        for _ in range(rounds):
            for name, run in contestants.items():
                started = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - started)
    finally:
        ray.shutdown()
    rows = []
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        rows.append([name, f"{count / middle:.1f}", f"{middle:.2f}"])
    text = table(["", "pictures/s", "seconds"], rows)
    return f"{text}\n\nRay's own start, which its row leaves out: {start_of_ray:.1f} s."


def loop(data: Path, output: Path, model: str) -> None:
    """What one writes oneself: a picture after the other, all results kept until the end."""
    entries = []
    with Estimator(model) as estimator:
        for number, path in enumerate(open_source(data).paths, 1):
            entries += estimator(path).to_coco(number)
    output.write_text(json.dumps(entries))


def killed(data: Path, folder: Path, model: str) -> str:
    """Kill the command at random points, and say whether its output is as without.

    Raises:
        SystemExit: it is not.
    """
    whole, broken = folder / "whole.json", folder / "broken.json"
    annotate(data, whole, model=model)
    rng = random.Random(1)
    shards = -(-len(open_source(data).paths) // 32)
    if shards < 2 * KILLS:
        raise SystemExit(f"too few pictures to be killed {KILLS} times; found {shards} shards; give more")
    places = sorted(rng.sample(range(1, shards - 1), KILLS))
    command = [sys.executable, "-m", "edgepose", "annotate", str(data), "-o", str(broken), "--model", model]
    reached = []
    for place in places:
        process = subprocess.Popen(
            [*command, "--workers", str(rng.choice([1, 2]))], stderr=subprocess.DEVNULL
        )
        parts = broken.with_name(f"{broken.name}.parts")
        while process.poll() is None and len(list(parts.glob("*.jsonl"))) < place:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        if process.wait() != -signal.SIGKILL:
            raise SystemExit("the command ended before it was killed; give more pictures")
        reached.append(len(list(parts.glob("*.jsonl"))))
    done = annotate(data, broken, model=model)
    if whole.read_bytes() != broken.read_bytes():
        raise SystemExit("the output of the killed run differs")
    points = ", ".join(map(str, reached))
    return (
        f"Killed (SIGKILL) when {points} of {shards} shards were done, and run again, with one or two "
        "workers by chance: the output is the same, byte for byte, as without a break; the last run took "
        f"over {done.kept} pictures."
    )


if __name__ == "__main__":
    main()
