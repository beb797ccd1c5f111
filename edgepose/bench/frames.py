"""Camera frames with any number of people, made from the packaged photo."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.samples import PERSON, PERSON_BOXES
from edgepose.sources import read_image

__all__ = ["people_frame", "person_side"]

GREY = 128
LEAST_SIDE = 32
"""Pixels of the smallest copies of the photo."""


def person_side(persons: int, size: tuple[int, int]) -> int:
    """Side in pixels of so many equal square cells in a frame of (height, width).

    It is a third of the frame's height, or as large as fits where there are many.

    Raises:
        InvalidInputError: they would be too small.
    """
    height, width = size
    # The largest side fits the rows or the columns exactly, whichever number of them that is.
    sides = {height // rows for rows in range(3, persons + 3)}
    sides |= {width // columns for columns in range(3, persons + 3)}
    fitting = (s for s in sides if 0 < s <= height // 3 and (height // s) * (width // s) >= persons)
    side = max(fitting, default=0)
    if side < LEAST_SIDE:
        raise InvalidInputError(
            f"{persons} persons do not fit a frame of {width}x{height} pixels; found {side} pixels for each; "
            "give a larger frame or fewer persons"
        )
    return side


def people_frame(persons: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A grey frame with copies of the packaged photo of a person, row by row.

    Args:
        persons: how many.
        size: (height, width) in pixels.

    Returns:
        BGR uint8 (height, width, 3), and the persons' boxes (n, 4) xyxy in pixels.

    Raises:
        InvalidInputError: they would be too small.
    """
    side = person_side(persons, size)
    cv2 = require_cv2("making frames")
    photo = read_image(PERSON)
    scale = side / max(photo.shape[:2])
    copy = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:side, :side]
    ((*box,),) = json.loads(PERSON_BOXES.read_text())
    frame = np.full((*size, 3), GREY, np.uint8)
    columns = size[1] // side
    boxes = np.tile(np.array(box, np.float32) * np.float32(scale), (persons, 1))
    for person in range(persons):
        row, column = divmod(person, columns)
        y, x = row * side, column * side
        frame[y : y + copy.shape[0], x : x + copy.shape[1]] = copy
        boxes[person] += (x, y, x, y)
    return frame, boxes
