"""Short texts on plates, placed so that they do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from edgepose.drawing.canvas import Image
from edgepose.drawing.colors import Color
from edgepose.optional import require_cv2

__all__ = ["Label", "draw_labels"]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)

Rectangle = tuple[int, int, int, int]


class Label(NamedTuple):
    """A text and what it belongs to.

    Attributes:
        text: what is written; OpenCV 4 knows ASCII alone.
        color: BGR of the plate.
        anchor: x1, y1, x2, y2 in pixels; the text goes above it, else inside or below.
    """

    text: str
    color: Color
    anchor: tuple[float, float, float, float]


def draw_labels(canvas: Image, labels: Sequence[Label], outline: Color) -> None:
    """Write labels on a picture, in the size that fits it, the first with the first choice of place."""
    side = max(canvas.shape[:2])
    height = max(8, round(0.0115 * side))
    placed: list[Rectangle] = []
    for label in labels:
        plate = _plate(label.text, height, label.color, outline)
        left, top, right, bottom = _place(plate.shape[:2], label.anchor, canvas.shape[:2], placed)
        placed.append((left, top, right, bottom))
        region = canvas[top:bottom, left:right]  # smaller than the plate where the picture is
        region[:] = plate[: region.shape[0], : region.shape[1]]


@lru_cache(maxsize=256)
def _plate(text: str, height: int, color: Color, outline: Color) -> Image:
    """A text on a ground of its colour, with capitals of this height in pixels."""
    cv2 = require_cv2("drawing")
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = height / cv2.getTextSize("0", font, 1.0, 1)[0][1]
    thickness = max(1, round(height / 9))
    (width, _), baseline = cv2.getTextSize(text, font, scale, thickness)
    edge, margin = max(1, round(height / 14)), max(2, round(height / 4))
    below = baseline if any(letter in "gjpqy,;_()[]{}|" for letter in text) else 0
    rows, columns = height + below + 2 * (edge + margin), width + 2 * (edge + margin)
    plate = np.full((rows, columns, 3), outline, np.uint8)
    plate[edge:-edge, edge:-edge] = color
    # Luma of the ground decides between black and white letters.
    ink = BLACK if np.dot(color, (0.114, 0.587, 0.299)) > 110 else WHITE
    corner = edge + margin, edge + margin + height
    cv2.putText(plate, text, corner, font, scale, ink, thickness, cv2.LINE_AA)
    return plate


def _place(
    size: tuple[int, int], anchor: Sequence[float], picture: tuple[int, int], placed: Sequence[Rectangle]
) -> Rectangle:
    """Where a label goes: x1, y1, x2, y2. The first place that is free, or that which covers least."""
    height, width = size
    x1, y1, x2, y2 = anchor
    middle = (x1 + x2 - width) / 2
    best, least = (0, 0, width, height), math.inf
    for x, y in (
        (middle, y1 - height),
        (middle, y1 - 2 * height),
        (x2, y1),
        (x1 - width, y1),
        (middle, y2),
        (middle, y2 + height),
    ):
        left = round(min(max(x, 0), max(picture[1] - width, 0)))
        top = round(min(max(y, 0), max(picture[0] - height, 0)))
        found = (left, top, left + width, top + height)
        covered = sum(_overlap(found, other) for other in placed)
        if covered < least:
            best, least = found, covered
        if not covered:
            break
    return best


def _overlap(a: Rectangle, b: Rectangle) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0
