"""Time the drawing of poses: ``python benchmarks/drawing.py``.

Persons of 17 joints, 150 to 400 pixels tall in a picture of 1280x720 (and as large relative to one of
3840x2160), drawn by `edgepose.draw_pose`: on the picture itself; on a copy; with boxes, identities and scores
that differ from frame to frame; and with ellipses. For comparison what supervision's edge and vertex
annotators take for the same persons, in lines and dots without smoothing or outline. The contestants take
turns within each round; figures are medians, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import Any

import cv2
import numpy as np
from machine import describe, table

from edgepose import PoseResult, coco17, draw_heatmaps, draw_pose

PERSONS = (1, 5, 10, 30)
SIZES = ((720, 1280), (2160, 3840))
# A standing person of height 1, x to the right, y down from the head.
STANDING = (
    (0, 0.05), (0.02, 0.03), (-0.02, 0.03), (0.04, 0.04), (-0.04, 0.04), (0.11, 0.18), (-0.11, 0.18),
    (0.15, 0.35), (-0.15, 0.35), (0.16, 0.5), (-0.16, 0.5), (0.08, 0.5), (-0.08, 0.5), (0.09, 0.73),
    (-0.09, 0.73), (0.1, 0.97), (-0.1, 0.97),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="how often each contestant is timed")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    found = supervision()
    peer = "" if found is None else f" supervision {found.__version__}."
    print(
        f"{describe()} OpenCV {cv2.__version__}.{peer} {arguments.rounds} rounds; milliseconds per picture.\n"
    )
    heads = ["picture, persons", "in place", "on a copy", "boxes, ids, scores", "ellipses", "heatmaps"]
    heads += [] if found is None else ["supervision"]
    rows = [compare(size, n, found, arguments.rounds) for size in SIZES for n in PERSONS]
    print(table(heads, rows))


def supervision() -> Any:
    """The package, or None where it is not installed."""
    try:
        metadata.version("supervision")
    except metadata.PackageNotFoundError:
        return None
    import supervision

    return supervision


def compare(size: tuple[int, int], n: int, peer: Any, rounds: int) -> list[str]:
    """One row of the table."""
    rng = np.random.default_rng(n)
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    frames = [people(size, n, rng) for _ in range(rounds + 3)]
    tracked = [replace(frame, track_ids=np.arange(n)) for frame in frames]
    maps = rng.uniform(0, 0.5, (n, len(coco17), 64, 48)).astype(np.float32)

    def heatmaps(index: int) -> None:
        boxes = frames[index].boxes
        affine = np.zeros((n, 2, 3))
        affine[:, 0, 0], affine[:, 1, 1] = ((boxes[:, 2:] - boxes[:, :2]) / (48, 64)).T
        affine[:, :, 2] = boxes[:, :2]
        draw_heatmaps(picture, maps, coco17, affine=affine, inplace=True)

    contestants: dict[str, Callable[[int], Any]] = {
        "in place": lambda i: draw_pose(picture, frames[i], inplace=True),
        "copy": lambda i: draw_pose(picture, frames[i]),
        "labels": lambda i: draw_pose(picture, tracked[i], boxes=True, scores=True, inplace=True),
        "ellipses": lambda i: draw_pose(picture, frames[i], ellipses=2.0, inplace=True),
        "heatmaps": heatmaps,
    }
    if peer is not None:
        lines = peer.EdgeAnnotator(thickness=3, edges=[(a + 1, b + 1) for a, b in coco17.edges])
        dots = peer.VertexAnnotator(radius=4)
        points = [frame.to_supervision() for frame in frames]
        contestants["supervision"] = lambda i: dots.annotate(lines.annotate(picture, points[i]), points[i])
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 3):
        for name, function in contestants.items():
            started = time.perf_counter()
            function(round_)
            if round_ >= 3:  # warm-up
                times[name].append((time.perf_counter() - started) * 1e3)
    medians = [f"{statistics.median(values):.2f}" for values in times.values()]
    return [f"{size[1]}x{size[0]}, {n}", *medians]


def people(size: tuple[int, int], n: int, rng: np.random.Generator) -> PoseResult:
    """Persons anywhere in a picture, all of their joints in sight."""
    scale = size[0] / 720
    heights = scale * rng.uniform(150, 400, (n, 1, 1))
    corners = rng.uniform((70 * scale, 0), (size[1] - 70 * scale, size[0] - 400 * scale), (n, 2))
    points = np.array(STANDING) + rng.normal(0, 0.02, (n, len(coco17), 2))
    keypoints = points * heights + corners[:, None]
    spread = (heights * rng.uniform(0.01, 0.03, (n, len(coco17), 1)))[..., None]
    return PoseResult(
        keypoints=keypoints,
        scores=rng.uniform(0.3, 1, (n, len(coco17))),
        boxes=np.concatenate([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1),
        person_scores=rng.uniform(0.3, 1, n),
        skeleton=coco17,
        image_size=size,
        covariance=spread**2 * np.eye(2),
    )


if __name__ == "__main__":
    main()
