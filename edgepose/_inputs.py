"""Checks of what an estimator is given."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.pipeline.gpu.device_picture import DevicePicture
from edgepose.result import PoseResult, Source
from edgepose.sources import Frame, check_image, is_video, read_image

__all__ = [
    "MAX_COORDINATE",
    "check_boxes",
    "check_number",
    "check_places",
    "check_result",
    "check_switch",
    "has_area",
    "name_nearest",
    "overlaps",
    "to_frame",
]

MAX_COORDINATE = 1e6

_P = ParamSpec("_P")
_R = TypeVar("_R")


def name_nearest(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let an unknown keyword raise a TypeError that names the nearest known one."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise TypeError(f"unknown argument {name!r}; {hint}")
        return function(*args, **kwargs)

    return checked


def to_frame(image: object, name: str) -> Frame:
    """A picture of any kind as a `Frame`; files are read, and what lies in device memory stays there."""
    if isinstance(image, Frame):
        if not isinstance(image.image, DevicePicture):
            check_image(image.image, name)
        return image
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if isinstance(path, str) and is_video(path) and Path(path).is_file():
            raise InvalidInputError(f"{name} is a video: {path}; use Estimator.stream")
        return Frame(read_image(path), Source(os.fsdecode(path)))
    if hasattr(image, "__cuda_array_interface__"):
        return Frame(DevicePicture.of(image, name))  # type: ignore[arg-type]  # the pipelines know it
    return Frame(check_image(image, name))


def check_boxes(value: Any, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, 4) and scores (n,), checked in shape and values."""
    try:
        with np.errstate(over="ignore"):  # infinity is refused below
            array = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{name} is not an array of numbers; {error}; give (n, 4) xyxy") from error
    if array.size == 0 and array.ndim <= 2:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise InvalidInputError(
            f"{name} has the wrong shape; found {array.shape}; give (n, 4) xyxy, or (n, 5) with a score"
        )
    _reject(~np.all(np.isfinite(array), axis=1), array, name, "holds NaN or infinity", "give finite pixels")
    boxes, scores = array[:, :4], array[:, 4:].reshape(-1) if array.shape[1] == 5 else None
    if scores is None:
        scores = np.ones(len(boxes), np.float32)
    bad = (scores < 0) | (scores > 1)
    _reject(bad, array, name, "has a score outside 0 to 1", "give scores from 0 to 1")
    _reject(np.abs(boxes).max(axis=1, initial=0) > MAX_COORDINATE, boxes, name, "is out of range",
            f"give pixels up to {MAX_COORDINATE:.0f}")  # fmt: skip
    return boxes, scores


def check_places(boxes: NDArray[np.float32], size: Sequence[int], name: str) -> None:
    """Refuse boxes that are empty or outside a picture of this (height, width)."""
    _reject(~has_area(boxes), boxes, name, "is empty", "give x1 < x2 and y1 < y2 (xyxy, not xywh)")
    height, width = size
    _reject(
        ~overlaps(boxes, size), boxes, name,
        f"lies outside the picture of {width}x{height} pixels", "give boxes that overlap it",
    )  # fmt: skip


def has_area(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether boxes hold anything."""
    return np.asarray(np.all(boxes[:, 2:] > boxes[:, :2], axis=1), np.bool_)


def overlaps(boxes: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.bool_]:
    """Whether boxes reach into the picture, which spans -0.5 to width - 0.5."""
    end = np.array([size[1], size[0]], np.float32) - 0.5
    inside = (boxes[:, :2] < end) & (boxes[:, 2:] > -0.5)
    return np.asarray(np.all(inside, axis=1), np.bool_)


def _reject(bad: NDArray[np.bool_], rows: NDArray[Any], name: str, what: str, remedy: str) -> None:
    if bad.any():
        index = int(bad.argmax())
        raise InvalidInputError(f"{name}[{index}] {what}; found {rows[index].tolist()}; {remedy}")


def check_number(name: str, value: Any, low: float, high: float | None, *, whole: bool = False) -> None:
    """Refuse what is no number within these bounds."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    usable = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not usable or value < low or (high is not None and value > high):
        wanted = f"{'a whole number' if whole else 'a number'} of at least {low}"
        wanted = wanted if high is None else f"a number from {low} to {high}"
        raise InvalidInputError(f"{name} is not usable; found {value!r}; give {wanted}")


def check_result(value: Any) -> None:
    """Refuse what is no result of a picture."""
    if not isinstance(value, PoseResult):
        raise InvalidInputError(
            f"not a PoseResult; found {type(value).__name__}; give what an Estimator returns for a picture"
        )


def check_switch(name: str, value: Any, *, none: bool = False) -> None:
    """Refuse what is neither True nor False, nor None where that is allowed."""
    if not isinstance(value, (bool, np.bool_)) and not (none and value is None):
        wanted = "True, False or None" if none else "True or False"
        raise InvalidInputError(f"{name} is not usable; found {value!r}; give {wanted}")
