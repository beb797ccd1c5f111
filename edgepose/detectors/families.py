"""Families of detectors: the pictures that their networks take, and what their outputs mean.

Sources: YOLOX (Ge et al. 2021) and its official ONNX export; RTMDet (Lyu et al. 2022) and MMDetection's
YOLOX as MMDeploy exports them, with suppression inside; the ONNX exports of Ultralytics' YOLOv8 and later.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edgepose.errors import InvalidInputError, ModelFormatError

__all__ = ["FAMILIES", "FILL", "Family", "Layout", "grid_cells", "person_class_of", "recognise"]

FILL = 114
"""Grey level around the picture, the same in all families."""
STRIDES = ((8, 16, 32), (8, 16, 32, 64))
"""Pixels of a grid's cells, of networks with three and with four grids."""

Kind = Literal["grid", "anchors", "rows", "dets"]


@dataclass(frozen=True)
class Family:
    """How the networks of a family take a picture, scaled to fit with its aspect kept.

    Attributes:
        name: as options give it.
        color: order of the channels.
        mean, std: in that order, for ``(value / 255 - mean) / std``.
        centered: whether the picture lies in the middle of the input, else in its top left corner.
        iou_threshold: for suppression, where the file leaves that to us; as the family is evaluated.
    """

    name: str
    color: Literal["bgr", "rgb"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    centered: bool
    iou_threshold: float


def _grey(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (value / 255 for value in values)
    return first, second, third


FAMILIES = {
    family.name: family
    for family in (
        Family("yolox", "bgr", (0, 0, 0), _grey((1, 1, 1)), False, 0.65),
        Family(
            "rtmdet", "bgr", _grey((103.53, 116.28, 123.675)), _grey((57.375, 57.12, 58.395)), False, 0.65
        ),
        Family("yolov8", "rgb", (0, 0, 0), (1, 1, 1), True, 0.7),
    )
}


class Layout(NamedTuple):
    """What a network's outputs hold.

    Attributes:
        family: what pictures the network takes.
        kind: ``"grid"``: (b, a, 5 + c) centre and size in cells or, decoded, in pixels, objectness, and
            classes; ``"anchors"``: (b, 4 + c, a) centre and size in pixels, and classes; ``"rows"``:
            (b, n, 6) xyxy, score and class; ``"dets"``: (b, n, 5) xyxy and score, with (b, n) classes in
            an output of their own, or none. The last two are free of doubles.
        outputs: names of those to read.
        strides: of a grid, as `STRIDES`.
        classes: how many the network tells apart; None where the outputs do not show it.
    """

    family: Family
    kind: Kind
    outputs: tuple[str, ...]
    strides: tuple[int, ...] = ()
    classes: int | None = None


def grid_cells(size: tuple[int, int], strides: Sequence[int]) -> int:
    """Cells of the grids on an input of this (height, width)."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in strides)


def recognise(
    where: str,
    outputs: Mapping[str, Sequence[int]],
    size: tuple[int, int],
    *,
    family: str | None = None,
    first: Collection[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> Layout:
    """Tell a network's family and what its outputs hold.

    Args:
        where: the file, for messages.
        outputs: their shapes by name, as a run gave them.
        size: (height, width) of the input.
        family: among `FAMILIES`, where it is known.
        first: operators that the input goes into. YOLOX alone begins by slicing it.
        metadata: what the file says of itself; Ultralytics tells the ``task``.

    Raises:
        ModelFormatError: they are the outputs of no family, or not those of `family`.
    """
    metadata = metadata or {}
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ModelFormatError(
            f"cannot use {where} as a detector; its metadata says task {task!r}; give a model that was "
            "trained to detect"
        )
    layout = _match(outputs, size, family, first, bool(metadata.get("task")))
    if layout is None or (family is not None and layout.family.name != family):
        told = ", ".join(f"{name} {list(shape)}" for name, shape in outputs.items())
        cells = " or ".join(str(grid_cells(size, strides)) for strides in STRIDES)
        raise ModelFormatError(
            f"cannot use {where} as a detector; found outputs {told} for an input of {size[1]}x{size[0]}, "
            f"which are not those of {f'family {family!r}' if family else 'any known family'}; give YOLOX "
            f"(b, {cells}, 5 + classes), YOLOv8 (b, 4 + classes, {cells}) or (b, n, 6), or MMDeploy's dets "
            "(b, n, 5) and labels (b, n); or a function of your own that returns boxes"
        )
    return layout


def _match(
    outputs: Mapping[str, Sequence[int]],
    size: tuple[int, int],
    family: str | None,
    first: Collection[str],
    ultralytics: bool,
) -> Layout | None:
    """The layout of these outputs, None where it is none of those known."""
    dets = _dets(outputs)
    if dets is not None:
        name = family or ("yolox" if "Slice" in first else "rtmdet")
        return Layout(FAMILIES[name], "dets", dets)
    if len(outputs) != 1:
        return None
    ((name, shape),) = outputs.items()
    if len(shape) != 3:
        return None
    _, rows, columns = shape
    yolov8 = FAMILIES["yolov8"]
    strides = next((each for each in STRIDES if grid_cells(size, each) == rows), None)
    if family != "yolov8" and not ultralytics and strides is not None and columns > 5:
        return Layout(FAMILIES["yolox"], "grid", (name,), strides, columns - 5)
    if family in ("yolox", "rtmdet"):
        return None
    told = family == "yolov8" or ultralytics
    if columns == 6 and (told or strides is None):
        return Layout(yolov8, "rows", (name,))
    fits = any(grid_cells(size, each) == columns for each in STRIDES)
    if rows > 4 and (fits or (told and columns > rows)):
        return Layout(yolov8, "anchors", (name,), (), rows - 4)
    return None


def _dets(outputs: Mapping[str, Sequence[int]]) -> tuple[str, ...] | None:
    """The outputs with boxes and their classes, or with boxes alone, of a network that leaves out doubles."""
    boxes = [name for name, shape in outputs.items() if len(shape) == 3 and shape[2] == 5]
    classes = [name for name, shape in outputs.items() if len(shape) == 2]
    if len(boxes) != 1 or len(classes) > 1 or (len(outputs) > 1 and not classes):
        return None
    if classes and list(outputs[classes[0]]) != list(outputs[boxes[0]][:2]):
        return None
    return (*boxes, *classes)


def person_class_of(where: str, metadata: Mapping[str, str]) -> int:
    """The class that a detector's metadata call a person; 0, as in COCO, where they name none.

    Raises:
        InvalidInputError: there are names, several, and none is that of a person.
    """
    try:
        names = ast.literal_eval(metadata.get("names", "{}"))
        known = {int(key): str(name).lower() for key, name in dict(names).items()}
        known = {key: name for key, name in known.items() if not name.isdigit()}  # numbers name nothing
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        known = {}
    for key, name in known.items():
        if name in ("person", "people", "pedestrian", "human"):
            return key
    if len(known) > 1:
        told = ", ".join(repr(name) for name in list(known.values())[:8])
        raise InvalidInputError(
            f"cannot tell which class of {where} is a person; found {told}; give person_class="
        )
    return 0
