"""Run a model file on annotated people and score what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgepose._inputs import overlaps
from edgepose.errors import InvalidInputError
from edgepose.estimator import Estimator
from edgepose.evaluation.ap import set_ap
from edgepose.evaluation.coco import PictureSet
from edgepose.evaluation.people import People, Pictures
from edgepose.evaluation.scorers import Scorer
from edgepose.pipeline.geometry import box_to_region

__all__ = ["find_joints", "score_people", "score_pictures"]


def _no_step(_: int) -> None:
    pass


def score_people(
    estimator: Estimator, scorer: Scorer, step: Callable[[int], None] = _no_step
) -> dict[str, float]:
    """The scorer's table of figures of a top-down model; see `find_joints`."""
    return scorer.table(*find_joints(estimator, scorer.people, step))


def find_joints(
    estimator: Estimator, people: People, step: Callable[[int], None] = _no_step
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints (n, k, 2) in pixels of each person's picture, and scores (n, k), by a top-down model.

    Each person's region is used as it is: padding is part of it, and the model's own adds none. Of people
    whose box lies outside of their picture nothing is looked for: their joints are NaN, their scores 0.

    Args:
        estimator: of the people's skeleton.
        people: whose joints are not looked at; those of one picture who follow each other are looked for in
            one call.
        step: called with the number of people done since the last call.

    Raises:
        InvalidInputError: the model is bottom-up, or has another skeleton.
    """
    spec = estimator.info.spec
    _check_skeleton(estimator, people.skeleton.name, spec.skeleton == people.skeleton)
    if spec.task != "topdown":
        raise InvalidInputError(
            f"cannot look for people in boxes; found that {spec.name!r} is bottom-up; score it on whole "
            "pictures, or give a top-down model"
        )
    centers, extents = box_to_region(people.boxes, spec.input_size, 1 / spec.padding)
    boxes = np.concatenate([centers - extents / 2, centers + extents / 2], 1)
    joints = np.full((len(people), len(people.skeleton), 2), np.nan, np.float32)
    scores = np.zeros(joints.shape[:2], np.float32)
    for rows in _by_picture(people):
        image = people.images[rows[0]]
        usable = rows[overlaps(boxes[rows], image.shape[:2])]
        if len(usable):
            result = estimator(image, boxes=boxes[usable])
            joints[usable], scores[usable] = result.keypoints, result.scores
        step(len(rows))
    return joints, scores


def score_pictures(
    estimator: Estimator, pictures: PictureSet, step: Callable[[int], None] = _no_step
) -> dict[str, float]:
    """AP and its companions of what a model finds by itself in whole pictures, from 0 to 1; see `set_ap`.

    Args:
        estimator: bottom-up, or with a detector. Joints of its skeleton that the pictures' lacks do not
            count (`PictureSet.mapped`).
        pictures: annotated.
        step: called with 1 for each picture.

    Raises:
        InvalidInputError: the skeletons share no joint, or a picture is missing.
    """
    mapped = pictures.mapped(estimator.info.spec.skeleton)
    found = []
    for picture in mapped.pictures:
        found.append(estimator(picture.image()))
        step(1)
    return set_ap(mapped, found)


def _check_skeleton(estimator: Estimator, wanted: str, same: bool) -> None:
    if not same:
        spec = estimator.info.spec
        raise InvalidInputError(
            f"cannot score {spec.name!r} on people of {wanted}; found that its skeleton is "
            f"{spec.skeleton.name}; give a model or data of the same skeleton"
        )


def _by_picture(people: People) -> Iterator[NDArray[np.int64]]:
    """Numbers of the people, those of one picture who follow each other together."""
    sources = people.images.sources if isinstance(people.images, Pictures) else people.images
    start = 0
    for end in range(1, len(sources) + 1):
        if end == len(sources) or not _same(sources[end], sources[start]):
            yield np.arange(start, end)
            start = end


def _same(source: object, other: object) -> bool:
    return source is other or (not isinstance(source, np.ndarray) and source == other)
