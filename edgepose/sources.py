"""Pictures from files, directories, globs, videos, cameras and arrays, one at a time."""

from __future__ import annotations

import glob
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.result import Source

__all__ = ["Frame", "FrameSource", "Skip", "check_image", "open_source", "read_image"]

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm",
        ".pbm", ".pnm", ".gif", ".avif", ".heic",
    )
)  # fmt: skip
VIDEO_SUFFIXES = frozenset(
    (
        ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mjpeg",
        ".3gp",
    )
)  # fmt: skip
# Containers that store the number of frames; in others OpenCV estimates it.
_COUNTED_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi"])
_MAX_BAD_READS = 100

_log = logging.getLogger("edgepose")

Image = NDArray[np.uint8]
SourceLike = str | os.PathLike[str] | int | NDArray[Any] | Sequence[Any]


@dataclass(frozen=True)
class Frame:
    """A picture, BGR uint8 (H, W, 3), and where it came from (None for an array)."""

    image: Image
    source: Source | None = None


@dataclass(frozen=True)
class Skip:
    """An item of a source that could not be used, and why."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"skipped {self.source}: {self.reason}"


OnSkip = Callable[[Skip], None]


class FrameSource:
    """An iterable over the frames of a source; reads lazily and holds one frame at a time.

    Attributes:
        name: what was opened.
        kind: ``"image"`` (one picture), ``"images"``, ``"video"`` or ``"camera"``.
        total: number of items, as far as known beforehand.
        fps: frames per second of a video or camera, as far as known.
        paths: the files of an ``"image"`` or ``"images"`` source that is made of files.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["image", "images", "video", "camera"],
        frames: Callable[[OnSkip], Iterator[Frame]],
        on_skip: OnSkip | None,
        *,
        total: int | None = None,
        fps: float | None = None,
        paths: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.total = total
        self.fps = fps
        self.paths = paths
        self._frames = frames
        self._on_skip = on_skip or log_skip

    def __iter__(self) -> Iterator[Frame]:
        return self._frames(self._on_skip)


def log_skip(skip: Skip) -> None:
    """Report a skip as a warning of the ``edgepose`` logger."""
    _log.warning("%s", skip)


def open_source(source: SourceLike, on_skip: OnSkip | None = None) -> FrameSource:
    """Open anything that holds pictures.

    Args:
        source: path of a picture, directory or video; a glob pattern; the number of a camera; a BGR
            uint8 array (H, W, 3); or a list of paths and arrays.
        on_skip: called with a `Skip` for each item of a directory, glob, list or video that cannot be
            used; by default it is logged as a warning. A picture given alone raises instead.

    Raises:
        InvalidInputError: there is no such source, or nothing in it.
    """
    if isinstance(source, np.ndarray):
        frame = Frame(check_image(source))
        return FrameSource("array", "image", lambda _: iter([frame]), on_skip, total=1)
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return _camera(int(source), on_skip)
    if isinstance(source, (list, tuple)):
        if not source:
            raise InvalidInputError("the source is an empty list; give at least one picture")
        return _pictures("list", list(source), on_skip)
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidInputError(
            f"not a source; found {type(source).__name__}; give a path, a glob pattern, a camera number, "
            "a BGR uint8 array or a list of those"
        )
    name = os.fspath(source)
    try:
        return _open_path(name, on_skip)
    except OSError as error:  # for instance no permission, or a name that is too long
        raise InvalidInputError(f"cannot open {name}; {error.strerror}; check the path") from error


def _open_path(name: str, on_skip: OnSkip | None) -> FrameSource:
    path = Path(name)
    if name.isdecimal() and not path.exists():
        return _camera(int(name), on_skip)
    if path.is_dir():
        files = sorted(
            str(file) for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        )
        if not files:
            raise InvalidInputError(f"no pictures in the directory {name}; give one that holds some")
        return _pictures(name, files, on_skip)
    if not path.exists():
        if glob.has_magic(name):
            matches = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())  # noqa: PTH207
            if matches:
                return _pictures(name, matches, on_skip)
            raise InvalidInputError(f"no file matches {name}; check the pattern")
        raise InvalidInputError(f"source not found: {name}; check the path")
    if _is_video(path):
        return _video(name, on_skip)
    return FrameSource(name, "image", lambda _: iter([_read_frame(name)]), on_skip, total=1, paths=(name,))


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read a picture file as BGR uint8 (H, W, 3), its EXIF orientation applied.

    Raises:
        InvalidInputError: there is no such file, or it is no picture, or it is cut short.
        BackendUnavailableError: OpenCV is not installed.
    """
    cv2 = require_cv2("reading pictures")
    name = os.fspath(path)
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError:
        raise InvalidInputError(f"picture not found: {name}; check the path") from None
    except IsADirectoryError:
        raise InvalidInputError(
            f"cannot read a picture; {name} is a directory; give a file, or use Estimator.stream"
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {name}; {error}; check the path") from error
    if not data:
        raise InvalidInputError(f"cannot read {name}; the file is empty; give a picture")
    if _is_cut_short(data):
        raise InvalidInputError(f"cannot read {name}; the file is cut short; get a complete copy")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InvalidInputError(f"cannot read {name}; {error.err}; give another picture") from error
    if image is None:
        raise InvalidInputError(
            f"cannot read {name}; it is damaged or not a picture; give a JPEG, PNG or other picture file"
        )
    return image  # type: ignore[no-any-return]


def check_image(image: object, name: str = "image") -> Image:
    """Check that an array is a picture as edgepose takes it.

    Raises:
        InvalidInputError: it is not BGR uint8 of shape (H, W, 3); the message tells how to convert.
    """
    if not isinstance(image, np.ndarray):
        hint = (
            "convert it: numpy.asarray(image.convert('RGB'))[:, :, ::-1]"
            if type(image).__module__.startswith("PIL.")
            else "give a path or a BGR uint8 array of shape (height, width, 3)"
        )
        raise InvalidInputError(f"{name} is not a picture; found {type(image).__name__}; {hint}")
    found = f"found shape {image.shape}, dtype {image.dtype}"
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise InvalidInputError(
            f"{name} is grey; {found}; convert it: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
        )
    if image.ndim == 3 and image.shape[2] == 4:
        raise InvalidInputError(
            f"{name} has four channels; {found}; convert it: cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)"
        )
    if image.ndim == 4:
        raise InvalidInputError(f"{name} is a stack of pictures; {found}; give a list: list(images)")
    if image.ndim != 3 or image.shape[2] != 3:
        raise InvalidInputError(f"{name} has the wrong shape; {found}; give (height, width, 3)")
    if image.dtype != np.uint8:
        raise InvalidInputError(f"{name} has the wrong type; {found}; give uint8 values from 0 to 255")
    if not image.size:
        raise InvalidInputError(f"{name} is empty; {found}; give at least one pixel")
    return image


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file is named like a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _is_video(path: Path) -> bool:
    """Whether to open an existing file as a video: by its name, else by its content."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return False
    if is_video(path):
        return True
    cv2 = require_cv2("reading pictures")
    if cv2.haveImageReader(str(path)):
        return False
    capture = cv2.VideoCapture(str(path))
    try:
        return bool(capture.isOpened())
    finally:
        capture.release()


def _read_frame(path: str | os.PathLike[str]) -> Frame:
    return Frame(read_image(path), Source(os.fspath(path)))


def _pictures(name: str, items: list[Any], on_skip: OnSkip | None) -> FrameSource:
    def frames(skip: OnSkip) -> Iterator[Frame]:
        for index, item in enumerate(items):
            label = os.fspath(item) if isinstance(item, (str, os.PathLike)) else f"{name}[{index}]"
            try:
                if isinstance(item, (str, os.PathLike)):
                    if is_video(item):
                        raise InvalidInputError("it is a video; give it alone")
                    frame = _read_frame(item)
                else:
                    frame = Frame(check_image(item, label))
            except InvalidInputError as error:
                skip(Skip(label, str(error)))
                continue
            yield frame

    files = all(isinstance(item, (str, os.PathLike)) for item in items)
    paths = tuple(os.fspath(item) for item in items) if files else ()
    return FrameSource(name, "images", frames, on_skip, total=len(items), paths=paths)


def _video(path: str, on_skip: OnSkip | None) -> FrameSource:
    cv2 = require_cv2("reading videos")

    def opened() -> Any:
        capture = cv2.VideoCapture(path)
        if not capture.isOpened():
            raise InvalidInputError(
                f"cannot read {path}; OpenCV finds no video in it; check that it is complete, or convert "
                "it to MP4 (H.264)"
            )
        return capture

    capture = opened()
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    fps = fps if np.isfinite(fps) and fps > 0 else 0.0
    count = max(count, 0)

    def frames(skip: OnSkip) -> Iterator[Frame]:
        capture = opened()
        position = bad = 0
        time_ms = 0.0
        try:
            while True:
                usable, image = capture.read()
                if not usable:
                    # A damaged frame fails to read and the next one may be good; at the end all fail.
                    bad += 1
                    if bad > _MAX_BAD_READS or position + bad >= max(count, 1):
                        break
                    continue
                if bad:
                    skip(Skip(f"{path} frames {position} to {position + bad - 1}", "unreadable"))
                    position, bad = position + bad, 0
                time_ms = float(capture.get(cv2.CAP_PROP_POS_MSEC))
                yield Frame(image, Source(path, position, time_ms))
                position += 1
        finally:
            capture.release()
        missing = count - position
        counted = Path(path).suffix.lower() in _COUNTED_SUFFIXES
        early = bool(fps) and time_ms + 1000 / fps < 980 * count / fps - 500
        if not position:
            skip(Skip(path, "it holds no readable frame"))
        elif missing > 1 and (counted or early):
            skip(Skip(f"{path} from frame {position}", f"{missing} of {count} frames are missing"))

    return FrameSource(path, "video", frames, on_skip, total=count or None, fps=fps or None, paths=(path,))


def _camera(index: int, on_skip: OnSkip | None) -> FrameSource:
    cv2 = require_cv2("reading a camera")
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        capture.release()
        raise InvalidInputError(
            f"cannot open camera {index}; OpenCV finds none; check the number and the permissions"
        )
    fps = float(capture.get(cv2.CAP_PROP_FPS))

    def frames(_: OnSkip) -> Iterator[Frame]:
        position = 0
        try:
            while True:
                usable, image = capture.read()
                if not usable:
                    raise InvalidInputError(
                        f"camera {index} stopped after {position} frames; check that it is connected"
                    )
                yield Frame(image, Source(f"camera:{index}", position))
                position += 1
        finally:
            capture.release()

    return FrameSource(f"camera:{index}", "camera", frames, on_skip, fps=fps if fps > 0 else None)


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def _is_cut_short(data: bytes) -> bool:
    """Whether a JPEG, PNG or WebP file ends before its own end mark.

    Some decoders fill the missing part of such a picture with grey and report nothing.
    """
    if data.startswith(b"\xff\xd8"):
        position = 2
        while True:
            # Within scans 0xFF is followed by 0 or a restart marker; whatever else follows is a marker.
            match = _JPEG_MARKER.search(data, position)
            if match is None:
                return True
            if match.group()[1] == 0xD9:
                return False
            position = match.end()
            if match.group()[1] != 0x01:  # all others carry their length
                if position + 2 > len(data):
                    return True
                position += struct.unpack_from(">H", data, position)[0]
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        position = 8
        while position + 12 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            position += 12 + length
            if kind == b"IEND":
                return bool(position > len(data))
        return True
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return bool(struct.unpack_from("<I", data, 4)[0] > len(data) - 8)
    return False
