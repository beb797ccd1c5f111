"""Time the kernels against their peers: ``python benchmarks/kernels.py``.

Prints markdown tables. The contestants of a table take turns within one run, so that a busy machine
slows all of them alike; each timed call follows one of its own that is not timed, which brings its
data into the caches. Figures are medians, and the ratio is the median of each round's ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import machine
import numpy as np

from edgepose import kernels
from edgepose.errors import BackendUnavailableError
from edgepose.pipeline.geometry import box_to_region, crop_affine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAPS, CROP, FRAME = (10, 17, 64, 48), (256, 192), (1080, 1920)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="how often each contestant is timed")
    rounds = parser.parse_args().rounds
    torch, cv2 = optional("torch"), optional("cv2")
    if torch is not None:
        torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(1)
    print(f"{machine.describe()} Every contestant on 1 thread.\n")

    rng = np.random.default_rng(0)
    serving = available()
    cases = {"peaked maps (Gaussian of sigma 2 plus noise)": peaked(rng), "random maps": rng.random(MAPS)}
    for title, values in cases.items():
        maps = values.astype(np.float32)
        compare(f"soft_argmax, {shape(MAPS)}, {title}", soft_argmax(serving, maps, torch), rounds)
    maps = peaked(rng).astype(np.float32)
    for refine in ("quarter", "taylor"):
        entries = {name: bind(k.argmax_offset, maps, refine) for name, k in serving.items()}
        compare(f"argmax_offset, {refine}, {shape(MAPS)}", entries, rounds)
    out = np.empty_like(maps)
    pairs = [(i, i + 1) for i in range(1, 17, 2)]
    entries = {name: bind(k.flip_average, maps, maps, pairs, True, out) for name, k in serving.items()}
    compare(f"flip_average, {shape(MAPS)}", entries, rounds)
    frame = rng.integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    for title, affine in (("upright", boxes(rng)), ("rotated by 30 degrees", rotated(boxes(rng)))):
        name = f"crop_normalize, 10 boxes of {shape(FRAME)} to {shape(CROP)}, {title}"
        compare(name, crops(serving, frame, affine, cv2), rounds)
        name = f"crop_pixels, 10 boxes of {shape(FRAME)} to {shape(CROP)}, {title}"
        compare(name, byte_crops(serving, frame, affine, cv2), rounds)


def optional(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def available() -> dict[str, kernels.Kernels]:
    """The kernels that can serve, the fastest first."""
    found = {}
    for name in kernels.AUTOMATIC:
        try:
            found[name] = kernels.get(name)
        except BackendUnavailableError as error:
            print(f"{name}: {error}\n")
    return found


def shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def bind(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: function(*args)


def peaked(rng: np.random.Generator) -> np.ndarray:
    """Maps as a trained network gives them: one blob each, of varied height, over weak noise."""
    n, k, height, width = MAPS
    x = rng.uniform(2, width - 3, (n, k, 1, 1))
    y = rng.uniform(2, height - 3, (n, k, 1, 1))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    blobs = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return rng.uniform(0.4, 1, (n, k, 1, 1)) * blobs + 0.01 * rng.standard_normal(MAPS)


def boxes(rng: np.random.Generator) -> np.ndarray:
    """Affines of ten people, a third to all of the frame's height."""
    heights = rng.uniform(360, 1000, 10)
    widths = heights * rng.uniform(0.3, 0.6, 10)
    left, top = rng.uniform(0, FRAME[1] - widths), rng.uniform(0, FRAME[0] - heights)
    corners = np.stack([left, top, left + widths, top + heights], axis=1)
    return crop_affine(*box_to_region(corners, CROP, 1.25), CROP, "udp")


def rotated(affine: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    middle = np.array([(CROP[1] - 1) / 2, (CROP[0] - 1) / 2])
    turned = affine.copy()
    turned[:, :, :2] = affine[:, :, :2] @ np.array([[cos, -sin], [sin, cos]])
    turned[:, :, 2] += (affine[:, :, :2] - turned[:, :, :2]) @ middle
    return turned


def soft_argmax(serving: dict[str, kernels.Kernels], maps: np.ndarray, torch: Any) -> dict[str, Callable]:
    n, k, height, width = maps.shape
    entries: dict[str, Callable] = {}
    for name, implementation in serving.items():
        out = implementation.soft_argmax(maps)
        entries[name] = bind(implementation.soft_argmax, maps, 160.0, out)
    if torch is not None:
        tensor = torch.from_numpy(maps).reshape(n, k, -1)
        rows = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
        columns = torch.arange(width, dtype=torch.float32).repeat(height)

        def softmax() -> Any:
            p = torch.softmax(tensor * 160, dim=2)
            coords = torch.stack([p @ columns, p @ rows], dim=2)
            nearest = coords.round().long()
            return coords, tensor.gather(2, (nearest[..., 1] * width + nearest[..., 0])[..., None])

        entries["torch softmax (no covariance)"] = softmax
    return entries


def crops(
    serving: dict[str, kernels.Kernels], frame: np.ndarray, affine: np.ndarray, cv2: Any
) -> dict[str, Callable]:
    out = np.empty((len(affine), 3, *CROP), np.float32)
    args = (frame, affine, CROP, MEAN, STD, True, 0, out)
    entries: dict[str, Callable] = {name: bind(k.crop_normalize, *args) for name, k in serving.items()}
    if cv2 is not None:

        def warp(dtype: type) -> Any:
            mean, std = np.asarray(MEAN, dtype), np.asarray(STD, dtype)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            for i, matrix in enumerate(affine):
                crop = cv2.warpAffine(frame, matrix, CROP[::-1], flags=flags)
                crop = cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)
                crop = (crop.astype(dtype) / dtype(255) - mean) / std
                out[i] = crop.transpose(2, 0, 1)

        entries["warpAffine + normalise + transpose, float32"] = bind(warp, np.float32)
        entries["warpAffine + normalise + transpose, float64"] = bind(warp, np.float64)
    return entries


def byte_crops(
    serving: dict[str, kernels.Kernels], frame: np.ndarray, affine: np.ndarray, cv2: Any
) -> dict[str, Callable]:
    out = np.empty((len(affine), *CROP, 3), np.uint8)
    entries: dict[str, Callable] = {
        name: (lambda k=k: k.crop_pixels(frame, affine, CROP, True, out=out)) for name, k in serving.items()
    }
    first = next(iter(serving))
    floats = np.empty((len(affine), 3, *CROP), np.float32)
    args = (frame, affine, CROP, MEAN, STD, True, 0, floats)
    entries[f"crop_normalize, {first}"] = bind(serving[first].crop_normalize, *args)
    if cv2 is not None:

        def warp() -> None:
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            for i, matrix in enumerate(affine):
                cv2.cvtColor(
                    cv2.warpAffine(frame, matrix, CROP[::-1], flags=flags), cv2.COLOR_BGR2RGB, out[i]
                )

        entries["warpAffine + BGR to RGB"] = warp
    return entries


def compare(title: str, entries: dict[str, Callable], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, run in entries.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    base = next(iter(entries))
    rows = []
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, times[base], strict=True))
        rows.append([name, f"{statistics.median(found):.3f}", f"{min(found):.3f}", f"{ratio:.1f}"])
    heads = ["", "median ms", "fastest ms", f"times {base}"]
    print(f"**{title}** (n = {rounds})\n\n{machine.table(heads, rows)}\n")


if __name__ == "__main__":
    main()
