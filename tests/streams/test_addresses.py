"""Addresses of cameras and streams, and what OpenCV is asked for."""

from __future__ import annotations

import pytest

from edgepose import BackendUnavailableError, InvalidInputError, open_source
from edgepose.streams.addresses import is_address, parse_address
from tests.fakes.captures import CANNOT_OPEN, FakeCaptures

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("rtsp://cam/1", True),
        ("RTSP://cam/1", True),
        ("https://cam/video.mjpg", True),
        ("udp://@:5000", True),
        ("csi://0", True),
        ("gstreamer:videotestsrc ! appsink", True),
        ("photo.jpg", False),
        ("rtsp.mp4", False),
        ("http:", False),
        ("C:/videos/a.mp4", False),
        ("file:///tmp/a.mp4", False),
        ("0", False),
        ("", False),
    ],
)
def test_streams_are_told_from_files(name: str, stream: bool) -> None:
    assert is_address(name) is stream


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rtsp://admin:se@cr:et@10.0.0.2:554/live?x=1", "rtsp://10.0.0.2:554/live?x=1"),
        ("http://user@host/a@b", "http://host/a@b"),
        ("http://h/v?ch=1&user_Pwd=a&x=2&token=b", "http://h/v?ch=1&user_Pwd=***&x=2&token=***"),
        ("http://host", "http://host"),
        ("csi://1?fps=60", "csi://1"),
        (3, "camera:3"),
        ("/dev/video2", "camera:/dev/video2"),
    ],
)
def test_names_keep_no_secret(name: str | int, shown: str) -> None:
    assert parse_address(name).name == shown


def test_the_pipeline_of_a_jetsons_camera() -> None:
    assert parse_address("csi://0").target == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM), width=(int)1280, height=(int)720, "
        "format=(string)NV12, framerate=(fraction)30/1 ! nvvidconv flip-method=0 ! video/x-raw, "
        "format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! "
        "appsink max-buffers=2 drop=false sync=false"
    )
    address = parse_address("csi://1?width=1920&height=1080&fps=60&flip=2&sensor_mode=3")
    assert address.fps == 60
    words = ("sensor-id=1 sensor-mode=3 ", "width=(int)1920,", "height=(int)1080,", "60/1", "flip-method=2 ")
    assert [word for word in words if word not in str(address.target)] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("csi://left", "camera 'left'; give csi://NUMBER"),
        ("csi://0/1", "camera '0/1'"),
        ("csi://0?size=3", "option 'size'; give width"),
        ("csi://0?fps=fast", "fps=fast; give a whole number from 1 to 1000"),
        ("csi://0?flip=8", "flip=8; give a whole number from 0 to 7"),
        ("csi://0?width=", "width="),
    ],
)
def test_unusable_options_of_a_camera(name: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words.replace("?", r"\?")):
        open_source(name)


def test_what_opencv_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = FakeCaptures(monkeypatch, [1] * 4)
    url = "rtsp://admin:secret@cam/live"
    for source in (url, "csi://0", "gstreamer: videotestsrc ! appsink ", 2):
        assert open_source(source).kind == "camera"
    asked = [arguments for arguments, _ in captures.opened]
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5_000]
    assert asked[0] == (url, cv2.CAP_FFMPEG, limits)
    assert asked[1] == (parse_address("csi://0").target, cv2.CAP_GSTREAMER)
    assert asked[2] == ("videotestsrc ! appsink", cv2.CAP_GSTREAMER)
    assert asked[3] == (2,)


def test_the_rate_that_was_asked_for_serves_where_opencv_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = FakeCaptures(monkeypatch, [1] * 5)
    assert open_source("csi://0?fps=60").fps == 60
    assert open_source("rtsp://cam").fps is None
    captures.properties = 15.0
    assert open_source(0).fps == 15
    for ticks in (90_000.0, 1000.0):
        captures.properties = ticks
        assert open_source(0).fps is None


def test_what_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = FakeCaptures(monkeypatch, [CANNOT_OPEN] * 4)
    with pytest.raises(InvalidInputError, match="cannot open rtsp://cam/live; nothing") as caught:
        open_source("rtsp://admin:secret@cam/live")
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   NO\n")
    with pytest.raises(BackendUnavailableError, match="csi://0 needs an OpenCV with GStreamer"):
        open_source("csi://0")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   YES (1.20)\n")
    with pytest.raises(InvalidInputError, match="GStreamer cannot run: nvarguscamerasrc"):
        open_source("csi://0")
    with pytest.raises(InvalidInputError, match="cannot open camera 5"):
        open_source(5)
    assert len(captures.opened) == 4
    assert all(capture.released for _, capture in captures.opened)


@pytest.mark.parametrize("value", [-1, 1.5, True, "forever"])
def test_unusable_numbers_of_attempts(value: object) -> None:
    with pytest.raises(InvalidInputError, match="reconnect is not usable"):
        open_source("x.jpg", reconnect=value)  # type: ignore[arg-type]
