"""Time the kernels in CUDA: ``python benchmarks/cuda_kernels.py``. Needs an NVIDIA GPU for figures.

Each kernel is launched many times within a CUDA graph, over as many copies of its arguments as exceed the
device's caches, and the graph is timed from its start to its end; figures are medians. Bytes are those that
a kernel has to move: maps read once, results written once, and for crops the part of the picture under
them. The share is that of the bandwidth at which a large block is copied on the device (read plus written).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import machine
import numpy as np

from edgepose.kernels import cuda
from edgepose.kernels.cuda import CROP_SOURCE, DeviceArray

_cuda = cuda._cuda  # the launches, by pointer

MEAN, STD, FILL = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.0, 0.0, 0.0)
Launch = Callable[[int], None]
"""Puts one launch on a stream."""


class Case:
    """A kernel with one set of arguments: its launch, and the bytes that it moves."""

    def __init__(self, launch: Launch, moved: int, held: Sequence[DeviceArray]) -> None:
        self.launch, self.moved, self.held = launch, moved, held


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--joints", type=int, default=17)
    parser.add_argument("--maps", type=int, nargs=2, default=[64, 48], help="height and width of a map")
    parser.add_argument("--crop", type=int, nargs=2, default=[256, 192], help="height and width of a crop")
    parser.add_argument("--frame", type=int, nargs=2, default=[1080, 1920], help="height and width")
    parser.add_argument("--launches", type=int, default=200, help="launches within a graph")
    parser.add_argument("--rounds", type=int, default=20, help="how often a graph is timed")
    parser.add_argument("--spread", type=int, default=256 << 20, help="bytes that no cache holds")
    options = parser.parse_args(arguments)
    print(f"{machine.describe()}\n")
    copied = copy_bandwidth(options)
    print(f"Copies on the device: {copied / 1e9:.1f} GB/s, read plus written.\n")
    for batch in options.batches:
        rows = []
        for name, make in cases(options, batch).items():
            first = make()
            count = max(1, min(options.launches, options.spread // max(first.moved, 1)))
            seconds = timed([first, *(make() for _ in range(count - 1))], options)
            share = first.moved / seconds / copied
            rows.append([name, f"{1e6 * seconds:.2f}", f"{first.moved / 1e6:.3f}", f"{100 * share:.0f} %"])
        print(f"**Batch {batch}**\n\n{machine.table(['', 'us', 'MB moved', 'of copies'], rows)}\n")


def copy_bandwidth(options: argparse.Namespace) -> float:
    """Bytes per second."""
    size = options.spread // 2
    source, to = DeviceArray((size,), np.uint8), DeviceArray((size,), np.uint8)
    case = Case(lambda stream: _cuda.copy_within(to.pointer, source.pointer, size, stream), 2 * size, ())
    return case.moved / timed([case], options, max(1, options.launches // 20))


def timed(copies: list[Case], options: argparse.Namespace, launches: int | None = None) -> float:
    """Seconds per launch, the copies of a case taking turns."""
    count = launches or options.launches
    stream = _cuda.create_stream()
    copies[0].launch(stream)
    _cuda.synchronize(stream)
    _cuda.begin_capture(stream)
    for i in range(count):
        copies[i % len(copies)].launch(stream)
    graph = _cuda.end_capture(stream)
    found = []
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        graph.launch(stream)
        _cuda.synchronize(stream)
        found.append((time.perf_counter() - start) / count)
    graph.close()
    _cuda.destroy_stream(stream)
    return statistics.median(found[1:])


def cases(options: argparse.Namespace, batch: int) -> dict[str, Callable[[], Case]]:
    """By name, what makes a case with arguments of its own."""
    found: dict[str, Callable[[], Case]] = {}
    for kind in (np.float32, np.float16):
        name = np.dtype(kind).name
        found[f"soft_argmax, {name}"] = lambda kind=kind: soft_argmax(options, batch, kind)
        for refine in ("quarter", "taylor"):
            found[f"argmax_offset, {refine}, {name}"] = lambda kind=kind, refine=refine: argmax_offset(
                options, batch, kind, refine
            )
        found[f"flip_average, {name}"] = lambda kind=kind: flip_average(options, batch, kind)
    for kind in (np.float32, np.uint8):
        found[f"mirror, {np.dtype(kind).name}"] = lambda kind=kind: mirror(options, batch, kind)
    for op in ("crop_normalize", "crop_pixels"):
        for turned in (False, True):
            for chroma in (False, True):
                name = f"{op}, {'turned' if turned else 'upright'}, {'NV12' if chroma else 'BGR'}"
                found[name] = lambda op=op, turned=turned, chroma=chroma: crop(
                    options, batch, op, turned, chroma
                )
    return found


def maps(options: argparse.Namespace, batch: int, kind: type) -> np.ndarray:
    """A blob of sigma 2 over weak noise in each, as trained networks give them."""
    rng = np.random.default_rng(0)
    height, width = options.maps
    x, y = (rng.uniform(0, side, (batch, options.joints, 1, 1)) for side in (width, height))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    blobs = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return (blobs + 0.01 * rng.standard_normal(blobs.shape)).astype(kind)


def stack_of(values: np.ndarray, on_device: DeviceArray) -> tuple[int, bool, int, int, int]:
    n, k, height, width = values.shape
    return on_device.pointer, values.dtype == np.float16, n * k, height, width


def soft_argmax(options: argparse.Namespace, batch: int, kind: type) -> Case:
    values = maps(options, batch, kind)
    source, out = DeviceArray.of(values), DeviceArray((7, batch * options.joints))
    coords, scores, covariance = (out.pointer + 4 * i * batch * options.joints for i in (0, 2, 3))
    stack = stack_of(values, source)
    return Case(
        lambda stream: _cuda.soft_argmax(*stack, 160.0, coords, scores, covariance, stream),
        values.nbytes + out.nbytes,
        (source, out),
    )


def argmax_offset(options: argparse.Namespace, batch: int, kind: type, refine: str) -> Case:
    values = maps(options, batch, kind)
    source, out = DeviceArray.of(values), DeviceArray((3, batch * options.joints))
    scores = out.pointer + 8 * batch * options.joints
    stack = stack_of(values, source)
    return Case(
        lambda stream: _cuda.argmax_offset(*stack, refine, out.pointer, scores, stream),
        values.nbytes + out.nbytes,
        (source, out),
    )


def flip_average(options: argparse.Namespace, batch: int, kind: type) -> Case:
    values = maps(options, batch, kind)
    own, flipped, out = DeviceArray.of(values), DeviceArray.of(values), DeviceArray(values.shape)
    order = DeviceArray.of(np.arange(options.joints)[::-1].astype(np.int64))
    pointer, half, count, height, width = stack_of(values, own)
    return Case(
        lambda stream: _cuda.flip_average(
            pointer, flipped.pointer, half, count, height, width, order.pointer, options.joints, True,
            out.pointer, stream,
        ),
        2 * values.nbytes + out.nbytes,
        (own, flipped, out, order),
    )  # fmt: skip


def mirror(options: argparse.Namespace, batch: int, kind: type) -> Case:
    height, width = options.crop
    planes = kind is np.float32
    shape = (batch, 3, height, width) if planes else (batch, height, width, 3)
    source, out = DeviceArray.of(np.zeros(shape, kind)), DeviceArray(shape, kind)
    run = _cuda.mirror_planes if planes else _cuda.mirror_pixels
    rows = batch * height * (3 if planes else 1)
    return Case(
        lambda stream: run(source.pointer, rows, width, out.pointer, stream), 2 * source.nbytes, (source, out)
    )


def crop(options: argparse.Namespace, batch: int, op: str, turned: bool, chroma: bool) -> Case:
    """Crops of boxes two thirds as high as the frame, all out of one picture."""
    rng = np.random.default_rng(0)
    (height, width), (rows, columns) = options.crop, options.frame
    shape = (rows * 3 // 2, columns) if chroma else (rows, columns, 3)
    frame = DeviceArray.of(rng.integers(0, 256, shape, dtype=np.uint8))
    scale, angle = rows / 1.5 / height, np.pi / 6 if turned else 0.0
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sources = np.zeros(batch, CROP_SOURCE)
    sources["pixels"], sources["height"], sources["width"] = frame.pointer, rows, columns
    sources["stride"] = columns if chroma else 3 * columns
    if chroma:
        sources["chroma"], sources["chroma_stride"] = frame.pointer + rows * columns, columns
    for source in sources:
        middle = rng.uniform(0.4, 0.6, 2) * (columns, rows)
        corner = middle - matrix @ np.array([width / 2, height / 2])
        source["affine"] = np.column_stack([matrix, corner]).reshape(6)
    table = DeviceArray.of(sources)
    under = min(scale**2 * height * width * batch, rows * columns) * (1.5 if chroma else 3)
    if op == "crop_pixels":
        out = DeviceArray((batch, height, width, 3), np.uint8)
        run = lambda stream: _cuda.crop_pixels(  # noqa: E731
            table.pointer, batch, height, width, True, out.pointer, stream
        )
    else:
        out = DeviceArray((batch, 3, height, width))
        run = lambda stream: _cuda.crop_normalize(  # noqa: E731
            table.pointer, batch, height, width, MEAN, STD, FILL, True, out.pointer, stream
        )
    return Case(run, out.nbytes + int(under), (frame, table, out))


if __name__ == "__main__":
    main()
