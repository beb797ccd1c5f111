"""Poses drawn on pictures: joints coloured by side, limbs by side or, among several, by person."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.optional import require_cv2
from edgepose.result import PoseResult
from edgepose.skeleton import Skeleton
from edgepose.sources import check_image

__all__ = ["draw_pose"]

# BGR; told apart with all common kinds of colour blindness.
LEFT = (40, 150, 255)  # orange
RIGHT = (255, 170, 40)  # blue
MIDDLE = (235, 235, 235)  # white
OUTLINE = (30, 30, 30)
# Neighbours in this list differ most; none is close to the colours of the sides.
PERSONS = (
    (80, 220, 60),  # green
    (200, 60, 220),  # magenta
    (40, 225, 245),  # yellow
    (60, 60, 235),  # red
    (235, 225, 60),  # cyan
    (150, 110, 250),  # pink
    (50, 130, 120),  # olive
    (240, 110, 130),  # violet
)

_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
_MAX_COORDINATE = 1 << 14  # OpenCV's fixed point overflows beyond


def draw_pose(image: NDArray[np.uint8], result: PoseResult, *, min_score: float = 0.2) -> NDArray[np.uint8]:
    """Draw the poses on a copy of a picture.

    The person's left side is orange, the right side blue. Where there are several persons their joints
    stay so, and the limbs of each have a colour of its own: that of its track, or of its place in the
    result. Lines scale with the person and the picture. Joints that are missing or score below
    `min_score` are left out.

    Args:
        image: BGR uint8 (H, W, 3), the picture that `result` belongs to.
        result: the poses.
        min_score: lowest score of a joint that is drawn.

    Returns:
        A new picture.

    Raises:
        InvalidInputError: `image` is no BGR uint8 picture.
        BackendUnavailableError: OpenCV is not installed.
    """
    canvas: NDArray[np.uint8] = np.array(check_image(image), order="C")
    cv2 = require_cv2("drawing")
    sides = _sides(result.skeleton)
    # The smaller persons last, since they would vanish under the larger ones.
    sizes = np.array([_extent(person.keypoints, person.scores, min_score) for person in result])
    for index in np.argsort(-sizes, kind="stable"):
        person = result[int(index)]
        visible = np.isfinite(person.keypoints).all(axis=1) & (person.scores >= min_score)
        number = int(index) if person.track_id is None else person.track_id
        own = PERSONS[number % len(PERSONS)] if len(result) > 1 else None
        _draw_person(cv2, canvas, person.keypoints, visible, result.skeleton, sides, own, float(sizes[index]))
    return canvas


def _sides(skeleton: Skeleton) -> list[tuple[int, int, int]]:
    """Colour of each joint."""
    colors = [MIDDLE] * len(skeleton)
    for left, right in skeleton.flip_pairs:
        if skeleton.joints[left].startswith("right"):
            left, right = right, left
        colors[left], colors[right] = LEFT, RIGHT
    return colors


def _extent(keypoints: NDArray[np.float32], scores: NDArray[np.float32], min_score: float) -> float:
    """Diagonal of the visible joints, in pixels."""
    visible = keypoints[np.isfinite(keypoints).all(axis=1) & (scores >= min_score)]
    return float(np.hypot(*np.ptp(visible, axis=0))) if len(visible) else 0.0


def _draw_person(
    cv2: Any,
    canvas: NDArray[np.uint8],
    keypoints: NDArray[np.float32],
    visible: NDArray[np.bool_],
    skeleton: Skeleton,
    sides: list[tuple[int, int, int]],
    own: tuple[int, int, int] | None,
    extent: float,
) -> None:
    side = max(canvas.shape[:2])
    width = float(np.clip(0.012 * extent, max(1.5, 0.0025 * side), max(2.0, 0.012 * side)))
    outline = max(1.0, 0.3 * width)
    usable = visible & (np.abs(keypoints) < _MAX_COORDINATE).all(axis=1)
    points = np.rint(np.where(usable[:, None], keypoints, 0) * (1 << _SHIFT)).astype(int).tolist()

    limbs = []
    for a, b in skeleton.edges:
        if usable[a] and usable[b]:
            same = sides[a] == sides[b] or sides[b] == MIDDLE
            color = sides[a] if same else sides[b] if sides[a] == MIDDLE else MIDDLE
            limbs.append((points[a], points[b], own or color))
    joints = [(j, points[j], sides[j]) for j in np.flatnonzero(usable)]

    line = max(1, round(width))
    for a, b, _ in limbs:
        cv2.line(canvas, a, b, OUTLINE, max(line + 2, round(width + 2 * outline)), cv2.LINE_AA, _SHIFT)
    for a, b, color in limbs:
        cv2.line(canvas, a, b, color, line, cv2.LINE_AA, _SHIFT)
    for j, point, color in joints:
        # Joints that lie close together (a face) get smaller marks, so that each can be seen.
        gaps = np.hypot(*(keypoints[usable] - keypoints[j]).T)
        nearest = np.min(gaps[gaps > 0], initial=np.inf)
        ring = min(1.15 * width, max(0.5 * float(nearest), 0.7 * width))
        for radius, paint in ((ring + outline, OUTLINE), (ring, MIDDLE), (0.65 * ring, color)):
            scaled = round(radius * (1 << _SHIFT))
            cv2.circle(canvas, point, scaled, paint, cv2.FILLED, cv2.LINE_AA, _SHIFT)
