"""`group`: which peaks become one person."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import all_peaks, make_peaks

from edgepose.kernels import Groups, Kernels, Peaks, reference
from edgepose.kernels.reference_grouping import munkres_assignment, optimal_assignment


def peaks_of(tags: list[list[float]], scores: list[list[float]] | None = None) -> Peaks:
    """Peaks with one tag each, a list per joint; x is the place in the list."""
    top = max(len(row) for row in tags)
    result = Peaks(
        np.zeros((len(tags), top, 2), np.int32),
        np.zeros((len(tags), top), np.float32),
        np.zeros((len(tags), top, 1), np.float32),
        np.array([len(row) for row in tags], np.int32),
    )
    for j, row in enumerate(tags):
        n = len(row)
        result.tags[j, :n, 0], result.xy[j, :n, 0] = row, np.arange(n)
        result.scores[j, :n] = scores[j] if scores else np.linspace(0.9, 0.8, n)
    return result


def assert_same(found: Groups, expected: Groups) -> None:
    assert found.truncated is expected.truncated
    assert found.persons.dtype == np.float32
    np.testing.assert_array_equal(found.persons, expected.persons)


@settings(max_examples=150, deadline=None)
@given(
    peaks=all_peaks(),
    threshold=st.sampled_from([0.5, 1.0, 2.0, 1e9]),
    use_detection_val=st.booleans(),
    ignore=st.booleans(),
    most=st.sampled_from([1, 2, 5, 30]),
    official=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_peaks(
    ops: Kernels,
    peaks: Peaks,
    threshold: float,
    use_detection_val: bool,
    ignore: bool,
    most: int,
    official: bool,
    seed: int,
) -> None:
    order = np.random.default_rng(seed).permutation(len(peaks.count))
    args = (peaks, order, threshold, use_detection_val, ignore, most, official)
    assert_same(ops.group(*args), reference.group(*args))


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("kind", ["plain", "ties", "odd"])
def test_crowds(ops: Kernels, kind: str, official: bool) -> None:
    peaks = make_peaks(kind, 4, 24, 2, 20, seed=3, count=24)
    args = (peaks, range(4), 1.0, True, False, 18, official)
    assert_same(ops.group(*args), reference.group(*args))


def test_a_hundred_people(ops: Kernels) -> None:
    rng = np.random.default_rng(0)
    tags = [[float(v) for v in rng.permutation(100) * 2] for _ in range(17)]
    for official in (False, True):
        persons, truncated = ops.group(peaks_of(tags), range(17), max_persons=100, official=official)
        assert persons.shape == (100, 17, 4)
        assert not truncated
        assert (persons[:, :, 3] == persons[:, :1, 3]).all()
        assert sorted(persons[:, 0, 3]) == [2 * i for i in range(100)]


def test_permuting_the_people_permutes_the_persons(ops: Kernels) -> None:
    rng = np.random.default_rng(1)
    people = 8
    tags = np.arange(people) * 3 + rng.uniform(-0.3, 0.3, (5, people))
    scores = rng.uniform(0.2, 1, (5, people))
    expected = None
    for _ in range(5):
        order = np.argsort(-scores, axis=1)
        peaks = peaks_of(
            np.take_along_axis(tags, order, 1).tolist(), np.take_along_axis(scores, order, 1).tolist()
        )
        persons, _ = ops.group(peaks, range(5))
        assert persons.shape == (people, 5, 4)
        persons = persons[persons[:, 0, 3].argsort()][:, :, 2:]
        assert (np.abs(persons[:, :, 1] - 3 * np.arange(people)[:, None]) < 0.31).all()
        if expected is None:
            expected = persons
        # The same people with joints of other strength: in another order, but the same sets.
        assert sorted(map(tuple, persons[:, :, 1].tolist())) == sorted(map(tuple, expected[:, :, 1].tolist()))
        scores = scores[:, ::-1].copy()


@pytest.mark.parametrize("seed", range(40))
def test_the_assignment_is_optimal_and_nearest(ops: Kernels, seed: int) -> None:
    """Against all assignments: the least cost, and of these the least sum of distances."""
    rng = np.random.default_rng(seed)
    persons, candidates = rng.integers(1, 6, 2).tolist()
    first = (np.arange(persons) * 0.75 + rng.integers(0, 2, persons) / 8).tolist()
    second = (rng.integers(0, 32, candidates) / 8 + 1 / 16).tolist()  # equal to no tag of the first joint
    scores = np.sort(rng.integers(1, 9, candidates) / 8)[::-1].tolist()
    peaks = peaks_of([first, second], [np.linspace(0.9, 0.8, persons).tolist(), scores])
    found = ops.group(peaks, range(2), tag_threshold=1e9, max_persons=100).persons
    pairs = [(int(found[j, 1, 0]), j) for j in range(persons) if found[j, 1, 2] > 0]
    assert len(pairs) == min(persons, candidates)

    def cost(pairs: list[tuple[int, int]]) -> tuple[float, float]:
        far = [abs(second[i] - float(np.float32(first[j]))) for i, j in pairs]
        score = [scores[i] for i, _ in pairs]
        return 100 * float(np.sum(np.rint(far))) - sum(score), sum(far)  # sixteenths: exact

    if candidates <= persons:
        every = [list(enumerate(p)) for p in itertools.permutations(range(persons), candidates)]
    else:
        every = [
            [(i, j) for j, i in enumerate(p)] for p in itertools.permutations(range(candidates), persons)
        ]
    assert cost(pairs) == min(cost(p) for p in every)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_the_solvers_of_the_reference_find_the_least_cost(rows: int, more: int, most: int, seed: int) -> None:
    cost = np.random.default_rng(seed).integers(-most, most, (rows, rows + more))
    least = min(
        sum(int(cost[i, j]) for i, j in enumerate(p))
        for p in itertools.permutations(range(rows + more), rows)
    )
    columns = optimal_assignment(cost.tolist())
    assert len(set(columns)) == rows
    assert sum(int(cost[i, j]) for i, j in enumerate(columns)) == least
    pairs = munkres_assignment(cost.astype(np.float64))
    assert [i for i, _ in pairs] == list(range(rows))
    assert len({j for _, j in pairs}) == rows
    assert sum(int(cost[i, j]) for i, j in pairs) == least


def test_cost_agrees_with_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize", reason='needs SciPy: pip install "edgepose[dev]"')
    for seed in range(20):
        cost = np.random.default_rng(seed).integers(0, 1000, (20, 20 + seed))
        columns = optimal_assignment(cost.tolist())
        assert cost[range(20), columns].sum() == cost[optimize.linear_sum_assignment(cost)].sum()


def test_persons_are_bounded(ops: Kernels) -> None:
    tags = [[float(2 * i) for i in range(n)] for n in (3, 5, 2)]
    peaks = peaks_of(tags)
    for most, persons, truncated in ((5, 5, False), (4, 4, True), (3, 3, True), (1, 1, True), (30, 5, False)):
        found = ops.group(peaks, range(3), max_persons=most)
        assert len(found.persons) == persons
        assert found.truncated is truncated
        # candidates still join the persons there are
        assert (found.persons[: min(persons, 2), :, 2] > 0).all()
    found = ops.group(peaks, range(3), max_persons=1, official=True)
    assert not found.truncated
    assert len(found.persons) == 5


def test_no_peaks_no_persons(ops: Kernels) -> None:
    peaks = make_peaks("plain", 3, 4, 2, 2, seed=0, count=0)
    for official in (False, True):
        persons, truncated = ops.group(peaks, range(3), official=official)
        assert persons.shape == (0, 3, 5)
        assert not truncated


def test_one_joint(ops: Kernels) -> None:
    persons, _ = ops.group(peaks_of([[0, 0.25, 3]]), [0])
    np.testing.assert_array_equal(persons[:, 0, 3], [0, 0.25, 3])  # nothing to match with


def test_the_tag_threshold_is_strict(ops: Kernels) -> None:
    for official in (False, True):
        for threshold, persons in ((0.5, 2), (0.5 + 1e-9, 1)):
            found = ops.group(peaks_of([[1.0], [1.5]]), [0, 1], threshold, official=official)
            assert len(found.persons) == persons


def test_the_order_of_joints_decides_whose_tags_come_first(ops: Kernels) -> None:
    peaks = peaks_of([[0.0], [0.875], [1.75]])
    assert len(ops.group(peaks, [0, 1, 2]).persons) == 2  # 1.75 is too far from the mean of 0 and 0.875
    assert len(ops.group(peaks, [1, 0, 2]).persons) == 2
    assert len(ops.group(peaks, [2, 1, 0]).persons) == 2
    np.testing.assert_array_equal(ops.group(peaks, [2, 1, 0]).persons[0, 1:, 3], [0.875, 1.75])


def test_equal_tags_make_persons_of_their_own(ops: Kernels) -> None:
    """As tags of low precision often are."""
    peaks = peaks_of([[1.0, 1.0], [1.0, 1.0, 1.0]])
    persons, truncated = ops.group(peaks, [0, 1])
    np.testing.assert_array_equal(persons[:, :, 0], [[0, 0], [1, 1], [0, 2]])
    np.testing.assert_array_equal(persons[:, :, 2] > 0, [[True, True], [True, True], [False, True]])
    assert not truncated
    persons, truncated = ops.group(peaks, [0, 1], max_persons=2)
    np.testing.assert_array_equal(persons[:, :, 0], [[0, 0], [1, 1]])  # the better peaks stay
    assert truncated


def test_the_official_person_is_known_by_its_first_tag(ops: Kernels) -> None:
    """The later of two peaks with equal tags takes the place of the earlier."""
    persons, _ = ops.group(peaks_of([[1.0, 1.0], [1.0]]), [0, 1], official=True)
    np.testing.assert_array_equal(persons[:, :, 0], [[1, 0]])
    persons, truncated = ops.group(peaks_of([[0.0, -0.0]]), [0], max_persons=1, official=True)
    np.testing.assert_array_equal(persons[:, :, 0], [[1]])
    assert not truncated
    # A peak without a partner returns to the person with its tag, whose tags then are that one alone.
    peaks = peaks_of([[0.0, 3.0], [0.5, 3.0], [0.5, 0.0, 3.0], [-0.75]])
    persons, _ = ops.group(peaks, range(4), official=True)
    np.testing.assert_array_equal(persons[:, :, 3], [[0, 0.5, 0, -0.75], [3, 3, 3, 0]])
    persons, _ = ops.group(peaks, range(4))
    np.testing.assert_array_equal(persons[:, :, 3], [[0, 0.5, 0.5, 0], [3, 3, 3, 0], [0, 0, 0, -0.75]])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("most", [31, 32, 33, 70])
def test_about_as_many_peaks_as_a_warp_has_lanes(ops: Kernels, most: int, official: bool) -> None:
    rng = np.random.default_rng(most)
    for top, tags in ((32, 1), (33, 1), (32, 2), (40, 2)):
        peaks = Peaks(
            rng.integers(0, 99, (4, top, 2), np.int32),
            rng.choice([0.25, 0.5, 0.75], (4, top)).astype(np.float32),
            rng.choice(np.arange(0, 20, 0.5), (4, top, tags)).astype(np.float32),
            np.array([top - 3, top, 7, top - 1], np.int32),
        )
        args = (peaks, [1, 0, 3, 2], 1.5, True, False, most, official)
        assert_same(ops.group(*args), reference.group(*args))


@settings(max_examples=100, deadline=None)
@given(peaks=all_peaks(), threshold=st.sampled_from([0.5, 1.0, 1e9]))
def test_each_peak_is_a_joint_of_one_person(ops: Kernels, peaks: Peaks, threshold: float) -> None:
    joints = range(len(peaks.count))
    persons, truncated = ops.group(peaks, joints, threshold, max_persons=1024)
    assert not truncated
    for j, n in enumerate(peaks.count.tolist()):
        rows = np.concatenate(
            [peaks.xy[j], peaks.scores[j, :, None], peaks.tags[j]], axis=1, dtype=np.float32
        )
        found = [row for row in persons[:, j] if row.any()]
        assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in rows[:n])


def test_too_much_can_be_ignored(ops: Kernels) -> None:
    peaks = peaks_of([[0.0, 5.0], [0.0, 5.0]])
    for official in (False, True):
        persons, truncated = ops.group(peaks, [0, 1], ignore_too_much=True, max_persons=2, official=official)
        assert (persons[:, 0, 2] > 0).all()
        assert not persons[:, 1].any()
        assert not truncated
        persons, _ = ops.group(peaks, [0, 1], ignore_too_much=True, max_persons=3, official=official)
        assert (persons[:, :, 2] > 0).all()


def test_tags_that_are_no_numbers_join_nobody(ops: Kernels) -> None:
    peaks = peaks_of([[np.nan, 0.0, np.nan], [0.0, np.nan], [np.inf]])
    for official in (False, True):
        persons, _ = ops.group(peaks, [0, 1, 2], official=official)
        assert (persons[:, :, 2] > 0).sum(axis=1).tolist() == [1, 2, 1, 1, 1]


def test_infinite_scores_do_not_stall(ops: Kernels) -> None:
    inf = float("inf")
    scores = [[inf, inf, 1.0], [inf, inf, inf]]
    for official in (False, True):
        persons, _ = ops.group(
            peaks_of([[0.0, 4.0, 8.0], [8.0, 4.0, 0.0]], scores), [0, 1], official=official
        )
        np.testing.assert_array_equal(persons[:, 0, 3], persons[:, 1, 3])


@pytest.mark.parametrize("official", [False, True])
def test_odd_scores_count_as_usable_ones(ops: Kernels, official: bool) -> None:
    """NaN as 0, and none beyond 2^22. Scores decide here: more candidates than persons, and all are near."""
    most = 2.0**22
    values = [np.nan, np.inf, -np.inf, 1e30, -1e30, 2 * most, -2 * most, most - 1, 1 - most, -0.5, 0.5, 5.0]
    rng = np.random.default_rng(0)
    for _ in range(100):
        scores = rng.choice(values, 5).astype(np.float32)
        usable = np.clip(np.where(np.isnan(scores), 0, scores), -most, most)
        tags = [[0.0, 4.0], (np.arange(5) / 16 + rng.integers(0, 2, 5) * 4 + 1 / 32).tolist()]
        found, expected = (
            ops.group(peaks_of(tags, [[0.5, 0.5], row.tolist()]), range(2), official=official).persons
            for row in (scores, usable)
        )
        np.testing.assert_array_equal(np.delete(found, 2, 2), np.delete(expected, 2, 2))


def test_a_tag_that_is_no_number_is_65536_away(ops: Kernels) -> None:
    peaks = peaks_of([[0.0], [np.nan], [1e30], [70000.0]])
    for official in (False, True):
        for threshold, persons in ((2.0**16, 4), (2.0**16 + 1, 1)):
            assert len(ops.group(peaks, range(4), threshold, official=official).persons) == persons


def test_the_peaks_are_left_alone(ops: Kernels) -> None:
    peaks = make_peaks("ties", 4, 6, 2, 3, seed=0)
    before = [item.copy() for item in peaks]
    for official in (False, True):
        ops.group(peaks, range(4), official=official)
        ops.group(Peaks(*(item.copy(order="F") for item in peaks)), range(4), official=official)
    for now, then in zip(peaks, before, strict=True):
        np.testing.assert_array_equal(now, then)
