"""Drawing: the right joints, on a copy, at every picture size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepose import InvalidInputError, PoseResult, draw_pose, lsp14
from edgepose.drawing import LEFT, PERSONS, RIGHT

pytest.importorskip("cv2")

LEFT_WRIST, RIGHT_WRIST = lsp14.index("left_wrist"), lsp14.index("right_wrist")


def pose(size: tuple[int, int], joints: dict[int, tuple[float, float, float]]) -> PoseResult:
    keypoints = np.full((1, 14, 2), np.nan)
    scores = np.zeros((1, 14))
    for joint, (x, y, score) in joints.items():
        keypoints[0, joint], scores[0, joint] = (x * size[1], y * size[0]), score
    return PoseResult(
        keypoints=keypoints,
        scores=scores,
        boxes=[[0, 0, size[1], size[0]]],
        person_scores=[1],
        skeleton=lsp14,
        image_size=size,
    )


@pytest.mark.parametrize("size", [(180, 320), (720, 1280), (2160, 3840)])
def test_sides_have_their_colours_at_every_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    result = pose(size, {LEFT_WRIST: (0.7, 0.5, 1), RIGHT_WRIST: (0.3, 0.5, 1)})
    drawn = result.draw(image)
    assert (image == 90).all()
    y = size[0] // 2
    assert np.abs(drawn[y, round(0.7 * size[1])] - np.array(LEFT)).max() < 40
    assert np.abs(drawn[y, round(0.3 * size[1])] - np.array(RIGHT)).max() < 40
    changed = (drawn != 90).any(axis=2)
    assert 0.00002 < changed.mean() < 0.01
    assert changed.any(axis=1).sum() >= 4


def test_lines_grow_with_the_person() -> None:
    limb = (lsp14.index("left_elbow"), LEFT_WRIST)

    def drawn(length: float) -> int:
        size = (1000, 1000)
        joints = {limb[0]: (0.1, 0.5, 1.0), limb[1]: (0.1 + length, 0.5, 1.0)}
        picture = pose(size, joints).draw(np.zeros((*size, 3), np.uint8))
        return int(picture[:, 100 + int(length * 500)].any(axis=1).sum())

    assert drawn(0.8) > drawn(0.2) >= 3


def test_several_persons_have_colours_of_their_own() -> None:
    elbow, size = lsp14.index("left_elbow"), (400, 400)
    keypoints = np.full((3, 14, 2), np.nan)
    for person in range(3):
        keypoints[person, [elbow, LEFT_WRIST]] = [[50, 100 * person + 80], [350, 100 * person + 80]]
    result = PoseResult(
        keypoints=keypoints,
        scores=np.ones((3, 14)),
        boxes=np.tile([0, 0, 399, 399], (3, 1)),
        person_scores=np.ones(3),
        skeleton=lsp14,
        image_size=size,
    )
    image = np.zeros((*size, 3), np.uint8)
    drawn = result.draw(image)
    assert [tuple(drawn[y, 200].tolist()) for y in (80, 180, 280)] == list(PERSONS[:3])
    assert np.abs(drawn[80, 350].astype(int) - LEFT).max() < 40
    tracked = replace(result, track_ids=np.array([len(PERSONS) + 4, 2, 0])).draw(image)
    assert [tuple(tracked[y, 200].tolist()) for y in (80, 180, 280)] == [PERSONS[4], PERSONS[2], PERSONS[0]]
    assert tuple(result[[1]].draw(image)[180, 200].tolist()) == LEFT


def test_unsure_and_missing_joints_are_left_out() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    assert not pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 0.19)}).draw(image).any()
    assert pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 0.2)}).draw(image).any()
    assert pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 0.1)}).draw(image, min_score=0.05).any()
    assert not pose((100, 100), {}).draw(image).any()
    assert not PoseResult.empty(lsp14, (100, 100)).draw(image).any()


def test_joints_far_outside_do_no_harm() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    result = pose((100, 100), {LEFT_WRIST: (1e7, 0.5, 1), lsp14.index("left_elbow"): (-3, 0.5, 1)})
    assert draw_pose(image, result).shape == image.shape


def test_strided_views_can_be_drawn_on() -> None:
    image = np.zeros((100, 200, 3), np.uint8)[:, ::2, ::-1]
    assert pose((100, 100), {LEFT_WRIST: (0.5, 0.5, 1)}).draw(image).any()


def test_other_arrays_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="grey"):
        draw_pose(np.zeros((10, 10), np.uint8), PoseResult.empty(lsp14, (10, 10)))
