"""Pictures from files, directories, globs, videos, cameras, streams and arrays, one at a time."""

from __future__ import annotations

import glob
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.result import Source
from edgepose.streams.addresses import is_address, parse_address
from edgepose.streams.frames import Frame, FrameSource, Image, OnSkip, Reading, Skip, log_skip
from edgepose.streams.live import RECONNECT, open_live
from edgepose.streams.video import open_video

__all__ = [
    "RECONNECT",
    "Frame",
    "FrameSource",
    "OnSkip",
    "Skip",
    "SourceLike",
    "check_image",
    "decode_image",
    "holds_video",
    "is_video",
    "list_files",
    "log_skip",
    "open_source",
    "open_sources",
    "read_frame",
    "read_image",
]

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

SourceLike = str | os.PathLike[str] | int | NDArray[Any] | FrameSource | Sequence[Any]


def open_source(
    source: SourceLike, on_skip: OnSkip | None = None, *, reconnect: int | None = RECONNECT
) -> FrameSource:
    """Open anything that holds pictures.

    Args:
        source: path of a picture, directory or video; a glob pattern; a BGR uint8 array (H, W, 3); a list of
            paths and arrays of pictures; the number or device file of a camera; a URL (``rtsp://``,
            ``http://`` and others that FFmpeg reads); ``csi://0``, a Jetson's camera, also with options:
            ``csi://0?width=1920&height=1080&fps=30&flip=2&sensor_mode=1``; or ``gstreamer:PIPELINE``, a
            pipeline that ends in an appsink for BGR.
        on_skip: called with a `Skip` for each item of a directory, glob, list or video that cannot be
            used; by default it is logged as a warning. A picture given alone raises instead.
        reconnect: how many times in a row a camera or stream that was lost is opened again, after waits
            from half a second to half a minute; 0: never; None: for ever. What is lost for good raises.

    Raises:
        InvalidInputError: there is no such source, or nothing in it.
        BackendUnavailableError: OpenCV is missing, or lacks what the source needs.
    """
    if reconnect is not None and (
        not isinstance(reconnect, int) or isinstance(reconnect, bool) or reconnect < 0
    ):
        raise InvalidInputError(
            f"reconnect is not usable; found {reconnect!r}; give a whole number of at least 0, or None"
        )
    if isinstance(source, FrameSource):
        return source
    if isinstance(source, np.ndarray):
        frame = Frame(check_image(source))
        return FrameSource("array", "image", lambda _: iter([frame]), on_skip, total=1)
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return open_live(int(source), on_skip, reconnect=reconnect)
    if isinstance(source, (list, tuple)):
        if not source:
            raise InvalidInputError("the source is an empty list; give at least one picture")
        return _pictures("list", list(source), on_skip)
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidInputError(
            f"not a source; found {type(source).__name__}; give a path, a glob pattern, a camera number, "
            "an address, a BGR uint8 array or a list of those"
        )
    name = os.fspath(source)
    if is_address(name):
        return open_live(name, on_skip, reconnect=reconnect)
    return _open_path(name, on_skip, reconnect)


def open_sources(
    source: SourceLike, on_skip: OnSkip | None = None, *, reconnect: int | None = RECONNECT
) -> list[FrameSource]:
    """Open one source, or each of a list that holds more than pictures; see `open_source`.

    A list of paths and arrays of pictures is one source. With a camera, stream, video, directory, pattern or
    `FrameSource` in it, each item is a source of its own.

    Raises:
        InvalidInputError: one cannot be opened; none is left open.
    """
    if not isinstance(source, (list, tuple)) or not any(_is_source(item) for item in source):
        return [open_source(source, on_skip, reconnect=reconnect)]
    opened: list[FrameSource] = []
    try:
        for item in source:
            opened.append(open_source(item, on_skip, reconnect=reconnect))
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def _is_source(item: Any) -> bool:
    """Whether an item of a list is a source by itself, and no picture."""
    if isinstance(item, FrameSource):
        return True
    if isinstance(item, (int, np.integer)):
        return not isinstance(item, bool)
    if not isinstance(item, (str, os.PathLike)):
        return False
    name = os.fspath(item)
    path = Path(name)
    try:
        if path.exists():
            return path.is_dir() or path.is_char_device() or is_video(path)
    except OSError:
        return False
    return is_address(name) or name.isdecimal() or is_video(name) or glob.has_magic(name)


def list_files(source: str | os.PathLike[str]) -> list[str]:
    """The picture and video files that a path, directory or glob pattern stands for; none is opened.

    Raises:
        InvalidInputError: there is none, or the source is a camera or stream.
    """
    name = os.fspath(source)
    if is_address(name) or _is_camera(name):
        raise InvalidInputError(
            f"a camera or stream has no files; found {parse_address(name).label}; give paths, directories or "
            "patterns"
        )
    return _held(name) or [name]


def _open_path(name: str, on_skip: OnSkip | None, reconnect: int | None) -> FrameSource:
    if _is_camera(name):
        return open_live(name if Path(name).exists() else int(name), on_skip, reconnect=reconnect)
    files = _held(name)
    if files is not None:
        return _files(name, files, on_skip)
    if holds_video(name):
        return open_video(name, on_skip)
    return FrameSource(name, "image", lambda _: iter([read_frame(name)]), on_skip, total=1, paths=(name,))


def _is_camera(name: str) -> bool:
    try:
        return Path(name).is_char_device() or (name.isdecimal() and not Path(name).exists())
    except OSError:  # a path that cannot be looked at; told by `_held`
        return False


def _held(name: str) -> list[str] | None:
    """The files of a directory or pattern; None where the name is that of a file.

    Raises:
        InvalidInputError: there is none.
    """
    if not name:
        raise InvalidInputError("the source is an empty name; give a path, a pattern or an address")
    path = Path(name)
    try:
        if path.is_dir():
            suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
            files = sorted(str(file) for file in path.iterdir() if file.suffix.lower() in suffixes)
            if not files:
                raise InvalidInputError(f"no pictures in the directory {name}; give one that holds some")
            return files
        if path.exists():
            return None
        if not glob.has_magic(name):
            raise InvalidInputError(f"source not found: {name}; check the path")
        files = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())  # noqa: PTH207
        if not files:
            raise InvalidInputError(f"no file matches {name}; check the pattern")
        return files
    except OSError as error:  # for instance no permission, or a name that is too long
        raise InvalidInputError(f"cannot open {name}; {error.strerror}; check the path") from error


def _files(name: str, files: list[str], on_skip: OnSkip | None) -> FrameSource:
    """The pictures of a directory or pattern; a video where it is all that there is."""
    if not all(map(is_video, files)):
        return _pictures(name, files, on_skip)
    if len(files) == 1:
        return open_video(files[0], on_skip)
    raise InvalidInputError(
        f"no pictures in {name}; found {len(files)} videos; give one of them, or a list, whose videos run "
        "side by side"
    )


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read a picture file as BGR uint8 (H, W, 3), its EXIF orientation applied.

    Raises:
        InvalidInputError: there is no such file, or it is no picture, or it is cut short.
        BackendUnavailableError: OpenCV is not installed.
    """
    require_cv2("reading pictures")
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
    return decode_image(data, name)


def decode_image(data: bytes, name: str) -> Image:
    """The content of a picture file as BGR uint8 (H, W, 3), its EXIF orientation applied.

    Args:
        data: of the file.
        name: of the picture, for messages.

    Raises:
        InvalidInputError: it is no picture, or cut short.
        BackendUnavailableError: OpenCV is not installed.
    """
    cv2 = require_cv2("reading pictures")
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


def holds_video(path: str) -> bool:
    """Whether to open an existing file as a video: by its name, else by its content."""
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return False
    if is_video(path):
        return True
    cv2 = require_cv2("reading pictures")
    if cv2.haveImageReader(path):
        return False
    capture = cv2.VideoCapture(path)
    try:
        return bool(capture.isOpened())
    finally:
        capture.release()


def read_frame(path: str | os.PathLike[str]) -> Frame:
    """A picture file as a frame; raises as `read_image`."""
    return Frame(read_image(path), Source(os.fspath(path)))


def _pictures(name: str, items: list[Any], on_skip: OnSkip | None) -> FrameSource:
    def frames(reading: Reading) -> Iterator[Frame]:
        for index in range(0, len(items), reading.every):
            item = items[index]
            label = os.fspath(item) if isinstance(item, (str, os.PathLike)) else f"{name}[{index}]"
            try:
                if isinstance(item, (str, os.PathLike)):
                    if is_video(item):
                        raise InvalidInputError("it is a video; give it alone")
                    frame = read_frame(item)
                else:
                    frame = Frame(check_image(item, label))
            except InvalidInputError as error:
                reading.on_skip(Skip(label, str(error)))
                continue
            yield frame

    files = all(isinstance(item, (str, os.PathLike)) for item in items)
    paths = tuple(os.fspath(item) for item in items) if files else ()
    return FrameSource(name, "images", frames, on_skip, total=len(items), paths=paths)


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
