"""Sources: every kind of source, EXIF orientation, and damaged items that are reported."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from edgepose import Frame, InvalidInputError, Skip, open_source, read_image
from edgepose.sources import check_image

cv2 = pytest.importorskip("cv2")


def picture(seed: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size[0] // 10, size[1] // 10, 3), np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray, **options: int) -> bytes:
    flags = [value for name, item in options.items() for value in (getattr(cv2, name), item)]
    return bytes(cv2.imencode(".jpg", image, flags)[1])


def with_orientation(data: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF segment after its start marker."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (60, 40))
    for i in range(20):
        writer.write(picture(i))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turned: object) -> None:
    data = jpeg(picture())
    upright = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(data, orientation))
    assert np.array_equal(read_image(path), turned(upright))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["grey.png", "deep.png", "alpha.png"])
def test_all_files_are_read_as_bgr(tmp_path: Path, name: str) -> None:
    image = {
        "grey.png": picture()[:, :, 0],
        "deep.png": picture().astype(np.uint16) * 257,
        "alpha.png": np.dstack([picture(), picture()[:, :, 0]]),
    }[name]
    cv2.imwrite(str(tmp_path / name), image)
    read = read_image(tmp_path / name)
    assert read.shape == (40, 60, 3)
    assert read.dtype == np.uint8
    if name == "deep.png":
        assert np.array_equal(read, picture())


@pytest.mark.parametrize("options", [{}, {"IMWRITE_JPEG_PROGRESSIVE": 1}, {"IMWRITE_JPEG_RST_INTERVAL": 1}])
def test_jpegs_cut_short_anywhere_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    whole = jpeg(picture(size=(80, 120)), **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (80, 120, 3)
    path.write_bytes(whole + b"trailing bytes of a camera")
    assert read_image(path).shape == (80, 120, 3)
    for length in range(3, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidInputError, match="cut short"):
            read_image(path)


def test_a_thumbnail_does_not_hide_a_cut(tmp_path: Path) -> None:
    """The end mark of a picture embedded in a JPEG's header is not that of the JPEG."""
    whole, thumbnail = jpeg(picture(size=(200, 200))), jpeg(picture(1))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert read_image(path).shape == (200, 200, 3)
    path.write_bytes(whole[:2] + segment + whole[2:-200])
    with pytest.raises(InvalidInputError, match="cut short"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp"])
def test_other_files_cut_short_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), picture())
    data = path.read_bytes()
    assert read_image(path).shape == (40, 60, 3)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidInputError, match=r"cut short|damaged"):
        read_image(path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4), np.uint8), "grey.*COLOR_GRAY2BGR"),
        (np.zeros((4, 4, 1), np.uint8), "grey.*COLOR_GRAY2BGR"),
        (np.zeros((4, 4, 4), np.uint8), "four channels.*COLOR_BGRA2BGR"),
        (np.zeros((2, 4, 4, 3), np.uint8), "stack.*list"),
        (np.zeros((4, 4, 2), np.uint8), "wrong shape"),
        (np.zeros((4, 4, 3), np.float32), "wrong type.*float32.*uint8"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        ([[1, 2]], "found list"),
        (None, "found NoneType"),
    ],
)
def test_unusable_arrays_are_named(array: object, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_image(array)


def test_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture())
    for source in (path, str(path)):
        opened = open_source(source)
        (frame,) = opened
        assert (opened.kind, opened.total, opened.paths) == ("image", 1, (str(path),))
        assert np.array_equal(frame.image, picture())
        assert frame.source is not None
        assert str(frame.source) == str(path)
    (frame,) = open_source(picture())
    assert frame.source is None


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    (tmp_path / "a.png").rename(tmp_path / "picture")
    assert open_source(tmp_path / "picture").kind == "image"


def test_directory_in_order_with_skips(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "d.PNG"):
        cv2.imwrite(str(tmp_path / name), picture())
    (tmp_path / "c.jpg").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / "clip.mp4").write_bytes(b"")
    skips: list[Skip] = []
    frames = list(open_source(tmp_path, skips.append))
    assert [Path(str(frame.source)).name for frame in frames] == ["a.jpg", "b.png", "d.PNG"]
    assert [Path(skip.source).name for skip in skips] == ["c.jpg", "clip.mp4"]
    assert "not a picture" in skips[0].reason
    assert "video" in skips[1].reason


def test_skips_are_logged_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert list(open_source(tmp_path)) == []
    assert "a.jpg" in caplog.text
    assert "empty" in caplog.text


def test_glob_and_names_with_magic_characters(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c[1].png"):
        cv2.imwrite(str(tmp_path / name), picture())
    assert len(list(open_source(f"{tmp_path}/*.png"))) == 2
    assert len(list(open_source(f"{tmp_path}/**/*.png"))) == 3
    assert open_source(f"{tmp_path}/c[1].png").kind == "image"


def test_videos_by_pattern_and_directory(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.avi", "b.avi"):
        (folder / name).write_bytes(video.read_bytes())
    assert open_source(f"{folder}/a*").kind == "video"
    for several in (folder, f"{folder}/*.avi"):
        with pytest.raises(InvalidInputError, match=r"no pictures in .*; found 2 videos; give one of them"):
            open_source(several)
    (folder / "b.avi").unlink()
    assert open_source(folder).paths == (str(folder / "a.avi"),)


def test_lists_of_arrays_and_paths(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(1))
    skips: list[Skip] = []
    frames = list(open_source([picture(), tmp_path / "a.png", np.zeros((3, 3)), None], skips.append))
    assert [frame.source is None for frame in frames] == [True, False]
    assert [skip.source for skip in skips] == ["list[2]", "list[3]"]


def test_sources_are_lazy(tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture())
    frames = iter(open_source(tmp_path))
    next(frames)
    (tmp_path / "1.png").unlink()
    assert str(next(frames).source).endswith("2.png")


def test_video_frames_carry_number_and_time(video: Path) -> None:
    opened = open_source(video)
    assert (opened.kind, opened.total, opened.fps) == ("video", 20, 10.0)
    frames: list[Frame] = list(opened)
    assert [frame.source.frame for frame in frames if frame.source] == list(range(20))
    assert frames[10].source is not None
    assert frames[10].source.time_ms == pytest.approx(1000, abs=101)
    assert frames[10].image.shape == (40, 60, 3)
    assert len(list(opened)) == 20, "a source can be read again"


def test_a_video_cut_short_is_reported(video: Path) -> None:
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    skips: list[Skip] = []
    frames = list(open_source(video, skips.append))
    assert 0 < len(frames) < 20
    assert len(skips) >= 1
    assert "missing" in skips[-1].reason


def test_a_damaged_video_loses_nothing_silently(shared: Path, tmp_path: Path) -> None:
    data = bytearray((shared / "data/videos/tfjs_pose_squats.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20000] = bytes(20000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    skips: list[Skip] = []
    frames = list(open_source(path, skips.append))
    assert len(frames) > 55, "frames after the damage are read"
    assert len(skips) >= 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.jpg", None, "not found"),
        ("missing.mp4", None, "not found"),
        ("text.mp4", b"hello", "no video"),
        ("empty.mp4", b"", "no video"),
        ("none*.jpg", None, "no file matches"),
        ("x" * 5000, None, "too long"),
    ],
)
def test_unusable_sources(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=words):
        open_source(tmp_path / name if "*" not in name else f"{tmp_path}/{name}")


@pytest.mark.parametrize("source", [None, 1.5, [], True, {}, ""])
def test_unusable_kinds_of_source(source: object) -> None:
    with pytest.raises(InvalidInputError, match="source"):
        open_source(source)  # type: ignore[arg-type]


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no pictures"):
        open_source(tmp_path)


@pytest.mark.parametrize("index", [97, "97"])
def test_a_missing_camera_is_refused(index: int | str) -> None:
    with pytest.raises(InvalidInputError, match="camera 97"):
        open_source(index)


class FakeCamera:
    """A camera that is unplugged after three frames."""

    def __init__(self, index: int) -> None:
        self.index, self.left, self.released = index, 3, False

    def isOpened(self) -> bool:
        return True

    def get(self, _: int) -> float:
        return 15.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, picture(self.left)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize("index", [1, "1"])
def test_camera_frames_until_it_stops(index: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras: list[FakeCamera] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda i: cameras.append(FakeCamera(i)) or cameras[-1])
    opened = open_source(index, reconnect=0)
    assert (opened.kind, opened.total, opened.fps) == ("camera", None, 15.0)
    frames = iter(opened)
    assert [str(next(frames).source) for _ in range(3)] == [f"camera:1 frame {i}" for i in range(3)]
    with pytest.raises(InvalidInputError, match="camera 1 stopped after 3 frames"):
        next(frames)
    assert [(camera.index, camera.released) for camera in cameras] == [(1, True)]


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_file_that_is_no_picture_raises_when_it_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    source = open_source(path)
    with pytest.raises(InvalidInputError, match=r"a\.jpg"):
        list(source)
