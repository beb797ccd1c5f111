"""How the joints found for people are scored: PCK on Leeds Sports Pose, PCKh on MPII, AP on COCO."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.ap import set_ap
from edgepose.evaluation.coco import Candidates, PictureSet
from edgepose.evaluation.metrics import lsp_torso, pck, pck_table, pckh_table
from edgepose.evaluation.mpii import HeadTruth, head_box_file, load_head_truth, load_mpii
from edgepose.evaluation.people import People
from edgepose.oks import oks_nms
from edgepose.pipeline.geometry import box_to_region
from edgepose.pipeline.poses import Poses
from edgepose.pipeline.topdown import person_score

__all__ = ["CocoScorer", "LspScorer", "MpiiScorer", "Scorer", "countable", "score_coco", "score_mpii"]

OKS_LIMIT = 0.9
"""Poses more similar than this to a better one are dropped, as in the official evaluation."""


class Scorer(Protocol):
    """People who are not trained on, and how the joints found for them are scored.

    Attributes:
        people: in whose regions joints are looked for.
        figure: name of the single figure, the higher the better.
        headline: the row of the table that it is.
    """

    people: People
    figure: str
    headline: str

    def table(self, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> dict[str, float]:
        """Figures by name of joints (n, k, 2) in pixels of the people's pictures, and scores (n, k)."""


class LspScorer:
    """PCK@0.2 by joint in percent of those that are `countable`, see `pck_table`."""

    figure, headline = "pck", "mean"

    def __init__(self, people: People) -> None:
        self.people = people

    def table(self, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> dict[str, float]:
        people = self.people
        per_joint = pck(joints, people.joints, lsp_torso(people.joints), counted=countable(people))
        return pck_table(per_joint, people.skeleton)


class MpiiScorer:
    """PCKh in percent, see `pckh_table`.

    Args:
        people: as `load_mpii` returns them.
        located: (m,), which rows of the truth they are; the joints of the others count as not found.
        truth: of all m people of the annotation file.

    Raises:
        InvalidInputError: the truth is of another number of people, or no joint of it counts.
    """

    figure, headline = "pckh", "mean"

    def __init__(self, people: People, located: NDArray[np.bool_], truth: HeadTruth) -> None:
        if len(truth.joints) != len(located):
            raise InvalidInputError(
                f"the truth of PCKh does not fit; found {len(truth.joints)} people, the annotations have "
                f"{len(located)}; give the evaluation file of the same part"
            )
        if not truth.counted.any():
            raise InvalidInputError(
                f"nobody to score; found no joint that counts in PCKh among {len(located)} people; give a "
                "part with labelled joints and heads"
            )
        self.people = people
        self._located = located
        self._truth = truth

    def table(self, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> dict[str, float]:
        truth = self._truth
        found = np.full(truth.joints.shape, np.nan)
        found[self._located] = joints
        return pckh_table(found, truth.joints, truth.head_sizes, truth.counted)


class CocoScorer:
    """AP by object keypoint similarity from 0 to 1, see `set_ap`.

    Args:
        pictures: all that are scored.
        candidates: people looked for in them.
        input_size: (height, width) of the network's input.
    """

    figure, headline = "AP", "AP"

    def __init__(self, pictures: PictureSet, candidates: Candidates, input_size: tuple[int, int]) -> None:
        self.people = candidates.people
        _, extents = box_to_region(candidates.people.boxes, input_size, padding=1.0)
        self._areas = extents.prod(1)
        self._pictures = pictures
        self._candidates = candidates

    def table(self, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> dict[str, float]:
        return set_ap(self._pictures, self.poses(joints, scores))

    def poses(self, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> list[Poses]:
        """The persons of each picture as SimpleBaseline, HRNet and LPN hand them in, the best first.

        A person's score is that of its joints (`person_score`) times that of its box; similar persons
        are dropped, the areas being those of their regions. Boxes are those of the joints, by which the
        evaluation takes a person's size.
        """
        candidates = self._candidates
        person_scores = person_score(scores) * candidates.scores
        joints = np.nan_to_num(joints)
        boxes = np.concatenate([joints.min(1), joints.max(1)], 1)
        found = Poses(joints, scores, None, person_scores, boxes)
        bounds = np.searchsorted(candidates.owners, np.arange(len(self._pictures) + 1))
        poses = []
        for first, last in pairwise(bounds):
            mine = slice(first, last)
            kept = oks_nms(
                joints[mine], person_scores[mine], self._areas[mine], self.people.skeleton.sigmas, OKS_LIMIT
            )
            poses.append(found.take(first + kept))
        return poses


def countable(people: People) -> NDArray[np.bool_]:
    """Joints (n, k) that count in PCK on LSP: those labelled, of people whose torso is."""
    torso = [people.skeleton.index(name) for name in ("left_shoulder", "right_hip")]
    return (people.visible > 0) & (people.visible[:, torso] > 0).all(1, keepdims=True)


def score_mpii(
    annotations: Path, images: Path, padding: float, *, head_boxes: bool = True, limit: int | None = None
) -> MpiiScorer:
    """The people of an annotation file of MPII, see `load_mpii`.

    Args:
        annotations: such as ``valid.json``, beside it the evaluation's own ``gt_valid.mat``.
        images: folder of the pictures.
        padding: factor by which regions grow.
        head_boxes: the evaluation's file must be there; else head sizes may be taken from the joints
            (`HeadTruth.of_people`).
        limit: at most so many people, the first.

    Raises:
        InvalidInputError: a file or folder is missing, or not in the format.
    """
    people, located = load_mpii(annotations, images, padding)
    path = head_box_file(annotations)
    if path is not None:
        truth = load_head_truth(path)
    elif head_boxes:
        raise InvalidInputError(
            f"cannot compute PCKh on {annotations}; found no gt_{annotations.stem}.mat beside it, which has "
            "the head boxes; docs/training.md says where to get it"
        )
    else:
        truth, located = HeadTruth.of_people(people), np.ones(len(people), bool)
    if limit is not None and limit < len(people):
        rows = int(np.flatnonzero(located)[limit - 1]) + 1
        truth = HeadTruth(truth.joints[:rows], truth.head_sizes[:rows], truth.counted[:rows])
        people, located = people[:limit], located[:rows]
    return MpiiScorer(people, located, truth)


def score_coco(
    pictures: PictureSet, input_size: tuple[int, int], padding: float, detections: Path | None = None
) -> CocoScorer:
    """People of pictures one by one, in annotated boxes or in those of a detector's result file.

    Raises:
        InvalidInputError: nobody is found, or the file of detections is not usable.
    """
    candidates = pictures.people(padding) if detections is None else pictures.detected(detections, padding)
    if not len(candidates.people):
        raise InvalidInputError(
            f"nobody to score; found no person with labelled joints in {len(pictures)} pictures; give "
            "another file"
        )
    return CocoScorer(pictures, candidates, input_size)
