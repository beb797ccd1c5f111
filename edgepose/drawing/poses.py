"""Poses drawn on pictures: joints coloured by side, limbs by side or, among several, by person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose._inputs import check_number, check_result, check_switch, name_nearest
from edgepose.drawing.canvas import Image, to_canvas
from edgepose.drawing.colors import Color, Palette, to_palette
from edgepose.drawing.labels import Label, draw_labels
from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.result import PoseResult

__all__ = ["draw_pose"]

_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
_ONE = 1 << _SHIFT
_SMOOTH_PERSONS = 5
"""Among more the outlines of limbs are not smoothed, which takes a fifth of the time and is hardly seen."""
_MAX_COORDINATE = 1 << 14  # OpenCV's fixed point overflows beyond


@name_nearest
def draw_pose(
    image: Image,
    result: PoseResult,
    *,
    min_score: float = 0.2,
    palette: str | Palette = "auto",
    boxes: bool = False,
    ids: bool = True,
    scores: bool = False,
    labels: Sequence[str] | None = None,
    ellipses: float | None = None,
    inplace: bool = False,
) -> Image:
    """Draw the poses on a copy of a picture.

    The person's left side is orange, the right side blue. Where there are several persons, or persons with
    identities, their joints stay so, and the limbs of each have a colour of its own: that of its track, or
    of its place in the result. Lines scale with the person and the picture, texts with the picture. Joints
    that are missing or score below `min_score` are left out.

    Args:
        image: BGR uint8 (H, W, 3), the picture that `result` belongs to.
        result: the poses.
        min_score: lowest score of a joint that is drawn.
        palette: ``"auto"``: colours as above; ``"sides"`` or ``"persons"``: limbs always so; or a `Palette`.
        boxes: draw the persons' boxes.
        ids: write the track of each person where the result has tracks.
        scores: write the score of each person, and fill each joint's mark the more, the higher its score is.
        labels: a text per person, written after its track.
        ellipses: draw the covariance of each joint as an ellipse of so many standard deviations.
        inplace: draw on `image` itself.

    Returns:
        A new picture, or `image` with `inplace`.

    Raises:
        InvalidInputError: `image` is no BGR uint8 picture or an option is not usable; or ellipses of a
            result without covariance.
        TypeError: an unknown keyword; the message names the nearest one.
        BackendUnavailableError: OpenCV is not installed.
    """
    check_result(result)
    colors = to_palette(palette)
    check_number("min_score", min_score, 0, None)
    for name, value in (("boxes", boxes), ("ids", ids), ("scores", scores)):
        check_switch(name, value)
    texts = _texts(result, ids, scores, labels)
    axes = None if ellipses is None else _ellipses(result, ellipses)
    canvas = to_canvas(image, inplace)
    cv2 = require_cv2("drawing")
    if not len(result):
        return canvas

    shapes = _Shapes.of(result, min_score, max(canvas.shape[:2]), scores=scores, small=axes is not None)
    sides, limbs = colors.of_joints(result.skeleton), colors.of_limbs(result.skeleton)
    edges = np.array(result.skeleton.edges, np.intp).reshape(-1, 2)
    several = len(result) > 1 or result.track_ids is not None
    numbers = range(len(result)) if result.track_ids is None else result.track_ids.tolist()
    owns = [colors.of_person(number) if several else colors.middle for number in numbers]
    by_person = colors.limbs == "persons" or (colors.limbs == "auto" and several)
    # The smaller persons last, since they would vanish under the larger ones.
    order = np.argsort(-shapes.extent, kind="stable").tolist()
    if boxes:
        for i in order:
            _draw_box(cv2, canvas, result.boxes[i], owns[i], colors.outline)
    for i in order:
        groups: dict[Color, list[int]] = {}
        for edge, color in enumerate(limbs):
            groups.setdefault(owns[i] if by_person else color, []).append(edge)
        _draw_limbs(cv2, canvas, shapes, i, groups, edges, colors.outline)
        if axes is not None:
            _draw_ellipses(cv2, canvas, shapes, i, sides, colors.outline, axes)
        _draw_joints(cv2, canvas, shapes, i, sides, colors)
    if any(texts):
        anchors = [_anchor(result, shapes, i, boxes) for i in order]
        labels_of = zip(order, anchors, strict=True)
        placed = [Label(texts[i], owns[i], where) for i, where in labels_of if texts[i] and where is not None]
        draw_labels(canvas, placed, colors.outline)
    return canvas


def _texts(result: PoseResult, ids: bool, scores: bool, labels: Sequence[str] | None) -> list[str]:
    """What is written at each person."""
    n = len(result)
    if labels is not None and (isinstance(labels, str) or len(labels) != n):
        raise InvalidInputError(
            f"labels do not fit the persons; found {labels!r}; give {n} texts, one for each"
        )
    parts: list[list[str]] = [[] for _ in range(n)]
    if ids and result.track_ids is not None:
        for part, number in zip(parts, result.track_ids.tolist(), strict=True):
            part.append(str(number))
    if labels is not None:
        for part, label in zip(parts, labels, strict=True):
            part.append(str(label))
    if scores:
        for part, score in zip(parts, result.person_scores.tolist(), strict=True):
            part.append(f"{score:.2f}")
    return [" ".join(filter(None, part)) for part in parts]


@dataclass(frozen=True)
class _Shapes:
    """Where and how large everything is drawn, for all persons at once.

    Attributes:
        visible: (n, k), the joints that are drawn.
        bounds: (n, 4) xyxy of the visible joints; infinite where there are none.
        extent: (n,) diagonal of the visible joints, in pixels.
        width: (n,) of the limbs, in pixels.
        outline: (n,) of what surrounds limbs and joints, in pixels.
        points: (n, k, 2) in sixteenths of a pixel; 0 where not visible.
        radii: (n, k, 3) of a mark's outline, ring and core, in sixteenths of a pixel.
    """

    visible: NDArray[np.bool_]
    bounds: NDArray[np.float32]
    extent: NDArray[np.float32]
    width: NDArray[np.float32]
    outline: NDArray[np.float32]
    points: NDArray[np.int32]
    radii: list[list[list[int]]]

    @classmethod
    def of(cls, result: PoseResult, min_score: float, side: int, *, scores: bool, small: bool) -> _Shapes:
        """Measure the persons of a result for a picture whose longer side is given.

        With `scores` they decide how far marks are filled; `small` marks leave ellipses to be seen.
        """
        points = result.keypoints
        # Missing joints are NaN, which is not below the limit.
        visible = (np.abs(points) < _MAX_COORDINATE).all(axis=2) & (result.scores >= min_score)
        low = np.where(visible[:, :, None], points, np.inf).min(axis=1)
        high = np.where(visible[:, :, None], points, -np.inf).max(axis=1)
        extent = np.hypot(*np.maximum(high - low, 0).T)
        least, most = max(1.0, 0.0025 * side), max(2.0, 0.012 * side)
        width = np.clip(0.012 * extent, least, most)
        # A tiny person in a large picture would vanish under lines that fit the picture.
        width = np.where(extent > 0, np.minimum(width, np.maximum(1, 0.025 * extent)), width)
        outline = np.maximum(1, 0.3 * width)

        points = np.where(visible[:, :, None], points, 0)
        gaps = np.hypot(*np.moveaxis(points[:, :, None] - points[:, None], -1, 0))
        gaps[(gaps == 0) | ~visible[:, None] | ~visible[:, :, None]] = np.inf
        # Joints that lie close together (a face) get smaller marks, so that each can be seen.
        ring = np.maximum(0.5 * gaps.min(axis=2), np.maximum(0.7 * width, 1)[:, None])
        ring = np.minimum(ring, np.maximum(1.15 * width, 1.6)[:, None])
        ring = np.maximum(0.5 * ring, 1) if small else ring
        # In a mark of a few pixels a ring within the outline would leave no room for the side's colour.
        core = 0.8 * np.sqrt(result.scores) if scores else np.where(ring < 2.5, 1, 0.65)
        radii = np.stack([ring + outline[:, None], ring, core * ring], axis=2)
        return cls(
            visible=visible,
            bounds=np.concatenate([low, high], axis=1),
            extent=extent,
            width=width,
            outline=outline,
            points=np.rint(points * _ONE).astype(np.int32),
            radii=np.rint(radii * _ONE).astype(int).tolist(),
        )


def _draw_limbs(
    cv2: Any,
    canvas: Image,
    shapes: _Shapes,
    person: int,
    groups: dict[Color, list[int]],
    edges: NDArray[np.intp],
    outline: Color,
) -> None:
    """Limbs, all those of one colour at once, over their outlines."""
    visible = shapes.visible[person]
    edge = cv2.LINE_AA if len(shapes.points) <= _SMOOTH_PERSONS else cv2.LINE_8
    line = max(1, round(float(shapes.width[person])))
    wide = max(line + 2, round(float(shapes.width[person] + 2 * shapes.outline[person])))
    drawn = []
    for color, members in groups.items():
        pairs = edges[members]
        pairs = pairs[visible[pairs].all(axis=1)]
        if len(pairs):
            drawn.append((shapes.points[person][pairs], color))
    for segments, _ in drawn:
        cv2.polylines(canvas, segments, False, outline, wide, edge, _SHIFT)
    for segments, color in drawn:
        cv2.polylines(canvas, segments, False, color, line, cv2.LINE_AA, _SHIFT)


def _draw_joints(
    cv2: Any, canvas: Image, shapes: _Shapes, person: int, sides: list[Color], colors: Palette
) -> None:
    """Marks of three discs: outline, ring and the colour of the side."""
    points, radii = shapes.points[person].tolist(), shapes.radii[person]
    filled, smooth = cv2.FILLED, cv2.LINE_AA
    for joint in np.flatnonzero(shapes.visible[person]).tolist():
        point, (outer, ring, core) = points[joint], radii[joint]
        cv2.circle(canvas, point, outer, colors.outline, filled, cv2.LINE_8, _SHIFT)
        if ring > core:
            cv2.circle(canvas, point, ring, colors.middle, filled, smooth, _SHIFT)
        cv2.circle(canvas, point, core, sides[joint], filled, smooth, _SHIFT)


def _draw_box(cv2: Any, canvas: Image, box: NDArray[np.float32], color: Color, outline: Color) -> None:
    """A box with a dark edge, as far as it lies in the picture."""
    if not np.isfinite(box).all():
        return
    height, width = canvas.shape[:2]
    line = max(1, round(0.0016 * max(height, width)))
    x1, x2 = np.rint(np.clip(box[::2], 0, width - 1)).astype(int).tolist()
    y1, y2 = np.rint(np.clip(box[1::2], 0, height - 1)).astype(int).tolist()
    for wide, paint in ((line + 2 * max(1, line // 2), outline), (line, color)):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), paint, wide)


def _ellipses(result: PoseResult, sigmas: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Half axes (n, k, 2) in pixels, NaN where unknown, and the first one's angle (n, k) in degrees."""
    check_number("ellipses", sigmas, 0, None)
    if result.covariance is None:
        if len(result):
            raise InvalidInputError(
                "ellipses cannot be drawn; found a result without covariance; leave them out, or use a model "
                "whose decoder gives it (soft_argmax)"
            )
        return np.zeros((0, len(result.skeleton), 2)), np.zeros((0, len(result.skeleton)))
    covariance = result.covariance.astype(np.float64)
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    middle, half = (a + c) / 2, np.hypot((a - c) / 2, b)
    axes = sigmas * np.sqrt(np.maximum(np.stack([middle + half, middle - half], axis=2), 0))
    return axes, np.degrees(np.arctan2(2 * b, a - c) / 2)


def _draw_ellipses(
    cv2: Any,
    canvas: Image,
    shapes: _Shapes,
    person: int,
    sides: list[Color],
    outline: Color,
    ellipses: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    axes, angles = ellipses[0][person], ellipses[1][person]
    usable = shapes.visible[person] & (axes < _MAX_COORDINATE).all(axis=1)
    points = shapes.points[person].tolist()
    line = max(1, round(0.3 * float(shapes.width[person])))
    smooth = cv2.LINE_AA if line < 3 else cv2.LINE_8  # thick curves take long to smooth, and need it less
    for joint in np.flatnonzero(usable).tolist():
        half = np.rint(axes[joint] * _ONE).astype(int).tolist()
        place = points[joint], half, float(angles[joint]), 0, 360
        cv2.ellipse(canvas, *place, outline, line + 2, cv2.LINE_8, _SHIFT)
        cv2.ellipse(canvas, *place, sides[joint], line, smooth, _SHIFT)


def _anchor(
    result: PoseResult, shapes: _Shapes, person: int, boxes: bool
) -> tuple[float, float, float, float] | None:
    """What a label keeps off: the box where it is drawn, else the joints with the space of their marks.

    None where nothing of the person is drawn.
    """
    if boxes and np.isfinite(result.boxes[person]).all():
        x1, y1, x2, y2 = result.boxes[person].tolist()
        return x1, y1, x2, y2
    if not shapes.visible[person].any():
        return None
    x1, y1, x2, y2 = shapes.bounds[person].tolist()
    space = 1.5 * float(shapes.width[person] + shapes.outline[person])
    return x1 - space, y1 - space, x2 + space, y2 + space
