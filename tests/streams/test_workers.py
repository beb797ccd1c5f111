"""Several frames through the network at the same time: the same results in the same order, and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, people_model, people_picture, people_spec, spots

from edgepose import BackendUnavailableError, Estimator, InvalidInputError, PoseStream, Skeleton, Source
from edgepose.streams.frames import Frame, FrameSource
from edgepose.streams.stream import StreamOptions
from tests.fakes.estimator import FakeEstimator, running, threads

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZE = (96, 72)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_model(tmp_path_factory.mktemp("model") / "colors.onnx")


@pytest.fixture(scope="module")
def estimator(model: Path) -> Iterator[Estimator]:
    with Estimator(model, threads=2) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert threads() == []


def walk(count: int, size: Any = lambda number: SIZE) -> FrameSource:
    def frames(_: object) -> Iterator[Frame]:
        for number in range(count):
            at = 20.0 + number % 20
            picture = spots(size(number), [(at, 25.0), (at + 20, 55.0), (at + 5, 75.0)])
            yield Frame(picture, Source("walk", number, 40.0 * number))

    return FrameSource("walk", "video", frames, None, fps=25.0, total=count)


def both(estimator: Estimator, source: Any, **options: Any) -> list[list[Any]]:
    """The results of one frame after the other, and of three at the same time."""
    return [list(estimator.stream(source(), workers=workers, **options)) for workers in (1, 3)]


class Lanes(FakeEstimator):
    """One that serves several threads, each as itself."""

    closed = 0

    def lanes(self, count: int) -> list[Any]:
        return [self] * count

    def close(self) -> None:
        self.closed += 1


def stream(estimator: Any, *sources: Any, on_skip: Any = None, **options: Any) -> PoseStream:
    return PoseStream(estimator, sources, StreamOptions(workers=2, **options), on_skip)


def numbers(results: Any) -> list[int | None]:
    return [result.source.frame for result in results]


def test_frames_run_at_the_same_time_and_results_keep_their_order() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def before(frames: Any) -> None:
        meeting.wait()  # breaks where runs take turns
        time.sleep(0.01 * (1 - frames[0].source.frame % 2))  # the first of two is the slower one

    estimator = Lanes(before)
    assert numbers(stream(estimator, running("a", 20))) == list(range(20))
    assert estimator.closed == 2


def test_little_waits() -> None:
    seen: list[Any] = []
    estimator = Lanes()
    results = stream(estimator, running("a", 100, seen=seen))
    next(results)
    time.sleep(0.3)
    # The caller has one, two results wait and another may have gone on next to the last, two frames wait,
    # one is in the hand of the reader.
    assert len(estimator.runs) <= 4
    assert len(seen) <= 7
    results.close()


def test_results_are_the_same(estimator: Estimator) -> None:
    one, three = both(estimator, lambda: walk(60), track=True, smooth=True)
    assert numbers(three) == numbers(one) == list(range(60))
    for left, right in zip(one, three, strict=True):
        np.testing.assert_allclose(right.keypoints, left.keypoints, atol=1e-3)
        np.testing.assert_array_equal(right.track_ids, left.track_ids)


def test_identities_begin_anew_with_another_size(estimator: Estimator) -> None:
    one, three = both(
        estimator, lambda: walk(12, lambda number: SIZE if number < 6 else (100, 80)), track=True
    )
    ids = [result.track_ids.tolist() for result in three]
    assert ids == [result.track_ids.tolist() for result in one]
    assert ids[5] != ids[6]


def test_a_bottom_up_model_and_one_as_detector(model: Path, tmp_path: Path) -> None:
    spec = people_spec(skeleton=Skeleton("cross", ("a", "b", "c"), ((0, 1), (1, 2)), (), (0.1, 0.1, 0.1)))
    people = people_model(tmp_path / "people.onnx", spec, joints=3, tag_maps=1)
    picture = people_picture((96, 128), [[(30.0, 30.0), (40.0, 60.0)], [(90.0, 40.0), (100.0, 70.0)]])
    for options in ({"model": people}, {"model": model, "detector": str(people)}):
        with Estimator(threads=2, **options) as opened:
            expected = opened(picture)
            assert len(expected) == 2
            results = list(opened.stream([picture] * 30, workers=3))
            assert len(results) == 30
            for result in results:
                np.testing.assert_allclose(result.keypoints, expected.keypoints, atol=1e-3)
            assert len(opened(picture)) == len(expected), "the estimator itself stays open"


def test_a_function_that_detects_is_called_by_one_at_a_time(model: Path) -> None:
    inside = threading.Lock()
    calls = []

    def detect(picture: np.ndarray) -> list[list[float]]:
        assert inside.acquire(blocking=False)
        time.sleep(0.002)
        calls.append(threading.current_thread())
        inside.release()
        return [[5.0, 10.0, 66.0, 90.0, 0.9]]

    with Estimator(model, detector=detect) as opened:
        assert len(list(opened.stream(walk(30), workers=3))) == 30
        assert len(set(calls)) > 1
        calls.clear()
        assert len(list(opened.stream(walk(100)))) == 100
        assert len(set(calls)) == 1, "not asked for, all calls come from one thread"


def test_errors_come_in_their_place() -> None:
    def fail(frames: Any) -> None:
        if frames[0].source.frame == 5:
            raise RuntimeError("no memory")
        time.sleep(0.002)

    results = stream(Lanes(fail), running("a", 10**9))
    taken = []
    with pytest.raises(RuntimeError, match="no memory"):
        taken.extend(results)
    assert numbers(taken) == list(range(5))


def test_a_frame_that_is_refused_costs_no_other() -> None:
    def refuse(frames: Any) -> None:
        if frames[0].source.frame == 2:
            raise InvalidInputError("a bad frame")

    skips: list[Any] = []
    assert numbers(stream(Lanes(refuse), running("a", 6), on_skip=skips.append)) == [0, 1, 3, 4, 5]
    assert [skip.source for skip in skips] == ["a frame 2"]


def test_it_ends_with_its_estimator(model: Path) -> None:
    opened = Estimator(model)
    results = opened.stream(walk(10**6), workers=2)
    next(results)
    opened.close()
    with pytest.raises(BackendUnavailableError, match="closed"):
        list(results)


def test_close_in_between(estimator: Estimator) -> None:
    results = estimator.stream(walk(10**6), workers=2)
    next(results)
    results.close()
    assert threads() == []


def test_who_gets_several(estimator: Estimator, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(opened: Estimator, source: Any, **options: Any) -> int:
        return opened.stream(source, **options)._work._options.workers

    assert workers(estimator, walk(100)) == 2
    assert workers(estimator, [walk(60), walk(60)]) == 2
    assert workers(estimator, walk(10)) == 1, "too short"
    assert workers(estimator, walk(100), every=10) == 1
    assert workers(estimator, walk(100), latest=True) == 1
    assert workers(estimator, running("camera", 100)) == 1
    assert workers(estimator, walk(10), workers=5) == 5
    with Estimator(model, threads=1) as opened:
        assert workers(opened, walk(100)) == 1
    with Estimator(model, threads=16) as opened:
        assert workers(opened, walk(100)) == 4
    monkeypatch.setitem(estimator.info.backend, "device", "cuda:0")
    assert workers(estimator, walk(100)) == 1
    with pytest.raises(InvalidInputError, match="onnxruntime on cuda:0"):
        estimator.stream(walk(100), workers=2)
    with pytest.raises(InvalidInputError, match="cannot be made"):
        estimator.lanes(2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers is not usable"),
        ({"workers": 2, "latest": True}, "with latest"),
        ({"workers": 2, "detect_every": 2}, "with detect_every"),
    ],
)
def test_options(model: Path, options: dict[str, Any], words: str) -> None:
    with (
        Estimator(model, detector=lambda picture: [[0, 0, 9, 9]]) as opened,
        pytest.raises(InvalidInputError, match=words),
    ):
        opened.stream(walk(9), **options)
