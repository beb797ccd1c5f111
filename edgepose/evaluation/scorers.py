"""How the joints found for people are scored: PCK on Leeds Sports Pose, PCKh on MPII, AP on COCO."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.evaluation.ap import set_ap
from edgepose.evaluation.coco import Candidates, PictureSet
from edgepose.evaluation.metrics import lsp_torso, pck, pck_table, pckh_table
from edgepose.evaluation.mpii import HeadTruth
from edgepose.evaluation.people import People
from edgepose.oks import oks_nms
from edgepose.pipeline.geometry import box_to_region
from edgepose.pipeline.poses import Poses
from edgepose.pipeline.topdown import person_score

__all__ = ["CocoScorer", "LspScorer", "MpiiScorer", "Scorer", "countable"]

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
