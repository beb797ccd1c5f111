"""Time the decode of a bottom-up network: ``python benchmarks/bottomup.py``.

From the network's maps to persons in pixels of the final map: peaks, groups, quarter step and missing
joints. The maps are made, not a network's: Gaussian peaks of people that lack some joints, a tag of its own
around each peak, white noise over all. Random weights would give maps without people, which cost next to
nothing.
Implementations take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

from edgepose import kernels
from edgepose.errors import BackendUnavailableError
from edgepose.kernels import Kernels, MapPass, PoseMaps
from edgepose.machine import resident_memory

FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
ORDER = [0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16]
JOINTS, INPUT = len(FLIP), 512
PEOPLE = (1, 10, 30, 100)
MISSING, NOISE = 0.3, 0.02
MOST_PEOPLE = {"native": 100, "numba": 30, "numpy": 10}
"""Up to where each implementation is timed: numba looks at the whole map for each person that lacks a
joint, numpy builds all maps whole."""
SLOW_MS = 100
"""What takes longer is timed in three rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="how often each contestant is timed")
    parser.add_argument("--network", action="store_true", help="also time HigherHRNet-w32 on ONNX Runtime")
    parser.add_argument("--memory", metavar="IMPLEMENTATION", help="print one implementation's peak memory")
    arguments = parser.parse_args()
    if arguments.memory:
        print(*peak_memory(kernels.get(arguments.memory)))
        return
    serving = {}
    print(f"{machine.describe()} Every decode on 1 thread.\n")
    for name in kernels.AUTOMATIC:
        try:
            serving[name] = kernels.get(name)
        except BackendUnavailableError as error:
            print(f"{name}: {error}\n")
    print(
        f"Maps of 128x128 and 256x256 for a {INPUT}x{INPUT} input, {JOINTS} joints; {MISSING:.0%} of the "
        f"joints missing, white noise of {NOISE}; `top` and `max_persons` are 30, or 100 for 100 people. "
        f"n = {arguments.rounds}, 3 where it takes more than {SLOW_MS} ms.\n"
    )
    print("**Whole decode, ms**\n")
    print(
        machine.table(
            ["people", "assignment", "flip", "refine", *serving], decode_rows(serving, arguments.rounds)
        )
    )
    print("\n**`group` alone, ms**\n")
    print(machine.table(["people", "assignment", *serving], group_rows(serving, arguments.rounds)))
    print("\n**Peak memory of the decode, 30 people, flip and refine, MB**\n")
    heads = ["", "numpy arrays (tracemalloc)", "growth of the process"]
    print(machine.table(heads, [[name, *measured_memory(name)] for name in serving]))
    whole = JOINTS * INPUT * INPUT * 4 / 1e6
    print(f"\nThe final heatmaps of all joints would take {whole:.1f} MB, the two tags twice that.")
    if arguments.network:
        print(f"\n**HigherHRNet-w32, {INPUT}x{INPUT}, 1 thread**\n")
        share_of_frame(next(iter(serving.values())), max(3, arguments.rounds // 4))


def scene(people: int, flip: bool, seed: int = 0) -> PoseMaps:
    """Maps of so many people, each with joints around a place of its own."""
    rng = np.random.default_rng(seed)
    low = np.zeros((JOINTS, INPUT // 4, INPUT // 4), np.float32)
    high = np.zeros((JOINTS, INPUT // 2, INPUT // 2), np.float32)
    tags = rng.normal(0, 0.1, low.shape).astype(np.float32)
    for person in range(people):
        spread = rng.uniform(8, 40 if people <= 30 else 16)
        center = rng.uniform(20, INPUT / 2 - 20, 2)
        for joint in np.flatnonzero(rng.random(JOINTS) >= MISSING):
            x, y = np.clip(rng.normal(center, spread), 2, INPUT / 2 - 3)
            height = rng.uniform(0.4, 1)
            paste(high[joint], x, y, height)
            paste(low[joint], x / 2, y / 2, height)
            left, top = max(int(x / 2) - 5, 0), max(int(y / 2) - 5, 0)
            spot = tags[joint, top : top + 11, left : left + 11]
            spot[:] = rng.normal(1.5 * person, 0.05, spot.shape)
    noisy = [(values + rng.normal(0, NOISE, values.shape)).astype(np.float32) for values in (low, high)]
    passes = [MapPass(tuple(noisy), (tags,))]
    if flip:
        mirrored = [np.ascontiguousarray(values[FLIP, :, ::-1]) for values in (*noisy, tags)]
        for values in mirrored:
            values += rng.normal(0, NOISE / 2, values.shape).astype(np.float32)
        passes.append(MapPass(tuple(mirrored[:2]), (mirrored[2],), flipped=True))
    return PoseMaps(tuple(passes), (INPUT, INPUT), np.array(FLIP))


def corner(maps: PoseMaps, share: int = 8) -> PoseMaps:
    """The top left part of maps, of an eighth of their sides."""

    def cut(planes: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(
            np.ascontiguousarray(plane[:, : plane.shape[1] // share, : plane.shape[2] // share])
            for plane in planes
        )

    passes = tuple(MapPass(cut(p.heatmaps), cut(p.tags), p.flipped) for p in maps.passes)
    return PoseMaps(passes, (maps.size[0] // share, maps.size[1] // share), maps.flip_permutation)


def paste(heatmap: np.ndarray, x: float, y: float, height: float) -> None:
    """Put a Gaussian of sigma 2 into a map."""
    rows, columns = np.arange(heatmap.shape[0])[:, None], np.arange(heatmap.shape[1])
    np.maximum(heatmap, height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8), out=heatmap)


def decode(
    serving: Kernels, maps: PoseMaps, limit: int, official: bool = False, refine: bool = True
) -> np.ndarray:
    """Persons of the maps."""
    peaks = serving.aggregate_nms_topk(maps, 5, limit, 0.1)
    persons, _ = serving.group(peaks, ORDER, max_persons=limit, official=official)
    persons = serving.adjust(maps, persons)
    return serving.refine(maps, persons) if refine else persons


def decode_rows(serving: dict[str, Kernels], rounds: int) -> list[list[str]]:
    rows = []
    for people in PEOPLE:
        limit = max(30, people)
        for official in (False, True):
            for flip in (False, True):
                maps = scene(people, flip)
                for refine in (False, True):
                    entries = {
                        name: bind(decode, implementation, maps, limit, official, refine)
                        for name, implementation in serving.items()
                        if people <= MOST_PEOPLE[name]
                    }
                    times = compare(entries, rounds)
                    row = [str(people), "official" if official else "default", yes(flip), yes(refine)]
                    rows.append(row + [times.get(name, "-") for name in serving])
    return rows


def group_rows(serving: dict[str, Kernels], rounds: int) -> list[list[str]]:
    rows = []
    for people in PEOPLE:
        limit = max(30, people)
        peaks = next(iter(serving.values())).aggregate_nms_topk(scene(people, True), 5, limit, 0.1)
        for official in (False, True):
            entries = {
                name: bind(implementation.group, peaks, ORDER, 1.0, True, False, limit, official)
                for name, implementation in serving.items()
            }
            times = compare(entries, rounds, "{:.3f}")
            rows.append([str(people), "official" if official else "default", *times.values()])
    return rows


def bind(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: function(*args)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def compare(entries: dict[str, Callable[[], Any]], rounds: int, form: str = "{:.2f}") -> dict[str, str]:
    """Median of each contestant, in ms."""
    times: dict[str, list[float]] = {name: [] for name in entries}
    for run in entries.values():
        run()  # numba compiles
    for round_ in range(rounds):
        for name, run in entries.items():
            if round_ >= 3 and times[name][0] > SLOW_MS:
                continue
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: form.format(statistics.median(found)) for name, found in times.items()}


def peak_memory(serving: Kernels) -> tuple[int, int]:
    """Bytes of numpy arrays at most, and growth of the process's resident memory at most."""
    maps = scene(30, True)
    decode(serving, corner(maps), 30)  # loads and compiles; what it keeps is too small for the whole
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is in use now
    before = resident_memory(peak=True)
    decode(serving, maps, 30)
    growth = resident_memory(peak=True) - before
    tracemalloc.start()
    decode(serving, maps, 30)
    return tracemalloc.get_traced_memory()[1], growth


def measured_memory(name: str) -> list[str]:
    """`peak_memory` of an implementation in a process of its own, in MB."""
    command = [sys.executable, __file__, "--memory", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [f"{int(word) / 1e6:.1f}" for word in done.stdout.split()]


def share_of_frame(serving: Kernels, rounds: int) -> None:
    """Time the network with random weights, and the decode of made maps of ten people."""
    import onnxruntime
    import torch

    from training.models import create

    torch.manual_seed(0)
    network = create("higherhrnet_w32", joints=JOINTS).eval()
    picture = np.random.default_rng(0).standard_normal((1, 3, INPUT, INPUT)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (torch.from_numpy(picture),), path, input_names=["image"], dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    maps = scene(10, False)
    entries = {
        "network": lambda: session.run(None, {"image": picture}),
        "decode": bind(decode, serving, maps, 30),
    }
    times = {name: float(value) for name, value in compare(entries, rounds).items()}
    share = times["decode"] / sum(times.values())
    row = [f"{times['network']:.1f}", f"{times['decode']:.2f}", f"{share:.2%}"]
    print(
        machine.table(
            ["", "network, ms", "decode of 10 people with refine, ms", "share of the decode"], [["", *row]]
        )
    )
    print(
        "\nThe network has random weights, which cost as much time as trained ones; the maps are made, "
        "not its own."
    )


if __name__ == "__main__":
    main()
