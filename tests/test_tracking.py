"""Numbers that stay with their persons."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepose import InvalidInputError, OneEuro, PoseResult, Tracker, coco17, lsp14
from edgepose._assignment import assign
from tests.moving import SIZE, person, picture

NAN = np.full((17, 2), np.nan)


def numbers(tracker: Tracker, *pictures: PoseResult) -> list[list[int]]:
    """The numbers in each picture."""
    return [ids(tracker.update(each)) for each in pictures]


def ids(result: PoseResult) -> list[int]:
    assert result.track_ids is not None
    return result.track_ids.tolist()


def only(person_: np.ndarray, joints: list[int]) -> np.ndarray:
    part = NAN.copy()
    part[joints] = person_[joints]
    return part


def test_numbers_are_given_to_those_seen_often_enough() -> None:
    left, right = person(300), person(800)
    found = numbers(Tracker(), *[picture([left])] * 2, *[picture([left, right])] * 4)
    assert found == [[], [], [1], [1], [1, 2], [1, 2]]
    assert numbers(Tracker(min_hits=1), picture([left, right]), picture([right, left])) == [[1, 2], [2, 1]]
    # Not in a row: never.
    assert numbers(Tracker(min_hits=2), *[picture([left]), picture([])] * 5) == [[]] * 10


def test_the_persons_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    people = [person(250), person(600), person(1000)]
    covariance = rng.uniform(1, 5, (3, 17, 2, 2))
    boxes = rng.uniform(0, 99, (3, 4))
    shown = picture(people, scores=[0.9, 0.01, 0.4], covariance=covariance, boxes=boxes, frame=5)
    result = Tracker(min_hits=1).update(shown)
    expected = shown[[0, 2]]
    for name in ("keypoints", "scores", "boxes", "person_scores", "covariance"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), name)
    assert ids(result) == [1, 2]
    assert result.track_ids is not None
    assert result.track_ids.dtype == np.int64
    assert (result.source, result.image_size, result.timings) == (shown.source, SIZE, shown.timings)


def test_two_people_cross() -> None:
    """One walks to the right, one to the left, a little further down; they pass each other in the middle."""
    tracker = Tracker()
    for t in range(100):
        a, b = person(100 + 10 * t, 340), person(1100 - 10 * t, 380)
        result = tracker.update(picture([a, b] if t % 2 else [b, a]))
        # A duplicate of one may go for the moment in which they coincide, but nobody changes the number.
        expected = {1: b[0, 0], 2: a[0, 0]}
        for number, joints in zip(ids(result), result.keypoints, strict=True):
            assert joints[0, 0] == pytest.approx(expected[number], abs=1e-3)
        assert t < 2 or 45 <= t <= 55 or ids(result) in ([1, 2], [2, 1])


@pytest.mark.parametrize("method", ["oks", "iou"])
def test_a_person_is_hidden_while_walking_past_another(method: Any) -> None:
    """The one behind is not seen for half a second, and comes out on the other side."""

    def walk(tracker: Tracker) -> list[int]:
        for t in range(80):
            x = 300 + 9 * t
            shown = [person(640, height=320)] + [person(x)] * (not 31 <= t <= 46)
            result = tracker.update(picture(shown))
        return ids(result)

    assert walk(Tracker(method=method)) == [1, 2]
    assert walk(Tracker(method=method, motion=False)) == [1, 3]


def test_limbs_may_swing_far() -> None:
    tracker = Tracker(min_hits=1)
    waving = person(600)
    for t in range(40):
        waving[[7, 9]] = waving[5] + np.array(
            [[60 * np.cos(t), 60 * np.sin(t)], [120 * np.cos(t), 120 * np.sin(t)]]
        )
        assert ids(tracker.update(picture([waving]))) == [1]


def test_who_stays_away_too_long_is_new() -> None:
    here, away = picture([person(500)]), picture([])
    tracker = Tracker(min_hits=1, max_age=0.5, fps=10)
    assert numbers(tracker, here, *[away] * 4, here) == [[1], *[[]] * 4, [1]]
    assert numbers(tracker, *[away] * 5, here, here) == [*[[]] * 5, [2], [2]]


@pytest.mark.parametrize("kind", ["given", "video", "frames"])
def test_age_is_measured_in_seconds(kind: str) -> None:
    for pause, same in ((0.9, True), (1.1, False)):
        tracker = Tracker(min_hits=1, max_age=1.0, fps=50)
        for time in (10.0, 10.0 + pause):
            fields = {"video": {"time_ms": time * 1000}, "frames": {"frame": round(time * 50)}}.get(kind, {})
            result = tracker.update(picture([person(500)], **fields), time if kind == "given" else None)
        assert ids(result) == [1 if same else 2]


def test_results_that_come_too_slowly_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker()
    shown = picture([person(300)])
    for seconds in (0, 1, 2, 3):
        tracker.update(shown, timestamp=seconds)
    assert not caplog.messages
    assert [ids(tracker.update(shown, timestamp=seconds)) for seconds in (6, 9, 12)] == [[], [], []]
    (message,) = caplog.messages
    assert "found 3 s from one to the other, and max_age is 2; raise it" in message


def test_a_video_that_begins_anew_goes_on() -> None:
    tracker = Tracker(min_hits=1)
    shown = [picture([person(500)], frame=frame, time_ms=frame * 40.0) for frame in (0, 1, 2, 0, 1)]
    assert numbers(tracker, *shown) == [[1]] * 5


def test_leaving_and_appearing() -> None:
    tracker = Tracker(min_hits=1, max_age=0.2)
    seen: list[list[int]] = []
    for t in range(60):
        people = [person(200)] if t < 20 else []
        people += [person(900)] if t >= 10 else []
        people += [person(200)] if t >= 40 else []
        seen.append(ids(tracker.update(picture(people))))
    assert seen[5] == [1]
    assert seen[15] == [1, 2]
    assert seen[30] == [2]
    assert seen[50] == [2, 3]
    tracker.reset()
    assert ids(tracker.update(picture([person(200)]))) == [1]


def test_boxes_tell_where_few_joints_are_common() -> None:
    """Arms and one leg, then the trunk and the other leg: they share the hips alone."""
    whole = person(600)
    parts = only(whole, [5, 6, 7, 8, 9, 10, 11, 12, 15]), only(whole, [0, 11, 12, 13, 14, 16])
    tracker = Tracker(min_hits=1)
    assert numbers(tracker, picture([parts[0]]), picture([parts[1]])) == [[1], [1]]
    # Joints without any overlap are someone else.
    far = Tracker(min_hits=1)
    assert numbers(far, picture([parts[0]]), picture([parts[1] + 500.0])) == [[1], [2]]


def test_a_single_joint_in_common_says_little() -> None:
    """Someone's foot lies exactly where the other's was, whose pose has changed a little meanwhile."""
    there = only(person(600), list(range(8, 17)))
    moved = there + np.array([16, 10])
    other = only(there, [16])
    other[[5, 6, 7]] = there[16] + [[60, -150], [100, -150], [120, -60]]
    tracker = Tracker(min_hits=1)
    assert numbers(tracker, picture([there]), picture([other, moved])) == [[1], [2, 1]]


def test_boxes_tell_where_the_pose_is_another() -> None:
    """Left and right taken for one another, and arms thrown up."""
    before = only(person(600), list(range(5, 17)))
    after = before[coco17.flip_permutation]
    after[[7, 8, 9, 10]] -= [0, 120]
    tracker = Tracker(min_hits=1)
    assert numbers(tracker, picture([before]), picture([after])) == [[1], [1]]


def test_joints_that_come_and_go() -> None:
    tracker = Tracker(min_hits=1)
    for t in range(30):
        whole = person(300 + 8 * t)
        shown = only(whole, [0, 5, 6, 11, 12, 13]) if t % 3 else only(whole, list(range(5, 17)))
        assert ids(tracker.update(picture([shown]))) == [1]


def test_a_person_found_twice_is_one() -> None:
    rng = np.random.default_rng(0)
    tracker, all_kept = Tracker(), Tracker(nms_threshold=None)
    for _ in range(10):
        twice = [person(600), person(600) + rng.normal(0, 4, (17, 2)), person(900)]
        shown = picture(twice, scores=rng.permutation([0.5, 0.6, 0.7]))
        found, both = ids(tracker.update(shown)), ids(all_kept.update(shown))
    assert found == [1, 2]
    assert sorted(both) == [1, 2, 3]


def test_who_has_a_number_goes_before_a_newcomer() -> None:
    """A new person's second pose lies nearer to the newcomer, but may be that of the one with a number."""
    tracker = Tracker(min_hits=3, motion=False)
    for _ in range(5):
        tracker.update(picture([person(500)]))
    assert ids(tracker.update(picture([person(500), person(560)]))) == [1]
    assert ids(tracker.update(picture([person(532)]))) == [1]


def test_parts_of_a_person_go_with_the_whole() -> None:
    """Those that share all they have, or enough; not who shares a joint alone."""
    whole = only(person(600), list(range(5, 17)))
    part, single = only(person(600), [0, 9, 10, 11]), only(person(600), [14])
    beside = only(person(600), [16]) + 0.0
    beside[[0, 1, 2]] = whole[16] + [[60, -150], [70, -155], [80, -150]]
    tracker = Tracker(min_hits=1)
    result = tracker.update(picture([whole, single, beside, part], scores=[0.9, 0.5, 0.6, 0.7]))
    np.testing.assert_array_equal(result.keypoints, picture([whole, beside]).keypoints)


def test_scores() -> None:
    tracker = Tracker(min_hits=1, start_score=0.5, min_score=0.2)
    scores = (0.4, 0.6, 0.3, 0.1, 0.3)
    shown = [picture([person(500)], scores=score) for score in scores]
    assert numbers(tracker, *shown) == [[], [1], [1], [], [1]]


def test_pictures_without_usable_persons() -> None:
    tracker = Tracker(min_hits=1)
    for shown in (picture([]), picture([NAN]), PoseResult.empty(coco17, SIZE)):
        result = tracker.update(shown)
        assert len(result) == 0
        assert result.track_ids is not None
        assert result.track_ids.shape == (0,)
        assert tracker.predict_boxes().shape == (0, 4)
    assert ids(tracker.update(picture([NAN, person(500)]))) == [1]


def test_trackers_share_nothing() -> None:
    first, second = Tracker(min_hits=1), Tracker(min_hits=1)
    for t in range(5):
        assert ids(first.update(picture([person(300 + t), person(700)]))) == [1, 2]
        assert ids(second.update(picture([person(700 - t)]))) == [1]


def test_another_stream_is_refused() -> None:
    tracker = Tracker(min_hits=1)
    tracker.update(picture([person(500)]))
    with pytest.raises(
        InvalidInputError, match=r"found 'coco17' at 640x480 after 'coco17' at 1280x720; call reset"
    ):
        tracker.update(picture([person(500)], image_size=(480, 640)))
    with pytest.raises(InvalidInputError, match="found 'lsp14'"):
        tracker.update(PoseResult.empty(lsp14, SIZE))
    assert ids(tracker.update(picture([person(500)]))) == [1]
    tracker.reset()
    assert len(tracker.update(PoseResult.empty(lsp14, SIZE))) == 0


def test_timestamps_must_grow() -> None:
    tracker = Tracker(min_hits=1)
    tracker.update(picture([person(500)]), 2.0)
    for bad in (2.0, 1.0):
        with pytest.raises(InvalidInputError, match=f"timestamp must grow .* found {bad} after 2.0"):
            tracker.update(picture([]), bad)
    for unusable in (np.nan, "soon"):
        with pytest.raises(InvalidInputError, match="timestamp is not usable"):
            tracker.update(picture([]), unusable)  # type: ignore[arg-type]
    assert ids(tracker.update(picture([person(500)]), 2.1)) == [1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("method", "cosine"), ("threshold", 1.5), ("nms_threshold", -1), ("max_age", -0.1), ("min_hits", 0),
        ("min_hits", 1.5), ("min_score", 2), ("start_score", "high"), ("motion", 1), ("fps", 0),
    ],
)  # fmt: skip
def test_unusable_options(option: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=option):
        Tracker(**{option: value})
    with pytest.raises(TypeError, match="did you mean 'max_age'"):
        Tracker(maxage=3)  # type: ignore[call-arg]


def test_boxes_for_the_next_picture() -> None:
    tracker = Tracker()
    for t in range(20):
        people = [
            person(200 + 12 * t),
            only(person(1250, height=200), [0, 5, 6, 7]),
            only(person(900), [0, 1]),
        ]
        tracker.update(picture(people))
    boxes = tracker.predict_boxes()
    assert boxes.dtype == np.float32
    assert boxes.shape == (2, 4)
    following = person(200 + 12 * 20)
    np.testing.assert_allclose(
        (boxes[0, :2] + boxes[0, 2:]) / 2, (following.min(0) + following.max(0)) / 2, atol=5
    )
    assert (boxes[0, :2] < following.min(0)).all()
    assert (boxes[0, 2:] > following.max(0)).all()
    assert boxes[:, [0, 2]].max() <= SIZE[1] - 1
    assert boxes.min() >= 0
    later, now = tracker.predict_boxes(5 / 30), tracker.predict_boxes(0)
    assert now[0, 0] < boxes[0, 0] < later[0, 0]
    # Who is not seen now has no box.
    tracker.update(picture([person(200 + 12 * 20)]))
    assert len(tracker.predict_boxes()) == 1
    tracker.reset()
    assert tracker.predict_boxes().shape == (0, 4)
    with pytest.raises(InvalidInputError, match="ahead"):
        tracker.predict_boxes(-1)


def test_new_persons_have_boxes_before_they_have_numbers() -> None:
    tracker = Tracker(min_hits=3)
    assert len(tracker.update(picture([person(500)]))) == 0
    assert len(tracker.predict_boxes()) == 1


coordinates = st.tuples(st.integers(0, 12), st.integers(1, 5), st.sampled_from([0.05, 0.3, 0.9]))
frames = st.lists(st.lists(coordinates, max_size=6), max_size=12)


@settings(max_examples=60, deadline=None)
@given(frames, st.sampled_from(["oks", "iou"]), st.integers(1, 3), st.booleans())
def test_numbers_are_unique_and_never_come_back(
    film: list[list[tuple[int, int, float]]], method: Any, min_hits: int, motion: bool
) -> None:
    def run() -> list[PoseResult]:
        tracker = Tracker(method=method, min_hits=min_hits, motion=motion, max_age=0.1)
        results = []
        for frame in film:
            people = [person(100 * x, 100 * y, 150 + 20 * y) for x, y, _ in frame]
            results.append(tracker.update(picture(people, scores=[score for *_, score in frame])))
        return results

    results = run()
    highest = 0
    last_seen: dict[int, int] = {}
    for place, (frame, result) in enumerate(zip(film, results, strict=True)):
        found = ids(result)
        assert len(set(found)) == len(found) <= len(frame)
        fresh = sorted(set(found) - set(last_seen))
        assert fresh == list(range(highest + 1, highest + 1 + len(fresh)))
        highest += len(fresh)
        assert all(place - last_seen.get(number, place) <= 3 for number in found)  # 0.1 s at 30 per second
        last_seen |= dict.fromkeys(found, place)
    assert [ids(result) for result in run()] == [ids(result) for result in results]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000), st.integers(1, 3), st.floats(0, 0.7))
def test_pairs_of_greatest_sum(m: int, n: int, seed: int, digits: int, least: float) -> None:
    similarity = np.random.default_rng(seed).random((m, n)).round(digits)
    rows, columns = assign(similarity, least)
    assert len(set(columns.tolist())) == len(columns)
    assert (np.diff(rows) > 0).all()
    chosen = similarity[rows, columns]
    assert (chosen >= least).all()
    assert (chosen > 0).all()
    gain = np.where(similarity >= least, similarity, 0)
    wide = gain if m <= n else gain.T
    best = max(
        wide[np.arange(len(wide)), list(order)].sum()
        for order in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert chosen.sum() == pytest.approx(best)


def test_pairs_of_nothing() -> None:
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert [each.tolist() for each in assign(np.zeros(shape), 0.5)] == [[], []]
    assert [each.tolist() for each in assign(np.full((2, 3), 0.4), 0.5)] == [[], []]


@pytest.mark.parametrize("follower", [Tracker(), OneEuro()])
def test_what_is_no_result_is_refused(follower: Any) -> None:
    with pytest.raises(InvalidInputError, match="not a PoseResult; found list"):
        follower.update([])
