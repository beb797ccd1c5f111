"""Running sources: order, batches, what waits, what is dropped, errors, and an end without remains."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, spots

from edgepose import (
    BackendUnavailableError,
    Estimator,
    InvalidInputError,
    PoseStream,
    Skip,
    SourceStatus,
    Tracker,
    open_source,
)
from edgepose.streams.stream import StreamOptions
from tests.fakes.captures import FakeCaptures
from tests.fakes.estimator import FakeEstimator, running, threads
from tests.fakes.servers import MjpegServer

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

PICTURE = spots((192, 144), [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_model(tmp_path_factory.mktemp("model") / "colors.onnx")


@pytest.fixture(scope="module")
def estimator(model: Path) -> Iterator[Estimator]:
    with Estimator(model, kernels="numpy") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert threads() == []
    yield
    assert eventually(lambda: not threads()), threads()


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def stream(estimator: Any, *sources: Any, on_skip: Any = None, **options: Any) -> PoseStream:
    return PoseStream(estimator, sources, StreamOptions(**options), on_skip)


def numbers(results: Any) -> list[int | None]:
    return [result.source.frame for result in results]


class TestFlow:
    """What runs when, and what waits."""

    def test_results_come_in_order_with_their_frames(self) -> None:
        pairs = list(stream(FakeEstimator(), running("a", 50)).with_frames())
        assert numbers(result for _, result in pairs) == list(range(50))
        assert [int(frame.image[0, 0, 0]) for frame, _ in pairs] == list(range(50))
        assert all(frame.source == result.source for frame, result in pairs)

    def test_both_ways_of_reading_share_the_results(self) -> None:
        results = stream(FakeEstimator(), running("a", 6))
        assert numbers([next(results)]) == [0]
        pairs = results.with_frames()
        assert numbers([next(pairs)[1], next(results), next(pairs)[1]]) == [1, 2, 3]
        assert numbers(results) == [4, 5]

    def test_all_stages_overlap_and_little_waits(self) -> None:
        seen: list[Any] = []
        estimator = FakeEstimator()
        results = stream(estimator, running("a", 100, seen=seen))
        assert seen == []
        assert threads() == [], "nothing starts before a result is asked for"
        next(results)
        # The caller has one; two results wait, two frames wait, and one is in the hand of the reader.
        assert eventually(lambda: (len(seen), len(estimator.runs)) == (6, 3)), (seen, estimator.runs)
        time.sleep(0.1)
        assert (len(seen), len(estimator.runs)) == (6, 3)
        results.close()

    def test_what_was_used_is_not_kept(self, estimator: Estimator) -> None:
        before: list[weakref.ref[Any]] = []
        for frame, _ in stream(estimator, running("a", 30, size=(64, 48))).with_frames():
            assert [ref() for ref in before] == [None] * len(before)
            before.append(weakref.ref(frame.image))
        assert len(before) == 30

    def test_every(self) -> None:
        assert numbers(stream(FakeEstimator(), running("a", 10), every=4)) == [0, 4, 8]

    def test_a_stream_tells_how_it_goes(self) -> None:
        results = stream(FakeEstimator(), running("a", 3), running("b", 2))
        assert repr(results) == "PoseStream(a, b)"
        assert results.sources[0] == SourceStatus("a", 0, 0, 0, False)
        list(results)
        assert results.sources == (SourceStatus("a", 3, 0, 0, True), SourceStatus("b", 2, 0, 0, True))
        assert (results.dropped, results.reconnects) == (0, 0)


class TestLatest:
    """The newest frame, and no other."""

    def test_stale_frames_are_dropped_and_counted(self) -> None:
        seen: list[Any] = []
        results = stream(FakeEstimator(), running("a", 100, seen=seen), latest=True)
        taken = []
        for result in results:
            taken.append(result.source.frame if result.source else None)
            if len(taken) == 1:
                assert eventually(lambda: "end" in seen), "the reader waits for nobody"
        # One went into the network while the caller had the first; then the newest, the last of all.
        assert taken[0] is not None
        assert taken == sorted(set(taken), key=lambda number: number or 0)
        assert taken[-1] == 99
        assert len(taken) <= 4
        assert results.dropped == results.sources[0].dropped == 100 - len(taken)
        assert results.sources[0].frames == len(taken)

    def test_without_it_nothing_is_dropped(self) -> None:
        results = stream(FakeEstimator(), running("a", 30))
        for _ in results:
            time.sleep(0.001)
        assert results.dropped == 0

    def test_pictures_do_not_grow_stale(self) -> None:
        results = stream(FakeEstimator(), running("a", 20, kind="images"), latest=True)
        assert numbers(results) == list(range(20))

    @pytest.mark.parametrize("fps", [100.0, None])
    def test_a_video_is_read_at_its_pace(self, fps: float | None) -> None:
        started = time.monotonic()
        count = 20 if fps else 6  # by rate, or by the times of its frames, 40 ms apart
        results = stream(FakeEstimator(), running("a", count, kind="video", fps=fps), latest=True)
        taken = numbers(results)
        assert time.monotonic() - started >= 0.19
        assert taken[-1] == count - 1
        assert len(taken) + results.dropped == count

    def test_a_paced_frame_is_captured_when_its_turn_comes(self) -> None:
        started = time.monotonic() * 1e3
        results = stream(FakeEstimator(), running("a", 10, kind="video", fps=50.0), latest=True)
        found = [result.source for result in results if result.source]
        assert len(found) >= 2
        for source in found[1:]:
            assert source.captured_ms is not None
            assert source.frame is not None
            assert source.captured_ms >= started + 20 * source.frame - 1

    def test_skips_are_not_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 200.0, (144, 192))
        for _ in range(20):
            writer.write(PICTURE)
        writer.release()
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        skips: list[Skip] = []
        results = stream(FakeEstimator(), open_source(path), latest=True, on_skip=skips.append)
        assert list(results)
        assert "missing" in skips[-1].reason


class TestSeveral:
    """Several sources through one model."""

    def test_what_is_ready_runs_together(self) -> None:
        gate = threading.Event()
        estimator = FakeEstimator(lambda _: gate.wait(10) and None)
        results = stream(estimator, *(running(name, 8) for name in "abc"))
        timer = threading.Timer(0.2, gate.set)
        timer.start()
        found = list(results)
        timer.join()
        for index, name in enumerate("abc"):
            own = [result for result in found if result.source and result.source.index == index]
            assert numbers(own) == list(range(8))
            assert {result.source.path for result in own if result.source} == {name}
        # While the first run took its time, two frames of each came to wait.
        assert len([run for run in estimator.runs if len(run) == 3]) >= 2, estimator.runs
        assert all([name for name, _ in run] == sorted({name for name, _ in run}) for run in estimator.runs)

    def test_a_single_source_has_no_place(self) -> None:
        (result,) = stream(FakeEstimator(), running("a", 1))
        assert result.source is not None
        assert result.source.index is None

    def test_results_are_those_of_each_alone(self, estimator: Estimator, tmp_path: Path) -> None:
        paths = []
        for number in range(3):
            paths.append(str(tmp_path / f"{number}.avi"))
            writer = cv2.VideoWriter(paths[-1], cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (144, 192))
            for step in range(4 + number):
                writer.write(np.roll(PICTURE, 3 * step + 5 * number, axis=1))
            writer.release()
        alone = {(path, r.source.frame): r for path in paths for r in estimator.stream(path) if r.source}
        found = list(estimator.stream(paths))
        assert len(found) == len(alone) == 15
        for result in found:
            assert result.source is not None
            expected = alone[result.source.path, result.source.frame]
            assert result.source.path == paths[result.source.index or 0]
            np.testing.assert_allclose(result.keypoints, expected.keypoints, atol=1e-3)

    def test_an_array_among_others_has_a_source(self, estimator: Estimator, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
        found = list(estimator.stream([PICTURE, tmp_path]))
        places = sorted((result.source.index, result.source.path) for result in found if result.source)
        assert places == [(0, "array"), (1, str(tmp_path / "a.png"))]

    def test_a_slow_source_does_not_hold_the_others(self) -> None:
        release = threading.Event()
        slow = running("slow", 2, before=lambda number: release.wait(10) and None if number else None)
        results = stream(FakeEstimator(), slow, running("fast", 20))
        found = [next(results).source for _ in range(21)]
        names = [(source.path, source.frame) for source in found if source]
        assert names.count(("fast", 19)) == 1
        release.set()
        assert numbers(results) == [1]

    def test_one_that_is_lost_is_told_and_the_others_go_on(self) -> None:
        skips: list[Skip] = []
        lost = running("a", 2, error=InvalidInputError("camera a stopped"))
        results = list(stream(FakeEstimator(), lost, running("b", 9), on_skip=skips.append))
        assert len(results) == 11
        assert skips == [Skip("a", "camera a stopped")]

    def test_the_last_that_is_lost_raises(self) -> None:
        skips: list[Skip] = []
        sources = [running(name, n, error=InvalidInputError(name)) for name, n in (("a", 1), ("b", 30))]
        results = stream(FakeEstimator(), *sources, on_skip=skips.append)
        with pytest.raises(InvalidInputError, match="b"):
            list(results)
        assert [skip.source for skip in skips] == ["a"]

    def test_a_frame_that_is_refused_costs_no_other(self) -> None:
        def refuse(frames: Any) -> None:
            if any(frame.source.path == "a" and frame.source.frame == 2 for frame in frames):
                raise InvalidInputError("a bad frame")

        skips: list[Skip] = []
        sources = (running("a", 5), running("b", 5))
        results = list(stream(FakeEstimator(refuse), *sources, on_skip=skips.append))
        assert sorted((r.source.path, r.source.frame or 0) for r in results if r.source) == [
            *(("a", i) for i in (0, 1, 3, 4)),
            *(("b", i) for i in range(5)),
        ]
        assert skips == [Skip("a frame 2", "a bad frame")]


class TestErrors:
    """They reach the caller, once, and end everything."""

    def test_of_a_source(self) -> None:
        seen: list[Any] = []
        results = stream(FakeEstimator(), running("a", 3, error=InvalidInputError("lost"), seen=seen))
        with pytest.raises(InvalidInputError, match="lost"):
            list(results)
        assert list(results) == []
        assert seen[-2:] == ["end", "closed"]

    @pytest.mark.parametrize("others", [0, 1])
    def test_of_a_programmer_in_a_source(self, others: int) -> None:
        sources = [running("a", 3, error=ZeroDivisionError("oh")), *[running("b", 10**9)] * others]
        with pytest.raises(ZeroDivisionError, match="oh"):
            list(stream(FakeEstimator(), *sources))

    def test_of_the_network(self) -> None:
        def fail(frames: Any) -> None:
            if frames[0].source.frame == 5:
                raise RuntimeError("no memory")

        results = stream(FakeEstimator(fail), running("a", 10**9))
        taken = []
        with pytest.raises(RuntimeError, match="no memory"):
            taken.extend(results)
        assert numbers(taken) == list(range(5))
        assert list(results) == []

    def test_of_the_skips_receiver(self, tmp_path: Path, estimator: Estimator) -> None:
        def receiver(skip: Skip) -> None:
            assert threading.current_thread() is threading.main_thread()
            raise LookupError(skip.source)

        (tmp_path / "a.jpg").write_bytes(b"junk")
        with pytest.raises(LookupError, match=r"a\.jpg"):
            list(estimator.stream(tmp_path, on_skip=receiver))

    def test_a_closed_estimator(self, model: Path) -> None:
        opened = Estimator(model, kernels="numpy")
        results = stream(opened, running("a", 10**9))
        next(results)
        opened.close()
        with pytest.raises(BackendUnavailableError, match="closed"):
            list(results)

    def test_options(self, estimator: Estimator) -> None:
        for options, words in (
            ({"latest": 1}, "latest is not usable"),
            ({"every": 0}, "every is not usable"),
            ({"every": 1.5}, "every is not usable"),
            ({"detect_every": 0}, "detect_every is not usable"),
            ({"detect_every": 2}, "where no detector serves"),
            ({"track": "yes"}, "track is not usable"),
            (
                {"track": Tracker()},
                r"track is not usable; found Tracker; give .* lambda: edgepose.Tracker\(\)",
            ),
            ({"smooth": 2}, "smooth is not usable"),
            ({"boxes": [[0, 0, 9, 9]]}, "boxes is not usable; found list; give a function"),
            ({"reconnect": -1}, "reconnect is not usable"),
        ):
            with pytest.raises(InvalidInputError, match=words):
                estimator.stream([PICTURE], **options)  # type: ignore[arg-type]

    def test_nobody_is_followed_in_a_single_picture(self, estimator: Estimator) -> None:
        """A tracker of the usual kind would number nobody, and so leave everybody out."""
        with pytest.raises(InvalidInputError, match="nobody can be followed; found a single picture, array"):
            estimator.stream(PICTURE, track=True)
        (result,) = estimator.stream(PICTURE, track=lambda: Tracker(min_hits=1))
        assert result.track_ids is not None
        assert result.track_ids.tolist() == [1]


class TestEnd:
    """However it ends, threads end and sources are released."""

    @pytest.fixture
    def camera(self, monkeypatch: pytest.MonkeyPatch) -> FakeCaptures:
        return FakeCaptures(monkeypatch, [10**9] * 4)

    def test_break(self, estimator: Estimator, camera: FakeCaptures) -> None:
        for _ in estimator.stream(0):
            break
        assert eventually(lambda: camera.all_released)

    def test_close(self, estimator: Estimator, camera: FakeCaptures) -> None:
        results = estimator.stream([0, 1])
        next(results)
        results.close()
        assert threads() == [], "closing waits"
        assert camera.all_released
        results.close()
        assert list(results) == []

    def test_close_before_the_start(self, estimator: Estimator, camera: FakeCaptures) -> None:
        results = estimator.stream([0, 1])
        results.close()
        assert camera.all_released
        assert list(results) == []

    def test_with(self, estimator: Estimator, camera: FakeCaptures) -> None:
        with estimator.stream(0, latest=True) as results:
            next(results)
        assert threads() == []
        assert camera.all_released

    def test_nobody_holds_it(self, estimator: Estimator, camera: FakeCaptures) -> None:
        results = estimator.stream(0)
        pairs = results.with_frames()
        next(pairs)
        del results
        next(pairs)
        del pairs
        gc.collect()
        assert eventually(lambda: camera.all_released and not threads())

    def test_ctrl_c_while_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        results = stream(FakeEstimator(), running("a", 5))
        next(results)
        monkeypatch.setattr(results._work, "next_round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(results)
        assert threads() == []

    def test_a_source_that_waits_to_reconnect(
        self, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeCaptures(monkeypatch, [2])
        results = estimator.stream(0, reconnect=None)
        assert numbers([next(results), next(results)]) == [0, 1]
        started = time.monotonic()
        results.close()
        assert time.monotonic() - started < 5
        assert threads() == []

    def test_a_network_stream(self, estimator: Estimator) -> None:
        with MjpegServer(PICTURE, lives=(5,)) as server:
            results = estimator.stream(server.url, reconnect=3)
            found = [next(results) for _ in range(8)]
            assert numbers(found) == list(range(8))
            np.testing.assert_allclose(found[-1].keypoints, estimator(PICTURE).keypoints, atol=1)
            assert results.reconnects == results.sources[0].reconnects == 1
            results.close()
        assert threads() == []

    def test_the_interpreter_ends(self, model: Path) -> None:
        """With threads that run, that wait for room, and a detector that is called."""
        code = f"""
import numpy, edgepose
estimator = edgepose.Estimator({str(model)!r}, kernels="numpy", detector=lambda image: [[0, 0, 50, 50]])
picture = numpy.full((96, 72, 3), 200, numpy.uint8)
busy = estimator.stream([picture] * 10**6, latest=True)
full = estimator.stream([picture] * 10**6)
print(len(next(busy)), len(next(full)))
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 1\n", "")

    @pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
    def test_ctrl_c_in_a_script(self, model: Path, tmp_path: Path) -> None:
        """Whether it waits for a result, or works on one: the file that it writes can be played."""
        code = f"""
import cv2, edgepose, numpy
estimator = edgepose.Estimator({str(model)!r}, kernels="numpy")
writer = cv2.VideoWriter("out.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 25, (144, 192))
picture = numpy.zeros((192, 144, 3), numpy.uint8)
try:
    for frame, result in estimator.stream([picture] * 10**6).with_frames():
        writer.write(result.draw(frame.image))
        print(1, flush=True)
finally:
    writer.release()
"""
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        assert process.stdout is not None
        for _ in range(10):
            assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGINT
        assert errors.rstrip().endswith("KeyboardInterrupt")
        capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
        for _ in range(10):
            assert capture.read()[0]


def interrupted() -> list[Any]:
    raise KeyboardInterrupt


def test_streams_do_not_wait_for_one_another(estimator: Estimator) -> None:
    results = [estimator.stream([PICTURE] * 5) for _ in range(4)]
    for found in zip(*results, strict=True):
        assert len(found) == 4
