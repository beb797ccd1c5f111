"""The filter of each joint, and what stays consistent with it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepose import InvalidInputError, OneEuro, PoseResult, Tracker, lsp14
from edgepose.pipeline.bottomup import keypoint_boxes
from tests.moving import FIGURE, SIZE, person, picture


def track(people: list[np.ndarray], ids: list[int] | None = None, **fields: Any) -> PoseResult:
    return picture(people, track_ids=np.arange(1, len(people) + 1) if ids is None else ids, **fields)


def smoothed(smoother: OneEuro, film: list[np.ndarray], **fields: Any) -> np.ndarray:
    """The only person of each picture: (t, 17, 2)."""
    return np.array([smoother.update(picture([joints], **fields)).keypoints[0] for joints in film])


def paper_filter(
    values: list[float],
    times: list[float],
    size: list[float],
    min_cutoff: float,
    beta: float,
    d_cutoff: float,
) -> list[float]:
    """Algorithm 1 of the paper for one coordinate, its speed in sizes per second."""

    def alpha(cutoff: float, period: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau / period)

    out, slope = [values[0]], 0.0
    for i in range(1, len(values)):
        period = times[i] - times[i - 1]
        rate = alpha(d_cutoff, period)
        slope = rate * (values[i] - out[-1]) / period + (1 - rate) * slope
        part = alpha(min_cutoff + beta * abs(slope) / size[i], period)
        out.append(part * values[i] + (1 - part) * out[-1])
    return out


def test_as_in_the_paper() -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 0.1, 40)) + 5
    film = [person(500 + x, height=250) for x in np.cumsum(rng.normal(2, 6, 40))]
    smoother = OneEuro(min_cutoff=0.7, beta=3.0, d_cutoff=2.0)
    found = [
        smoother.update(picture([joints], scores=1.0), float(time)).keypoints[0]
        for joints, time in zip(film, times, strict=True)
    ]
    size = [float(np.ptp(joints, axis=0).max()) for joints in film]
    for joint in (0, 9):
        values = [float(joints[joint, 0]) for joints in film]
        expected = paper_filter(values, times.tolist(), size, 0.7, 3.0, 2.0)
        np.testing.assert_allclose([joints[joint, 0] for joints in found], expected, atol=2e-3)
        assert np.abs(np.array(expected) - values).max() > 2  # it does smooth


def test_still_at_rest_and_fast_in_motion() -> None:
    rng = np.random.default_rng(0)
    still = [person(500) + rng.normal(0, 1, (17, 2)) for _ in range(200)]
    quiet = smoothed(OneEuro(), still)
    rough, smooth = (np.abs(np.diff(film[20:], 2, axis=0)).mean() for film in (np.array(still), quiet))
    assert smooth < 0.35 * rough

    walk = [person(100 + 12 * t) for t in range(90)]  # 1.2 sizes per second
    behind = [(walk[-1] - smoothed(OneEuro(beta=beta), walk)[-1])[:, 0].mean() for beta in (0.0, 10.0)]
    assert behind[0] > 40
    assert behind[1] < 8


def test_size_makes_no_difference() -> None:
    rng = np.random.default_rng(0)
    film = np.cumsum(rng.normal(0, 0.01, (30, 17, 2)), axis=0) + FIGURE
    small, large = (smoothed(OneEuro(), list(film * size + 50)) - 50 for size in (100, 800))
    np.testing.assert_allclose(large / 8, small, atol=1e-3)


def test_joints_of_low_score_are_smoothed_more() -> None:
    step = [person(500)] * 5 + [person(503)]
    moved = [smoothed(OneEuro(), step, scores=score)[-1, 0, 0] - step[0][0, 0] for score in (0.1, 0.5, 1.0)]
    assert 0 < moved[0] < 0.8 * moved[1]
    assert moved[1] < 0.9 * moved[2]
    assert moved[2] < 3


def test_missing_joints_start_anew() -> None:
    film = [person(500 + 20 * t) for t in range(12)]
    for joints in film[4:7]:
        joints[9] = np.nan
    found = smoothed(OneEuro(), film)
    assert np.isnan(found[4:7, 9]).all()
    assert np.isfinite(found[:, :9]).all()
    np.testing.assert_array_equal(found[7, 9], film[7][9].astype(np.float32))
    assert (found[8, 9] != film[8][9].astype(np.float32)).any()
    assert (found[7, 8] != film[7][8].astype(np.float32)).any()


def test_each_person_by_itself() -> None:
    rng = np.random.default_rng(0)
    films = {
        number: [person(x) + rng.normal(0, 3, (17, 2)) for _ in range(30)]
        for number, x in ((4, 200), (9, 900))
    }
    alone = {number: smoothed(OneEuro(), film) for number, film in films.items()}
    together = OneEuro()
    for t in range(30):
        order = [9, 4] if t % 2 else [4, 9]
        result = together.update(track([films[number][t] for number in order], order))
        for number, joints in zip(order, result.keypoints, strict=True):
            np.testing.assert_array_equal(joints, alone[number][t])


def test_a_person_who_was_away_goes_on() -> None:
    smoother = OneEuro(beta=0.0)
    here = [person(500), person(900)]
    for _ in range(10):
        smoother.update(track(here))
    for _ in range(3):
        smoother.update(track(here[1:], [2]))
    back = smoother.update(track([here[0] + 30], [1])).keypoints[0]
    assert (back - here[0]).mean() == pytest.approx(
        30 * (r := 2 * math.pi * 0.84 * 4 / 30) / (1 + r), abs=0.1
    )
    # After long it is a new beginning.
    for _ in range(70):
        smoother.update(track([]))
    np.testing.assert_array_equal(
        smoother.update(track([here[0]], [1])).keypoints[0], here[0].astype(np.float32)
    )


def test_the_past_does_not_grow() -> None:
    smoother = OneEuro()
    for number in range(500):
        smoother.update(track([person(500)], [number]))
    assert smoother._past is not None
    assert len(smoother._past.rows) <= 62
    assert len(smoother._past.joints) == len(smoother._past.rows) + 1


def test_times_from_the_source() -> None:
    film = [person(500), person(520), person(510)]

    def run(*fields: dict[str, Any], **options: Any) -> np.ndarray:
        smoother = OneEuro(**options)
        return np.array(
            [smoother.update(picture([j], **f)).keypoints for j, f in zip(film, fields, strict=True)]
        )

    slow = run(*({"time_ms": t * 200.0} for t in range(3)))
    np.testing.assert_allclose(run(*({"frame": 6 * t} for t in range(3))), slow, atol=1e-3)
    np.testing.assert_allclose(run({}, {}, {}, fps=5), slow, atol=1e-3)
    assert np.abs(run({}, {}, {}) - slow).max() > 1
    smoother = OneEuro()
    smoother.update(picture([film[0]]), 3.0)
    with pytest.raises(InvalidInputError, match="timestamp must grow"):
        smoother.update(picture([film[0]]), 3.0)


def test_covariance_is_that_of_the_mixture() -> None:
    """Joint and covariance are the moments of samples of which each filter step keeps its share."""
    rng = np.random.default_rng(0)
    smoother = OneEuro(min_cutoff=3.0, beta=0.0)
    points, weights = np.zeros((0, 2)), np.zeros(0)
    for t in range(8):
        cloud = rng.normal(0, 5, (50, 2)) @ rng.normal(0, 1, (2, 2)) + person(500 + 15 * t)[3]
        mean, moments = cloud.mean(axis=0), np.cov(cloud.T, bias=True)
        joints = person(500 + 15 * t)
        joints[3] = mean
        result = smoother.update(picture([joints], scores=1.0, covariance=np.tile(moments, (1, 17, 1, 1))))
        ratio = 2 * math.pi * 3.0 / 30
        share = ratio / (1 + ratio) if t else 1.0
        points = np.concatenate([points, cloud])
        weights = np.concatenate([weights * (1 - share), np.full(50, share / 50)])
        expected = weights @ points
        gaps = points - expected
        np.testing.assert_allclose(result.keypoints[0, 3], expected, rtol=1e-5)
        assert result.covariance is not None
        np.testing.assert_allclose(result.covariance[0, 3], (weights[:, None] * gaps).T @ gaps, rtol=1e-3)


def test_covariance_may_be_there_at_times() -> None:
    smoother, moments = OneEuro(), np.tile(np.eye(2) * 9, (1, 17, 1, 1))
    for covariance in (None, moments, moments, None, moments):
        result = smoother.update(picture([person(500)], covariance=covariance))
        if covariance is None:
            assert result.covariance is None
        else:
            np.testing.assert_allclose(result.covariance, moments, rtol=1e-5)


def test_boxes_of_the_joints_follow_them() -> None:
    rng = np.random.default_rng(0)
    smoother = OneEuro()
    fixed = np.array([[0, 0, 1279, 719]], np.float32)
    for _ in range(5):
        people = [person(400) + rng.normal(0, 5, (17, 2)), person(900)]
        boxes = np.concatenate([keypoint_boxes(np.array(people[:1], np.float32)), fixed])
        given_ = track(people, boxes=boxes)
        result = smoother.update(given_)
    np.testing.assert_array_equal(result.boxes[:1], keypoint_boxes(result.keypoints[:1]))
    assert (result.boxes[0] != given_.boxes[0]).any()
    np.testing.assert_array_equal(result.boxes[1:], fixed)
    for name in ("scores", "person_scores", "track_ids"):
        np.testing.assert_array_equal(getattr(result, name), getattr(given_, name))


def test_who_is_who_must_be_known() -> None:
    smoother = OneEuro()
    with pytest.raises(InvalidInputError, match=r"found 2 persons without track_ids; give .*Tracker\.update"):
        smoother.update(picture([person(300), person(800)]))
    with pytest.raises(InvalidInputError, match=r"track_ids must differ .* found \[3, 3\]"):
        smoother.update(track([person(300), person(800)], [3, 3]))
    assert len(smoother.update(picture([]))) == 0
    assert len(smoother.update(track([]))) == 0
    smoother.update(picture([person(300)]))
    with pytest.raises(InvalidInputError, match="found 'lsp14' after 'coco17'"):
        smoother.update(PoseResult.empty(lsp14, SIZE))
    smoother.reset()
    assert len(smoother.update(PoseResult.empty(lsp14, SIZE))) == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("min_cutoff", 0), ("min_cutoff", "low"), ("beta", -1), ("d_cutoff", 0), ("fps", math.inf)],
)
def test_unusable_options(option: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=option):
        OneEuro(**{option: value})
    with pytest.raises(TypeError, match="did you mean 'min_cutoff'"):
        OneEuro(mincutoff=1.0)  # type: ignore[call-arg]


def test_after_a_tracker() -> None:
    rng = np.random.default_rng(0)
    tracker, smoother = Tracker(), OneEuro()
    for t in range(60):
        people = [person(200 + 8 * t, 340), person(1000 - 8 * t, 380)]
        noisy = [joints + rng.normal(0, 2, (17, 2)) for joints in people]
        result = smoother.update(tracker.update(picture(noisy)))
        if t > 10 and not 40 <= t <= 60:
            assert result.track_ids is not None
            assert result.track_ids.tolist() == [1, 2]
            assert np.abs(result.keypoints - np.array(people)).mean() < 5


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.1, 20), st.floats(0, 50))
def test_between_the_past_and_the_present(seed: int, n: int, min_cutoff: float, beta: float) -> None:
    def film() -> list[PoseResult]:
        rng = np.random.default_rng(seed)
        results = []
        for _ in range(8):
            joints = rng.uniform(0, 700, (n, 17, 2))
            joints[rng.random((n, 17)) < 0.2] = np.nan
            results.append(
                track(list(joints), rng.choice(6, n, replace=False).tolist(), scores=rng.random(n))
            )
        return results

    pictures = film()
    smoother, again = (OneEuro(min_cutoff=min_cutoff, beta=beta) for _ in range(2))
    last: dict[int, np.ndarray] = {}
    for shown, same in zip(pictures, film(), strict=True):
        result = smoother.update(shown)
        np.testing.assert_array_equal(result.keypoints, again.update(same).keypoints)
        assert result.track_ids is not None
        np.testing.assert_array_equal(np.isnan(result.keypoints), np.isnan(shown.keypoints))
        for number, raw, joints in zip(
            result.track_ids.tolist(), shown.keypoints, result.keypoints, strict=True
        ):
            before = np.where(np.isnan(last.get(number, raw)), raw, last.get(number, raw))
            there = np.isfinite(raw)
            assert (joints >= np.minimum(before, raw) - 1e-3)[there].all()
            assert (joints <= np.maximum(before, raw) + 1e-3)[there].all()
            last[number] = joints
