"""Pictures annotated as COCO keypoints: all people of a picture, or one by one."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.people import People, Pictures, check_files, pad_boxes, read_picture
from edgepose.optional import require
from edgepose.skeleton import Skeleton, coco17, crowdpose14

__all__ = ["Candidates", "Picture", "PictureSet", "load_coco", "load_crowdpose", "read_annotations"]


@dataclass(frozen=True)
class Picture:
    """A picture and its people; nothing of it is loaded.

    Attributes:
        id: in the annotation file.
        path: of the picture.
        size: (height, width).
        joints: (p, k, 2) pixels of the people that have labelled joints.
        visible: (p, k), 1 where labelled (occluded joints too), else 0.
        boxes: (p, 4) xyxy.
        areas: (p,) square pixels of the person's segment, or 0.53 of its box where there is none.
        unlabelled: annotations of crowds and of people without joints.
        crowding: CrowdPose's crowd index, or None.
    """

    id: int
    path: Path
    size: tuple[int, int]
    joints: NDArray[np.float32]
    visible: NDArray[np.float32]
    boxes: NDArray[np.float32]
    areas: NDArray[np.float64]
    unlabelled: tuple[dict[str, Any], ...] = ()
    crowding: float | None = None

    def image(self) -> NDArray[np.uint8]:
        """BGR uint8 (h, w, 3).

        Raises:
            InvalidInputError: the file is missing, damaged, or of another size than annotated.
        """
        image = read_picture(self.path)
        if image.shape[:2] != self.size:
            raise InvalidInputError(
                f"picture {self.path} is not the annotated one; found (height, width) {image.shape[:2]}, "
                f"the annotation says {self.size}; fetch the data set again"
            )
        return image

    def mask(self) -> NDArray[np.float32]:
        """(h, w): 0 on crowds and on people without labelled joints, else 1.

        A person that has no segment is masked by its box.
        """
        mask = np.ones(self.size, np.float32)
        for annotation in self.unlabelled:
            mask[_segment(annotation, self.size)] = 0
        return mask


@dataclass(frozen=True)
class Candidates:
    """Where to look for people in the pictures of a set.

    Attributes:
        people: their padded regions, and, if annotated, their joints.
        owners: (n,) number of each one's picture in the set, in rising order.
        scores: (n,) of the detector; 1 where the box is annotated.
    """

    people: People
    owners: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class PictureSet:
    """Annotated pictures of one skeleton.

    Attributes:
        skeleton: order of the joints.
        pictures: in the order of the file.
    """

    skeleton: Skeleton
    pictures: tuple[Picture, ...]

    @property
    def most(self) -> int:
        """The most people with labelled joints of a picture."""
        return max((len(picture.joints) for picture in self.pictures), default=0)

    @cached_property
    def labelled_joints(self) -> NDArray[np.bool_]:
        """(k,): joints that are labelled anywhere in the set."""
        shown = [picture.visible.any(0) for picture in self.pictures if len(picture.visible)]
        return np.any(shown, 0) if shown else np.ones(len(self.skeleton), bool)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, chosen: slice) -> PictureSet:
        return PictureSet(self.skeleton, self.pictures[chosen])

    def labelled(self) -> PictureSet:
        """The pictures that have people with labelled joints: those to train on."""
        return PictureSet(self.skeleton, tuple(p for p in self.pictures if len(p.joints)))

    def mapped(self, skeleton: Skeleton) -> PictureSet:
        """The same people with the joints of another skeleton, by name; those unknown here are not labelled.

        Raises:
            InvalidInputError: the skeletons share no joint.
        """
        shared = [name for name in skeleton.joints if name in self.skeleton.joints]
        if not shared:
            raise InvalidInputError(
                f"cannot map {self.skeleton.name} to {skeleton.name}; found no joint of the same name; "
                "use data whose joints the skeleton has"
            )
        own, others = ([s.index(name) for name in shared] for s in (self.skeleton, skeleton))
        pictures = []
        for picture in self.pictures:
            joints = np.zeros((len(picture.joints), len(skeleton), 2), np.float32)
            visible = np.zeros(joints.shape[:2], np.float32)
            joints[:, others], visible[:, others] = picture.joints[:, own], picture.visible[:, own]
            pictures.append(replace(picture, joints=joints, visible=visible))
        return PictureSet(skeleton, tuple(pictures))

    def people(self, padding: float = 1.0) -> Candidates:
        """Each person with labelled joints by itself, as top-down networks are trained.

        Boxes are cleaned as HRNet's data set cleans them: cut at the picture, the last pixel included;
        people without area, and those whose box lies outside of the picture, are left out.

        Args:
            padding: factor by which the boxes grow; 1.25 for the official models.
        """
        sources, joints, visible, boxes, owners = [], [], [], [], []
        for number, picture in enumerate(self.pictures):
            height, width = picture.size
            low = np.maximum(picture.boxes[:, :2], 0)
            extent = np.maximum(picture.boxes[:, 2:] - picture.boxes[:, :2] - 1, 0)
            high = np.minimum(low + extent, np.array([width - 1, height - 1], np.float32))
            usable = (high >= low).all(1) & (high > low).any(1) & (picture.areas > 0)
            kept = np.flatnonzero(usable & picture.visible.any(1))
            sources += [picture.path] * len(kept)
            owners += [number] * len(kept)
            joints.append(picture.joints[kept])
            visible.append(picture.visible[kept])
            boxes.append(np.concatenate([low, high], 1)[kept])
        count = len(self.skeleton)
        people = People(
            skeleton=self.skeleton,
            images=Pictures(sources),
            joints=np.concatenate([np.zeros((0, count, 2), np.float32), *joints]),
            visible=np.concatenate([np.zeros((0, count), np.float32), *visible]),
            boxes=pad_boxes(np.concatenate([np.zeros((0, 4), np.float32), *boxes]), padding),
        )
        return Candidates(people, np.array(owners, np.int64), np.ones(len(people), np.float32))

    def detected(self, detections: Path, padding: float = 1.0) -> Candidates:
        """Boxes that a detector found in these pictures, those of one picture after the other.

        They are taken as they are, without cleaning, as the official evaluation takes them; boxes of
        other categories, of other pictures, and without extent are left out.

        Args:
            detections: result file in COCO's format: objects of ``image_id``, ``category_id`` (1: person),
                ``bbox`` (x, y, width, height in pixels) and ``score``.
            padding: factor by which the boxes grow; 1.25 for the official models.

        Raises:
            InvalidInputError: the file is missing, not in the format, or has no person of these pictures.
        """
        numbers = {picture.id: number for number, picture in enumerate(self.pictures)}
        found = []
        try:
            for entry in json.loads(detections.read_bytes()):
                x, y, w, h = (float(value) for value in entry["bbox"])
                number = numbers.get(entry["image_id"])
                extended = min(w, h) >= 0 and max(w, h) > 0
                if number is not None and entry["category_id"] == 1 and extended:
                    found.append((number, float(entry["score"]), (x, y, x + w, y + h)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"cannot read detections {detections}; {type(error).__name__}: {error}; give a JSON list "
                "of boxes in COCO's result format"
            ) from error
        if not found:
            raise InvalidInputError(
                f"no detections in {detections}; found no person in the {len(self)} pictures to evaluate "
                "on; give the boxes of these pictures"
            )
        found.sort(key=lambda entry: entry[0])
        count = len(self.skeleton)
        people = People(
            skeleton=self.skeleton,
            images=Pictures([self.pictures[number].path for number, _, _ in found]),
            joints=np.zeros((len(found), count, 2), np.float32),
            visible=np.zeros((len(found), count), np.float32),
            boxes=pad_boxes(np.array([box for _, _, box in found]), padding),
        )
        owners = np.array([number for number, _, _ in found], np.int64)
        return Candidates(people, owners, np.array([score for _, score, _ in found], np.float32))


def load_coco(annotations: Path, images: Path, *, ids: Collection[int] | None = None) -> PictureSet:
    """COCO keypoints, for instance ``person_keypoints_val2017.json`` and ``val2017/``.

    Args:
        annotations: JSON file.
        images: folder of the pictures, which are loaded when they are used.
        ids: of the pictures to take; None: all.

    Raises:
        InvalidInputError: a file or folder is missing, or not in the format.
    """
    return read_annotations(annotations, images, coco17, ids)


def load_crowdpose(annotations: Path, images: Path, *, ids: Collection[int] | None = None) -> PictureSet:
    """CrowdPose (Li et al., CVPR 2019), for instance ``crowdpose_trainval.json`` and ``images/``.

    Crowded pictures, 14 joints, and a crowd index for each picture. The files have no segments: areas are
    0.53 of the boxes, as its evaluation takes them, and people without labelled joints are masked by their
    boxes. Arguments and errors are those of `load_coco`.
    """
    return read_annotations(annotations, images, crowdpose14, ids)


def read_annotations(
    annotations: Path, images: Path, skeleton: Skeleton, ids: Collection[int] | None = None
) -> PictureSet:
    """Read a keypoint file in COCO's format with people of a given skeleton; see `load_coco`."""
    check_files(annotations, images)
    try:
        content = json.loads(annotations.read_bytes())
        entries = {entry["id"]: entry for entry in content["images"]}
        grouped: dict[int, list[dict[str, Any]]] = {key: [] for key in entries}
        for annotation in content["annotations"]:
            grouped[annotation["image_id"]].append(annotation)
        if ids is not None:
            unknown = sorted(set(ids) - set(entries))
            if unknown:
                raise ValueError(f"it has no pictures {unknown[:5]}")
            entries = {key: entry for key, entry in entries.items() if key in set(ids)}
        pictures = tuple(_picture(entry, grouped[key], images, skeleton) for key, entry in entries.items())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        text = f"{type(error).__name__}: {error}"
        raise InvalidInputError(
            f"cannot read {annotations}; {text}; give COCO keypoints with people of {skeleton.name}"
        ) from error
    return PictureSet(skeleton, pictures)


def _picture(
    entry: dict[str, Any], annotations: list[dict[str, Any]], images: Path, skeleton: Skeleton
) -> Picture:
    count = len(skeleton)
    people, unlabelled = [], []
    for annotation in annotations:
        values = np.array(annotation.get("keypoints") or np.zeros(3 * count), np.float64)
        if values.size != 3 * count:
            raise ValueError(f"a person has {values.size / 3:g} joints, {skeleton.name} has {count}")
        values = values.reshape(count, 3)
        if annotation.get("iscrowd", 0) or not (values[:, 2] > 0).any():
            unlabelled.append(annotation)
        else:
            people.append((annotation, values))
    joints = np.array([values for _, values in people], np.float32).reshape(-1, count, 3)
    visible = (joints[..., 2] > 0).astype(np.float32)
    boxes = np.array([annotation["bbox"] for annotation, _ in people], np.float64).reshape(-1, 4)
    areas = [a.get("area", 0.53 * a["bbox"][2] * a["bbox"][3]) for a, _ in people]
    return Picture(
        id=int(entry["id"]),
        path=images / entry["file_name"],
        size=(int(entry["height"]), int(entry["width"])),
        joints=joints[..., :2] * visible[..., None],
        visible=visible,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).astype(np.float32),
        areas=np.array(areas, np.float64),
        unlabelled=tuple(unlabelled),
        crowding=entry.get("crowdIndex"),
    )


def _segment(annotation: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where an annotation lies (h, w): polygons, run lengths (plain or compressed), or its box."""
    segmentation = annotation.get("segmentation")
    height, width = size
    if segmentation:
        packed = isinstance(segmentation, dict) and isinstance(segmentation["counts"], (str, bytes))
        coco_mask = require("faster_coco_eval.core.mask", "a segment's mask", "edgepose[eval]")
        encoded = segmentation if packed else coco_mask.segmToRle(segmentation, width, height)
        return np.asarray(coco_mask.decode(encoded), bool)
    x, y, w, h = annotation["bbox"]
    inside = np.zeros(size, bool)
    inside[max(int(y), 0) : int(np.ceil(y + h)), max(int(x), 0) : int(np.ceil(x + w))] = True
    return inside
