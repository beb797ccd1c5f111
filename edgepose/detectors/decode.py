"""From a detector's outputs to boxes of persons in pixels of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepose.detectors.families import Layout
from edgepose.detectors.nms import nms
from edgepose.errors import InvalidInputError

__all__ = ["Candidates", "decode", "holds_pixels"]

MOST = 1000
"""So many candidates, the best, are looked at in a picture: their suppression takes time by the square."""

Floats = NDArray[np.float32]


class Candidates(NamedTuple):
    """Boxes of one picture.

    Attributes:
        boxes: (n, 4) float32 xyxy in pixels of the input, 0 at its left and upper edge.
        scores: (n,) float32, falling.
    """

    boxes: Floats
    scores: Floats


def holds_pixels(values: NDArray[Any], width: int) -> bool:
    """Whether a grid's output (b, a, 5 + c) gives pixels of the input, else offsets within cells.

    Official YOLOX exports leave this step to us or do it, with outputs of the same shape. Centres in pixels
    spread over the whole input, offsets are of about one cell.
    """
    return bool(np.median(np.abs(values[..., 0])) > width / 8)


def decode(
    layout: Layout,
    outputs: Sequence[NDArray[Any]],
    size: tuple[int, int],
    *,
    person_class: int = 0,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.65,
    in_pixels: bool = False,
) -> list[Candidates]:
    """Take the persons of each picture from a network's outputs.

    Args:
        layout: what they hold.
        outputs: those that `layout` names; any floating point type.
        size: (height, width) of the input.
        person_class: index of the class to take.
        score_threshold: lower scores are left out. YOLOX's are objectness times class.
        iou_threshold: for `nms`, where doubles are in the outputs.
        in_pixels: of a grid, see `holds_pixels`.

    Raises:
        InvalidInputError: a box holds NaN or infinity.
    """
    main = outputs[0]
    if layout.kind == "anchors":
        scores, places = main[:, 4 + person_class], np.moveaxis(main[:, :4], 1, 2)
    elif layout.kind == "grid":
        scores = main[:, :, 4].astype(np.float32) * main[:, :, 5 + person_class]
        places = main[:, :, :4]
    else:
        classes = main[:, :, 5] if layout.kind == "rows" else (outputs[1] if len(outputs) > 1 else None)
        scores, places = main[:, :, 4], main[:, :, :4]
        if classes is not None:
            scores = np.where(classes == person_class, scores, 0)
    scores = scores.astype(np.float32, copy=False)
    found = []
    for score, place in zip(scores, places, strict=True):
        rows = np.flatnonzero((score >= score_threshold) & (score > 0))  # rows of 0 fill up a batch
        rows = rows[np.argsort(-score[rows], kind="stable")[:MOST]]
        boxes, kept = place[rows].astype(np.float32), np.minimum(score[rows], 1)
        if not np.isfinite(boxes).all():
            raise InvalidInputError(
                "the detector's boxes hold NaN or infinity; found it in its output "
                f"{layout.outputs[0]!r}; export it with float32"
            )
        if layout.kind in ("anchors", "grid"):
            if layout.kind == "grid" and not in_pixels:
                boxes = _in_pixels(boxes, rows, layout.strides, size)
            half = boxes[:, 2:] / 2
            boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
            best = nms(boxes, kept, iou_threshold)
            boxes, kept = boxes[best], kept[best]
        found.append(Candidates(boxes, kept))
    return found


def _in_pixels(
    places: Floats, rows: NDArray[np.intp], strides: Sequence[int], size: tuple[int, int]
) -> Floats:
    """Centres and sizes (n, 4) in pixels, of the cells with these numbers.

    Cells are numbered row by row, grid after grid. A centre is an offset from the cell's upper left corner
    and a size a logarithm, both in cells.

    Source: YOLOX (Ge et al. 2021, section 2.1); its official export.
    """
    corners = np.empty((len(rows), 2), np.float32)
    steps = np.empty((len(rows), 1), np.float32)
    start = 0
    for stride in strides:
        height, width = size[0] // stride, size[1] // stride
        mine = (rows >= start) & (rows < start + height * width)
        y, x = np.divmod(rows[mine] - start, width)
        corners[mine] = np.stack([x, y], axis=1)
        steps[mine] = stride
        start += height * width
    sides = np.exp(np.minimum(places[:, 2:], 16))  # far beyond any picture, and finite
    return np.concatenate([(places[:, :2] + corners) * steps, sides * steps], axis=1)
