"""How far an artefact's results lie from its source's, on pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose import kernels
from edgepose.backends import Backend, open_backend
from edgepose.backends.base import Batch
from edgepose.errors import InvalidInputError, ParityError
from edgepose.oks import most_similar_pairs, oks
from edgepose.pipeline.bottomup import BottomUp, keypoint_boxes
from edgepose.pipeline.poses import Floats, Poses
from edgepose.pipeline.topdown import JOINT_SCORE_FLOOR, PersonBoxes, TopDown
from edgepose.spec import ModelSpec

__all__ = ["TOLERANCES", "Parity", "Tolerance", "compare", "compare_backends", "record_batches"]

SAME_MAPS = 1e-3
"""`Parity.heatmap_rms` up to which two models' maps differ by rounding alone."""
MATCHED = 0.5
"""Similarity from which a person of one model counts as found by the other too."""


@dataclass(frozen=True)
class Parity:
    """Differences of two models on the same pictures.

    Attributes:
        pictures: how many were compared.
        persons: persons that the first model found; top-down, those of whom it sees a joint, which is one
            with a score above 0.2. Other joints are not compared.
        heatmap_max: largest difference of a heatmap pixel, as a share of the largest value of the first
            model's heatmaps.
        heatmap_rms: root mean square of the difference over that of the first model's heatmaps. Both are
            NaN where the models' maps differ in size, so that their pixels do not compare.
        keypoint_median, keypoint_p95, keypoint_max: distance of a joint of the two models, in
            pixels of the network's input; infinite where no person is found by both.
        pck: share of the joints that lie within a tenth of the person's longer side of one another; 0
            where no person is found by both.
        oks: mean object keypoint similarity of the two models' persons; 0 for those that only one of
            them finds. These figures of joints and persons are NaN where neither finds anybody.
        lost: persons of the first that the second does not find.
        added: persons of the second that the first does not find.
    """

    pictures: int
    persons: int
    heatmap_max: float
    heatmap_rms: float
    keypoint_median: float
    keypoint_p95: float
    keypoint_max: float
    pck: float
    oks: float
    lost: int
    added: int

    @property
    def conclusive(self) -> bool:
        """Whether the figures tell: persons were compared, or the maps differ by rounding alone."""
        return not np.isnan(self.oks) or self.heatmap_rms <= SAME_MAPS

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready figures, rounded to six digits; None for what is NaN or infinite."""
        return {item.name: _rounded(getattr(self, item.name)) for item in fields(self)}

    def table(self, tolerance: Tolerance | None = None) -> str:
        """The figures, one a line, with their limits."""
        limits = {} if tolerance is None else tolerance.limits()
        lines = []
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            limit = limits.get(name)
            word = "" if limit is None else f"  (at {'most' if limit[0] else 'least'} {limit[1]:g})"
            number = "none" if np.isnan(value) else f"{value:.5g}"
            lines.append(f"{name:<16} {number:>10}{word}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Tolerance:
    """What an artefact may differ by; the fields are those of `Parity`.

    A figure that is NaN breaks no limit: maps of models of two sizes do not compare.
    """

    heatmap_rms: float
    keypoint_p95: float
    pck: float
    oks: float

    def limits(self) -> dict[str, tuple[bool, float]]:
        """By figure: whether the limit is an upper one, and the limit."""
        return {
            "heatmap_rms": (True, self.heatmap_rms),
            "keypoint_p95": (True, self.keypoint_p95),
            "pck": (False, self.pck),
            "oks": (False, self.oks),
        }

    def broken(self, parity: Parity) -> list[str]:
        """Names of the figures that are out of bounds."""
        found = []
        for figure, (upper, limit) in self.limits().items():
            value = getattr(parity, figure)
            if value > limit if upper else value < limit:
                found.append(figure)
        return found

    def check(self, parity: Parity, name: str) -> None:
        """Raise `ParityError`, with the table, where a limit is not kept or the figures do not tell."""
        if not parity.conclusive:
            raise ParityError(
                f"{name} is not verified; found nobody on {parity.pictures} pictures; give some that show "
                "people"
            )
        broken = self.broken(parity)
        if broken:
            raise ParityError(
                f"{name} differs from its source by too much; found {', '.join(broken)} out of bounds on "
                f"{parity.pictures} pictures; build with higher precision\n{parity.table(self)}"
            )


TOLERANCES = {
    "fp32": Tolerance(heatmap_rms=1e-4, keypoint_p95=0.02, pck=0.999, oks=0.999),
    "fp16": Tolerance(heatmap_rms=1e-2, keypoint_p95=1.0, pck=0.99, oks=0.99),
    "int8": Tolerance(heatmap_rms=0.1, keypoint_p95=5.0, pck=0.97, oks=0.97),
}
"""By precision."""


def compare(
    first: Path,
    second: Path,
    images: Iterable[NDArray[np.uint8]],
    *,
    threads: int | None = None,
    runtimes: tuple[str, str] = ("auto", "auto"),
    same_pixels: bool = False,
) -> Parity:
    """Run two model files on the same pictures, in the runtime's own steps.

    A top-down model takes each whole picture as a person's box. A bottom-up model of free input size runs at
    the other's fixed one, if it has one.

    Args:
        first: the one to measure against.
        second: of the same task and skeleton; precision, runtime and input size may differ.
        images: BGR uint8 (H, W, 3).
        threads: of each model.
        runtimes: of the first and the second, as for `edgepose.backends.open_backend`.
        same_pixels: give the first model, which takes float32, the whole grey levels that the second takes,
            so that rounding the pictures counts for nothing.

    Raises:
        InvalidInputError: the models do not do the same, or there are no pictures.
        ModelNotFoundError, ModelFormatError, BackendUnavailableError: a file cannot be run.
    """
    opened = open_backend(first, runtime=runtimes[0], threads=threads)
    try:
        other = open_backend(second, runtime=runtimes[1], threads=threads)
        try:
            return compare_backends(_OfPixels(opened) if same_pixels else opened, other, images)
        finally:
            other.close()
    finally:
        opened.close()


def compare_backends(first: Backend, second: Backend, images: Iterable[NDArray[np.uint8]]) -> Parity:
    """`compare` of models that are open."""
    spec, other = first.spec, second.spec
    if (spec.task, spec.skeleton) != (other.task, other.skeleton):
        raise InvalidInputError(
            f"cannot compare {spec.name!r} with {other.name!r}; found {spec.task} of "
            f"{spec.skeleton.name} and {other.task} of {other.skeleton.name}; give models that do the same"
        )
    runs = _Recorded(first), _Recorded(second)
    for one, another in (runs, runs[::-1]):
        one.input_size = one.input_size or another.input_size  # one of free size runs at that of the other
    steps = [_steps(run) for run in runs]
    squares = np.zeros(2)
    worst, peak, pictures, maps_compared = 0.0, 0.0, 0, 0
    matches: list[_Match] = []
    for image in images:
        before, after = (step(image) for step in steps)
        for name, maps in runs[0].outputs.items():
            if not name.startswith("heatmaps"):
                continue
            others = runs[1].outputs.get(name)
            if others is None or others.shape != maps.shape:
                continue  # models of different input sizes have maps that do not compare
            difference = maps.astype(np.float64) - others
            squares += np.square(difference).sum(), np.square(maps.astype(np.float64)).sum()
            maps_compared += 1
            worst, peak = max(worst, float(np.abs(difference).max())), max(peak, float(maps.max()))
        matches.append(_match(before, after, spec, _scale(image, spec, runs[0].input_size)))
        pictures += 1
    if not pictures:
        raise InvalidInputError("nothing to compare on; found no pictures; give some that show people")
    distances = np.concatenate([match.distances for match in matches])
    shares = np.concatenate([match.shares for match in matches])
    similarity = np.concatenate([match.similarity for match in matches])
    added = sum(match.added for match in matches)
    nobody = len(similarity) + added == 0
    far = distances if len(distances) else np.array([np.inf])
    quantiles = [np.nan if nobody else float(np.percentile(far, share)) for share in (50, 95, 100)]
    return Parity(
        pictures=pictures,
        persons=len(similarity),
        heatmap_max=_ratio(worst, peak) if maps_compared else np.nan,
        heatmap_rms=_ratio(np.sqrt(squares[0]), np.sqrt(squares[1])) if maps_compared else np.nan,
        keypoint_median=quantiles[0],
        keypoint_p95=quantiles[1],
        keypoint_max=quantiles[2],
        pck=np.nan if nobody else float((shares <= 0.1).mean()) if len(shares) else 0.0,
        oks=np.nan if nobody else float(similarity.sum()) / (len(similarity) + added),
        lost=sum(match.lost for match in matches),
        added=added,
    )


def record_batches(
    model: Path, images: Iterable[NDArray[np.uint8]], threads: int | None = None
) -> list[Batch]:
    """What the runtime gives a network for each picture: one crop, in the form that its spec says."""
    backend = _Recorded(open_backend(model, threads=threads))
    try:
        step = _steps(backend)
        batches = []
        for image in images:
            step(image)
            batches.append(backend.batch)
    finally:
        backend.close()
    return batches


class _OfPixels:
    """A backend whose network takes float32, as one that takes the pixels."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.spec = replace(backend.spec, input_format="uint8_nhwc")
        self.name, self.device, self.input_size = backend.name, backend.device, backend.input_size

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        values = (batch / 255 - np.asarray(self.spec.mean)) / np.asarray(self.spec.std)
        return self._backend.run(np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32))

    def describe(self) -> dict[str, Any]:
        return self._backend.describe()

    def close(self) -> None:
        self._backend.close()


class _Recorded:
    """A backend that keeps its last input and outputs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.spec = backend.spec
        self.name, self.device, self.input_size = backend.name, backend.device, backend.input_size
        self.batch: Batch = np.zeros(0, np.float32)
        self.outputs: dict[str, NDArray[np.floating]] = {}

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        self.batch = batch.copy()
        found = self._backend.run(batch)
        self.outputs = {name: values.copy() for name, values in found.items()}
        return found

    def describe(self) -> dict[str, Any]:
        return self._backend.describe()

    def close(self) -> None:
        self._backend.close()


def _steps(backend: Backend) -> Any:
    """A function from a picture to its `Poses`."""
    ops = kernels.get()
    if backend.spec.task == "topdown":
        topdown = TopDown(backend, ops)
        return lambda image: topdown([image], [PersonBoxes.of_picture(image)])[0][0]
    bottomup = BottomUp(backend.run, backend.spec, ops, fixed_size=backend.input_size)
    return lambda image: bottomup([image])[0][0]


def _scale(image: NDArray[np.uint8], spec: ModelSpec, size: tuple[int, int] | None) -> float:
    """Pixels of the first model's input per pixel of the picture."""
    height, width = int(image.shape[0]), int(image.shape[1])
    if spec.task == "bottomup" and size is not None:
        return min(size[0] / height, size[1] / width)
    if spec.task == "bottomup":
        return spec.input_size[0] / min(height, width)
    return min(spec.input_size[0] / height, spec.input_size[1] / width)


@dataclass(frozen=True)
class _Match:
    """What one picture's persons tell: of joints that both models have, and of the first's persons."""

    distances: Floats
    shares: Floats
    similarity: NDArray[np.float64]
    lost: int
    added: int


def _match(first: Poses, second: Poses, spec: ModelSpec, scale: float) -> _Match:
    """Pair the persons, each once, by falling similarity; top-down they stand in the same order."""
    if spec.task == "topdown":
        first, second = _seen(first, second)
    boxes = [keypoint_boxes(poses.keypoints) for poses in (first, second)]
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in boxes]
    table = np.zeros((len(first.keypoints), len(second.keypoints)))
    for i, joints in enumerate(first.keypoints):
        table[i] = oks(joints, second.keypoints, float(areas[0][i]), areas[1], spec.skeleton.sigmas)
    pairs: Sequence[tuple[int, int]]
    if spec.task == "topdown":
        pairs = [(i, i) for i in range(len(first.keypoints))]
    else:
        pairs = most_similar_pairs(table, MATCHED)
    distances, shares, similarity = [], [], np.zeros(len(first.keypoints))
    for i, j in pairs:
        distance = np.linalg.norm(first.keypoints[i] - second.keypoints[j], axis=1)
        distance = distance[~np.isnan(distance)]
        side = max(float((boxes[0][i, 2:] - boxes[0][i, :2]).max()), 1 / scale)  # a single joint has none
        distances.append(distance * scale)
        shares.append(distance / side)
        similarity[i] = table[i, j]
    empty = np.zeros(0, np.float32)
    return _Match(
        np.concatenate([empty, *distances]),
        np.concatenate([empty, *shares]),
        similarity,
        len(first.keypoints) - len(pairs),
        len(second.keypoints) - len(pairs),
    )


def _seen(first: Poses, second: Poses) -> tuple[Poses, Poses]:
    """Top-down poses without the joints that the first model does not see.

    Where there is no joint, the map is flat, and the least change moves its peak across the picture.
    """
    seen = first.scores > JOINT_SCORE_FLOOR
    rows = np.flatnonzero(seen.any(axis=1))
    marked = replace(first, keypoints=np.where(seen[:, :, None], first.keypoints, np.float32(np.nan)))
    return marked.take(rows), second.take(rows)


def _ratio(value: float, reference: float) -> float:
    """Of a difference to what it differs from; two that are zero everywhere do not differ."""
    if reference > 0:
        return float(value) / float(reference)
    return np.inf if value > 0 else 0.0


def _rounded(value: float) -> float | None:
    """Six digits; JSON has neither NaN nor infinity."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None
