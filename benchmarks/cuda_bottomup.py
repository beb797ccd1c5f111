"""Time the decode of a bottom-up network in CUDA: ``python benchmarks/cuda_bottomup.py``.

Needs an NVIDIA GPU for figures. The maps are those of ``benchmarks/bottomup.py`` and lie on the device. Each
step is recorded many times in a CUDA graph, which is timed from its start to its end; figures are medians per
step. Adjusting and refining is what all steps take beyond the first two. The persons that come back are first
compared with those of the kernels on the processor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import bottomup
import machine
import numpy as np

from edgepose import kernels
from edgepose.kernels import MapPass, PoseMaps, cuda
from edgepose.kernels.cuda import DeviceArray
from edgepose.kernels.cuda_bottomup import PoseMapsOnDevice
from edgepose.pipeline.bottomup import decode_maps
from edgepose.spec import Grouping

_cuda = cuda._cuda


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, nargs="+", default=[0, 1, 10, 30, 100])
    parser.add_argument("--share", type=int, default=1, help="take a corner, the n-th part of the sides")
    parser.add_argument("--launches", type=int, default=50, help="steps within a graph")
    parser.add_argument("--rounds", type=int, default=20, help="how often a graph is timed")
    options = parser.parse_args(arguments)
    print(f"{machine.describe()}\n")
    rows = []
    for people in options.people:
        for flip in (False, True):
            maps = bottomup.corner(bottomup.scene(people, flip), options.share)
            for official in (False, True):
                case = [str(people), bottomup.yes(flip), "official" if official else "default"]
                rows.append([*case, *timed_steps(maps, max(30, people), official, options)])
    heads = ["people", "flip", "assignment", "found", "peaks", "group", "adjust and refine", "all"]
    print(f"Of {maps.size[1]}x{maps.size[0]} pixels, us:\n\n{machine.table(heads, rows)}")


def timed_steps(maps: PoseMaps, limit: int, official: bool, options: argparse.Namespace) -> list[str]:
    """Persons found, and the median of each step and of all."""
    grouping = Grouping(joint_order=tuple(bottomup.ORDER), max_people=limit)
    expected = decode_maps(maps, kernels.get(), grouping, official=official)

    stream = _cuda.create_stream()
    with PoseMapsOnDevice(on_device(maps), bottomup.ORDER, limit=limit, official=official) as steps:
        steps.run(stream)
        result = np.empty(steps.result_bytes, np.uint8)
        _cuda.copy_out(result.ctypes.data, steps.result, result.nbytes, stream)
        _cuda.synchronize(stream)
        np.testing.assert_array_equal(steps.read(result).persons, expected.persons)
        found = [timed(step, stream, options) for step in (steps.find_peaks, steps.group)]
        whole = timed(steps.run, stream, options)
    _cuda.destroy_stream(stream)
    rest = whole - sum(found)
    return [str(len(expected.persons)), *(f"{1e6 * seconds:.1f}" for seconds in (*found, rest, whole))]


def on_device(maps: PoseMaps) -> PoseMaps:
    passes = [
        MapPass(tuple(map(DeviceArray.of, run.heatmaps)), tuple(map(DeviceArray.of, run.tags)), run.flipped)
        for run in maps.passes
    ]
    return PoseMaps(tuple(passes), maps.size, maps.flip_permutation)


def timed(step: Callable[[int], None], stream: int, options: argparse.Namespace) -> float:
    """Seconds per step."""
    _cuda.begin_capture(stream)
    for _ in range(options.launches):
        step(stream)
    graph = _cuda.end_capture(stream)
    found = []
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        graph.launch(stream)
        _cuda.synchronize(stream)
        found.append((time.perf_counter() - start) / options.launches)
    graph.close()
    return statistics.median(found[1:])


if __name__ == "__main__":
    main()
