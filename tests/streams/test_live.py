"""Cameras and network streams: frames, times, what happens when they are lost, and frames passed over."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgepose import Frame, InvalidInputError, Skip, open_source
from edgepose.sources import open_sources
from edgepose.streams import addresses, live
from edgepose.streams.frames import FrameSource, Reading
from tests.fakes.captures import CANNOT_OPEN, FakeCaptures, FakeStop
from tests.fakes.servers import MjpegServer

cv2 = pytest.importorskip("cv2")

IMAGE = np.full((96, 72, 3), 90, np.uint8)


def read(source: FrameSource, stop: FakeStop | None = None, every: int = 1) -> tuple[list[Frame], Reading]:
    """All frames until the source ends or is stopped."""
    reading = Reading(source.on_skip, every, stop or FakeStop())
    return list(source.read(reading)), reading


def numbers(frames: list[Frame]) -> list[int | None]:
    return [frame.source and frame.source.frame for frame in frames]


def test_a_lost_camera_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    captures = FakeCaptures(monkeypatch, [3, CANNOT_OPEN, 0, 2, CANNOT_OPEN])
    source = open_source(0, reconnect=None)
    stop = FakeStop(after=6)
    frames, reading = read(source, stop)
    assert numbers(frames) == [0, 1, 2, 3, 4]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 1, 2, 3, 4]
    assert reading.reconnects == 1
    assert stop.waits == [0.5, 1, 2, 0.5, 1, 2], "waits double until a frame comes"
    assert captures.all_released
    assert caplog.text.count("it is opened again") == 2


def test_waits_end_at_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCaptures(monkeypatch, [1])
    stop = FakeStop(after=2000)
    frames, _ = read(open_source(0, reconnect=None), stop)
    assert len(frames) == 1
    assert stop.waits[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert max(stop.waits) == 30


@pytest.mark.parametrize(
    ("lives", "limit", "waits", "words"),
    [([3], 0, 0, "camera 0 stopped after 3 frames;"), ([2, 1], 4, 5, "4 attempts to open it again")],
)
def test_attempts_end(
    monkeypatch: pytest.MonkeyPatch, lives: list[int], limit: int, waits: int, words: str
) -> None:
    captures = FakeCaptures(monkeypatch, lives)
    source = open_source(0, reconnect=limit)
    stop = FakeStop()
    frames = source.read(Reading(source.on_skip, 1, stop))
    assert numbers([next(frames) for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(InvalidInputError, match=words):
        next(frames)
    assert len(stop.waits) == waits
    assert captures.all_released


def test_the_default_limit_is_some_minutes() -> None:
    waits = [min(live.FIRST_DELAY * 2**i, live.LONGEST_DELAY) for i in range(live.RECONNECT)]
    assert 120 < sum(waits) < 240


@pytest.mark.parametrize("every", [2, 3, 7])
def test_frames_passed_over_are_not_decoded(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    captures = FakeCaptures(monkeypatch, [10])
    frames, _ = read(open_source(0), FakeStop(after=1), every)
    assert numbers(frames) == list(range(0, 10, every))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == list(range(0, 10, every))
    assert (captures.shown, captures.decoded) == (10, len(frames))


def test_times_of_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(5000.0, 40.0)
    monkeypatch.setattr(live, "now_ms", lambda: next(clock))
    FakeCaptures(monkeypatch, [4])
    frames, _ = read(open_source(0), FakeStop(after=1), every=2)
    sources = [frame.source for frame in frames if frame.source]
    assert [(source.time_ms, source.captured_ms) for source in sources] == [(0, 5000), (80, 5080)]


def test_a_camera_can_be_read_again_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = FakeCaptures(monkeypatch, [2, 2, 2])
    source = open_source(0)
    for _ in range(2):
        frames = iter(source)
        assert numbers([next(frames), next(frames)]) == [0, 1]
        frames.close()  # type: ignore[attr-defined]
    assert [capture.released for _, capture in captures.opened] == [True, True]
    unread = open_source(1)
    unread.close()
    unread.close()
    assert captures.all_released


def test_an_end_of_reading_ends_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = FakeCaptures(monkeypatch, [100])
    source = open_source(0)
    reading = Reading(source.on_skip)
    frames = source.read(reading)
    next(frames)
    reading.stop.set()
    assert list(frames) == []
    assert captures.shown == 1
    assert captures.all_released


def test_a_file_on_a_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = FakeCaptures(monkeypatch, [3])
    captures.properties = 3.0
    source = open_source("https://user:secret@host/walk.mp4")
    assert (source.kind, source.total, source.name) == ("video", 3, "https://host/walk.mp4")
    frames, reading = read(source)
    assert numbers(frames) == [0, 1, 2]
    assert (len(captures.opened), reading.reconnects) == (1, 0)


def test_videos_and_pictures_pass_over_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (60, 40))
    for i in range(20):
        writer.write(np.full((40, 60, 3), 10 * i, np.uint8))
    writer.release()
    every, _ = read(open_source(path))
    some, _ = read(open_source(path), every=3)
    assert numbers(some) == list(range(0, 20, 3))
    for frame in some:
        assert frame.source is not None
        assert np.array_equal(frame.image, every[frame.source.frame or 0].image)
        assert frame.source.time_ms == every[frame.source.frame or 0].source.time_ms  # type: ignore[union-attr]
    pictures = [np.full((4, 4, 3), i, np.uint8) for i in range(5)]
    chosen, _ = read(open_source(pictures), every=2)
    assert [int(frame.image[0, 0, 0]) for frame in chosen] == [0, 2, 4]


def test_real_video_frames_carry_numbers_and_times(shared: Path) -> None:
    path = shared / "data/videos/tfjs_pose_squats.mp4"
    skips: list[Skip] = []
    frames, _ = read(open_source(path, skips.append), every=8)
    assert skips == []
    sources = [frame.source for frame in frames if frame.source]
    assert [source.frame for source in sources] == list(range(0, 65, 8))
    steps = np.diff([source.time_ms or 0 for source in sources])
    fps = open_source(path).fps
    assert fps is not None
    np.testing.assert_allclose(steps, 8000 / fps, rtol=0.02)
    captured = [source.captured_ms or 0 for source in sources]
    assert captured == sorted(captured)


class TestLists:
    """What a list is: pictures, or sources of their own."""

    def test_pictures_are_one_source(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
        for items in ([tmp_path / "a.png", IMAGE], [IMAGE], (IMAGE, "missing.jpg")):
            (source,) = open_sources(items)
            assert source.kind == "images"

    def test_others_are_sources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
        FakeCaptures(monkeypatch, [1] * 4)
        sources = open_sources(
            ["rtsp://cam", 0, "1", tmp_path, tmp_path / "a.png", f"{tmp_path}/*.png", IMAGE]
        )
        kinds = ["camera", "camera", "camera", "images", "image", "images", "image"]
        assert [source.kind for source in sources] == kinds
        assert open_sources(sources[:1]) == sources[:1]

    def test_nothing_is_left_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        captures = FakeCaptures(monkeypatch, [1, 1])
        with pytest.raises(InvalidInputError, match="camera 7"):
            open_sources([0, 1, 7])
        assert len(captures.opened) == 3
        assert captures.all_released


class TestOnTheNetwork:
    """A real server on this machine."""

    def test_a_stream_that_breaks_off_comes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live, "FIRST_DELAY", 0.02)
        with MjpegServer(IMAGE, lives=(6,)) as server:
            source = open_source(server.url, reconnect=5)
            assert source.kind == "camera"
            assert "secret" not in source.name
            reading = Reading(source.on_skip)
            frames = list(itertools.islice(source.read(reading), 12))
            assert numbers(frames) == list(range(12))
            assert (reading.reconnects, server.connections) == (1, 2)
            np.testing.assert_allclose(frames[-1].image, IMAGE, atol=3)
            assert {str(frame.source and frame.source.path) for frame in frames} == {source.name}

    def test_a_silent_server_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(addresses, "READ_TIMEOUT_MS", 300)
        with MjpegServer(IMAGE) as server:
            frames = iter(open_source(server.url, reconnect=0))
            next(frames)
            server.silent.set()
            with pytest.raises(InvalidInputError, match=r"camera\.mjpg stopped after \d+ frames"):
                for _ in frames:
                    pass

    def test_nobody_there(self) -> None:
        with pytest.raises(InvalidInputError, match=r"cannot open http://127\.0\.0\.1:9/a; nothing"):
            open_source("http://127.0.0.1:9/a")
