"""Skeletons: the official joint orders, and definitions that contradict themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgepose import InvalidInputError, Skeleton, coco17, crowdpose14, lsp14, mpii16
from edgepose.skeleton import SKELETONS

ALL = [coco17, mpii16, lsp14, crowdpose14]


@pytest.mark.parametrize("skeleton", ALL)
def test_left_and_right_mirror_each_other(skeleton: Skeleton) -> None:
    assert SKELETONS[skeleton.name] is skeleton
    assert len(skeleton) == int(skeleton.name[-2:])
    order = skeleton.flip_permutation
    assert np.array_equal(order[order], np.arange(len(skeleton)))
    swapped = {"left": "right", "right": "left"}
    for joint, mirrored in zip(skeleton.joints, np.array(skeleton.joints)[order], strict=True):
        side, _, rest = joint.partition("_")
        expected = f"{swapped[side]}_{rest}" if side in swapped else joint
        assert mirrored == expected
    for left, right in skeleton.flip_pairs:
        assert skeleton.sigmas[left] == skeleton.sigmas[right]
        assert skeleton.joints[left].startswith("left_")


@pytest.mark.parametrize("skeleton", ALL)
def test_every_joint_has_an_edge_and_no_edge_stands_twice(skeleton: Skeleton) -> None:
    assert {joint for edge in skeleton.edges for joint in edge} == set(range(len(skeleton)))
    assert len({frozenset(edge) for edge in skeleton.edges}) == len(skeleton.edges)


def test_official_orders() -> None:
    """Joint by joint where the data sets differ (COCO, MPII and LSP annotation files)."""
    assert [coco17.index(j) for j in ("nose", "left_ear", "right_shoulder", "right_ankle")] == [0, 3, 6, 16]
    assert [mpii16.index(j) for j in ("right_ankle", "pelvis", "thorax", "head_top")] == [0, 6, 7, 9]
    assert [mpii16.index(j) for j in ("right_wrist", "left_wrist")] == [10, 15]
    assert [lsp14.index(j) for j in ("right_ankle", "left_ankle", "right_wrist", "neck")] == [0, 5, 6, 12]
    assert [crowdpose14.index(j) for j in ("left_shoulder", "right_ankle", "head", "neck")] == [0, 11, 12, 13]


def test_coco_sigmas_are_the_published_ones() -> None:
    published = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
    assert [round(sigma * 1000) for sigma in coco17.sigmas] == published


@pytest.mark.parametrize("skeleton", ALL)
def test_round_trip(skeleton: Skeleton) -> None:
    assert Skeleton.from_dict(skeleton.to_dict()) == skeleton


def test_an_unknown_joint_lists_the_known() -> None:
    with pytest.raises(InvalidInputError, match=r"no joint 'tail'; it has nose, left_eye"):
        coco17.index("tail")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joints": ("a", "a")}, "distinct"),
        ({"joints": ()}, "present"),
        ({"edges": ((0, 2),)}, "edges"),
        ({"flip_pairs": ((0, -1),)}, "flip_pairs"),
        ({"flip_pairs": ((0, 1), (1, 0))}, "more than one flip pair"),
        ({"sigmas": (0.1,)}, "1 sigmas for 2 joints"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], words: str) -> None:
    fields = {"name": "x", "joints": ("a", "b"), "edges": ((0, 1),), "flip_pairs": (), "sigmas": (1.0, 1.0)}
    with pytest.raises(InvalidInputError, match=words):
        Skeleton(**(fields | changes))


@pytest.mark.parametrize("data", [{}, {"name": "x"}, coco17.to_dict() | {"edges": [[0]]}])
def test_damaged_dicts(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="not a skeleton"):
        Skeleton.from_dict(data)
