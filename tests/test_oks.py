"""Similarity of poses with missing joints; whole poses are compared with the official code in training."""

from __future__ import annotations

import numpy as np
import pytest

from edgepose.oks import most_similar_pairs, oks, oks_nms

SIGMAS = (0.1, 0.1, 0.05)
POSE = np.array([[10.0, 10.0], [30.0, 20.0], [50.0, 40.0]])
NAN = np.full(2, np.nan)


def changed(**joints: tuple[float, float]) -> np.ndarray:
    pose = POSE.copy()
    for name, value in joints.items():
        pose[int(name[1])] = value
    return pose


def test_the_mean_is_over_the_joints_that_both_have() -> None:
    shifted = changed(j0=(14.0, 10.0))
    one = float(oks(POSE[:1], shifted[None, :1], 1000.0, np.array([600.0]), SIGMAS[:1])[0])
    assert one == pytest.approx(np.exp(-16 / 0.04 / 800 / 2))
    others = np.stack(
        [shifted, changed(j0=(14.0, 10.0), j2=(np.nan, np.nan)), np.full_like(POSE, np.nan), POSE]
    )
    found = oks(POSE, others, 1000.0, np.full(4, 600.0), SIGMAS)
    np.testing.assert_allclose(found, [(one + 2) / 3, (one + 1) / 2, 0, 1])
    partial = changed(j1=(np.nan, np.nan))
    np.testing.assert_allclose(
        oks(partial, others, 1000.0, np.full(4, 600.0), SIGMAS), [(one + 1) / 2, one, 0, 1]
    )


def test_parts_of_a_person_go_with_the_whole() -> None:
    part = changed(j1=(np.nan, np.nan))
    rest = np.stack([NAN, POSE[1], NAN])
    poses = np.stack([part, POSE, POSE + 200, rest])
    kept = oks_nms(poses, np.array([0.5, 0.9, 0.7, 0.2]), np.full(4, 900.0), SIGMAS, 0.9)
    assert kept.tolist() == [1, 2]
    # Two halves share no joint: nothing says that they are the same person.
    halves = np.stack([part, rest])
    assert oks_nms(halves, np.array([0.5, 0.2]), np.full(2, 900.0), SIGMAS, 0.0).tolist() == [0, 1]


def test_persons_without_extent() -> None:
    points = np.stack([np.stack([POSE[0], NAN, NAN])] * 2 + [np.stack([POSE[0] + 1, NAN, NAN])])
    assert oks_nms(points, np.ones(3), np.zeros(3), SIGMAS, 0.5).tolist() == [0, 2]


def test_pairs_by_falling_similarity() -> None:
    table = np.array([[0.9, 0.8, 0.0], [0.85, 0.3, 0.2]])
    assert most_similar_pairs(table, 0.25) == [(0, 0), (1, 1)]
    assert most_similar_pairs(table, 0.5) == [(0, 0)]
    assert table[0, 0] == 0.9
    assert most_similar_pairs(np.zeros((2, 0)), 0.1) == most_similar_pairs(np.zeros((0, 2)), 0.1) == []
