"""Results to files or standard output, one picture at a time, of one source or several.

JSON lines and CSV grow with every picture. JSON, COCO and video appear under their name when they are
complete, or when the run ends early with what there is; until then they carry ``.part`` in the name.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from edgepose.annotation.outputs import picture_ids
from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.result import PoseResult
from edgepose.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, FrameSource

__all__ = [
    "FORMATS",
    "TEXT_FORMATS",
    "Writer",
    "infer_format",
    "names_directory",
    "names_picture",
    "open_writers",
]

FORMATS = ("json", "jsonl", "csv", "coco", "video", "images")
TEXT_FORMATS = ("json", "jsonl", "csv", "coco")
CSV_COLUMNS = (
    "source", "frame", "time_ms", "person", "track_id", "person_score", "joint", "x", "y", "score",
)  # fmt: skip
DEFAULT_FPS = 30.0
LONGEST_STILL_MS = 2000.0
"""How long a video stands still, at most, where a live source was lost."""
SUFFIXES = {"json": ".json", "jsonl": ".jsonl", "csv": ".csv", "coco": ".json", "video": ".mp4", "images": ""}
"""Of the files of several sources, by format."""


class Writer(Protocol):
    """Takes results one by one; `close` completes the output, also after an early end."""

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Add one picture's result."""

    def close(self) -> None:
        """Complete the output."""


def infer_format(output: str) -> str | None:
    """The format that an output path asks for by its suffix; a directory asks for pictures."""
    suffix = Path(output).suffix.lower()
    if names_directory(output) or suffix in IMAGE_SUFFIXES:
        return "images"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}.get(suffix)


def open_writers(format: str, output: str | None, sources: Sequence[FrameSource], every: int = 1) -> Writer:
    """Make what writes the results of sources.

    Several sources share one text file or standard output, whose entries name them; where `output` is a
    directory each has a file, or a directory of pictures, of its own there, named by the source.

    Args:
        format, output, every: as for `open_writer`.
        sources: in the order of ``Source.index``.

    Raises:
        InvalidInputError: as `open_writer`.
    """
    if len(sources) == 1:
        (source,) = sources
        return _open_for(source, format, output, every)
    every_path = [path for source in sources for path in source.paths]
    if output is None or not names_directory(output):
        return open_writer(format, output, single=False, fps=None, paths=every_path)
    opened: list[Writer] = []
    taken: set[str] = set()
    try:
        for source in sources:
            path = Path(output) / f"{_own_name(source, taken)}{SUFFIXES[format]}"
            _protect(path, every_path)
            opened.append(_open_for(source, format, str(path), every))
    except BaseException:
        Writers(opened).close()
        raise
    return Writers(opened)


def _open_for(source: FrameSource, format: str, output: str | None, every: int) -> Writer:
    return open_writer(
        format,
        output,
        single=source.kind == "image",
        fps=source.fps and source.fps / every,
        paths=source.paths,
        every=every,
        live=source.kind == "camera",
    )


def _own_name(source: FrameSource, taken: set[str]) -> str:
    """A file's name for a source that none of the others has."""
    name = Path(source.name).stem if source.paths else source.name
    name = re.sub(r"[^\w.-]+", "_", name).strip("_.") or "source"
    count, free = 1, name
    while free.casefold() in taken:
        count += 1
        free = f"{name}-{count}"
    taken.add(free.casefold())
    return free


class Writers:
    """A writer for each of several sources, in their order."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Hand a picture's result to the writer of its source."""
        assert frame.source is not None  # as several sources give them
        self._writers[frame.source.index or 0].write(frame, result)

    def close(self) -> None:
        """Complete all outputs."""
        with contextlib.ExitStack() as ends:
            for writer in self._writers:
                ends.callback(writer.close)


def open_writer(
    format: str,
    output: str | None,
    *,
    single: bool,
    fps: float | None,
    paths: Sequence[str],
    every: int = 1,
    live: bool = False,
) -> Writer:
    """Make a writer.

    Args:
        format: one of `FORMATS`.
        output: path, or None for standard output (text formats only).
        single: the source is one picture.
        fps: frames per second for a video.
        paths: files of the source, which are never overwritten. COCO's image ids are the numbers that
            name them, if all are so named, else their places in this list, from 1; in a video they
            are the frame's number plus 1.
        every: of the source's frames each such one comes, `fps` of them in a second. In a video those that
            are missing are made up for, so that it takes as long as the source.
        live: frames come when they do, whatever `fps` says: a camera's times decide what is made up for.

    Raises:
        InvalidInputError: the output would overwrite the source, or cannot be opened.
    """
    if output is not None:
        _protect(Path(output), paths)
        parent = Path(output) if format == "images" and not names_picture(output) else Path(output).parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInputError(f"cannot write to {output}; {error}; choose another place") from error
        if format != "images" and Path(output).is_dir():
            raise InvalidInputError(f"cannot write to {output}; it is a directory; give a file name")
    if format == "images":
        assert output is not None
        return PictureWriter(Path(output), single=names_picture(output), paths=paths)
    if format == "video":
        assert output is not None
        return VideoWriter(Path(output), fps or DEFAULT_FPS, every, live=live)
    if format == "coco":
        return JsonWriter(output, paths, coco=True)
    if format == "json":
        return SingleJsonWriter(output) if single else JsonWriter(output, paths, coco=False)
    return JsonLinesWriter(output) if format == "jsonl" else CsvWriter(output)


class SingleJsonWriter:
    """One picture as one JSON object."""

    def __init__(self, output: str | None) -> None:
        self._text = _Text(output, whole=True)
        self._written = False

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Write the object."""
        self._text.file.write(result.to_json() + "\n")
        self._written = True

    def close(self) -> None:
        """Complete the file, or leave none where the picture could not be used."""
        self._text.close(keep=self._written)


class JsonWriter:
    """A JSON array: one object per picture, or COCO's one object per person."""

    def __init__(self, output: str | None, paths: Sequence[str], *, coco: bool) -> None:
        self._text = _Text(output, whole=True)
        self._coco = coco
        self._ids = picture_ids(paths)
        self._separator = "[\n"

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Add the entries of one picture."""
        entries = result.to_coco(self._image_id(frame)) if self._coco else [result.to_dict()]
        for entry in entries:
            text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
            self._text.file.write(self._separator + text)
            self._separator = ",\n"

    def _image_id(self, frame: Frame) -> int:
        source = frame.source
        assert source is not None  # the command line reads files and cameras
        return self._ids[source.path] if source.frame is None else source.frame + 1

    def close(self) -> None:
        """Close the array."""
        self._text.file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._text.close()


class JsonLinesWriter:
    """One JSON object per line and picture."""

    def __init__(self, output: str | None) -> None:
        self._text = _Text(output)

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Add a line."""
        self._text.file.write(result.to_json() + "\n")
        self._text.file.flush()

    def close(self) -> None:
        """Close the file."""
        self._text.close()


class CsvWriter:
    """One row per joint, none of a picture without persons; what is not known is empty."""

    def __init__(self, output: str | None) -> None:
        self._text = _Text(output)
        self._rows = csv.writer(self._text.file, lineterminator="\n")
        self._rows.writerow(CSV_COLUMNS)

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Add the rows of one picture."""
        source = result.source
        where = ["", None, None] if source is None else [source.path, source.frame, source.time_ms]
        for number, person in enumerate(result):
            who = [number, person.track_id, f"{person.score:.4f}"]
            for name, joint in person.items():
                x, y = ("", "") if math.isnan(joint.x) else (f"{joint.x:.3f}", f"{joint.y:.3f}")
                self._rows.writerow([*where, *who, name, x, y, f"{joint.score:.4f}"])
        self._text.file.flush()

    def close(self) -> None:
        """Close the file."""
        self._text.close()


class PictureWriter:
    """Drawn pictures: one file, or a directory in which they keep their names."""

    def __init__(self, output: Path, *, single: bool, paths: Sequence[str]) -> None:
        self._output = output
        self._single = single
        self._paths = paths
        self._taken: set[Path] = set()

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Draw and write one picture."""
        cv2 = require_cv2("writing pictures")
        path = self._output if self._single else self._free_name(cv2, frame)
        _protect(path, self._paths)
        try:
            done, data = cv2.imencode(path.suffix, result.draw(frame.image))
        except cv2.error:
            done = False
        if not done:
            raise InvalidInputError(
                f"cannot write {path}; OpenCV cannot write {path.suffix} files; choose .jpg or .png"
            )
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(data.tobytes())
        part.replace(path)

    def _free_name(self, cv2: Any, frame: Frame) -> Path:
        source = frame.source
        name = Path("picture.jpg" if source is None else source.path.replace(":", "_")).name
        if source is not None and source.frame is not None:
            name = f"{Path(name).stem}_{source.frame:06d}.jpg"
        if not cv2.haveImageWriter(name):
            name += ".png"
        path = self._output / name
        count = 1
        while path in self._taken:
            count += 1
            path = self._output / f"{Path(name).stem}-{count}{Path(name).suffix}"
        self._taken.add(path)
        return path

    def close(self) -> None:
        """Nothing is left open."""


class VideoWriter:
    """A video with the poses drawn in; a frame stands for those that are missing before it."""

    def __init__(self, output: Path, fps: float, every: int = 1, *, live: bool = False) -> None:
        self._every = every
        self._live = live
        self._last: int | None = None
        self._last_ms: float | None = None
        self._due = 1.0  # frames that a live source's time until now takes
        self._written = 0
        self._output = output
        self._part = output.with_name(f"{output.stem}.part{output.suffix}")
        self._fps = fps
        self._size: tuple[int, int] | None = None
        self._writer: Any = None

    def write(self, frame: Frame, result: PoseResult) -> None:
        """Add one frame."""
        height, width = frame.image.shape[:2]
        if self._writer is None:
            cv2 = require_cv2("writing videos")
            codec = "MJPG" if self._output.suffix.lower() == ".avi" else "mp4v"
            code = cv2.VideoWriter.fourcc(*codec)
            self._writer = cv2.VideoWriter(str(self._part), code, self._fps, (width, height))
            self._size = (height, width)
            if not self._writer.isOpened():
                self._check_place()
                raise InvalidInputError(
                    f"cannot write {self._output}; this OpenCV cannot write such videos; choose .mp4 or .avi"
                )
        if self._size != (height, width):
            raise InvalidInputError(
                f"cannot write {self._output}; the frame size changed from {self._size} to "
                f"{(height, width)}; write --format images"
            )
        drawn = result.draw(frame.image)
        for _ in range(self._repeats(frame)):
            self._writer.write(drawn)

    def _check_place(self) -> None:
        """Refuse a place where no file can be written, which OpenCV does not tell from other failures."""
        try:
            self._part.write_bytes(b"")
            self._part.unlink()
        except OSError as error:
            raise InvalidInputError(
                f"cannot write to {self._output}; {error}; choose another place"
            ) from error

    def _repeats(self, frame: Frame) -> int:
        if self._live and frame.source is not None and frame.source.time_ms is not None:
            return self._repeats_live(frame.source.time_ms)
        number = None if frame.source is None else frame.source.frame
        last, self._last = self._last, number
        return 1 if number is None or last is None else max(round((number - last) / self._every), 1)

    def _repeats_live(self, time_ms: float) -> int:
        passed = 0.0 if self._last_ms is None else min(time_ms - self._last_ms, LONGEST_STILL_MS)
        self._last_ms = time_ms
        self._due += passed / 1e3 * self._fps
        repeats = max(round(self._due) - self._written, 1)
        self._written += repeats
        return repeats

    def close(self) -> None:
        """Complete the file.

        Raises:
            InvalidInputError: it is no whole video. OpenCV does not tell when a disk is full.
        """
        if self._writer is None:
            return
        opened = self._writer.isOpened()
        self._writer.release()
        if not opened:  # `write` has told why
            return
        if not _is_whole(self._part):
            raise InvalidInputError(
                f"cannot complete {self._output}; found that not all could be written to {self._part}; check "
                "the space on the disk"
            )
        self._part.replace(self._output)


def _is_whole(video: Path) -> bool:
    """Whether a video has its end: without it an MP4 cannot be opened; an AVI tells its size."""
    with video.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"RIFF"):
        return bool(struct.unpack("<4xI", head)[0] + 8 <= video.stat().st_size)
    capture = require_cv2("writing videos").VideoCapture(str(video))
    try:
        return bool(capture.isOpened())
    finally:
        capture.release()


class _Text:
    """A text file, or standard output. A `whole` file gets its name only when it is closed."""

    def __init__(self, output: str | None, *, whole: bool = False) -> None:
        self._target = None if output is None else Path(output)
        self._path = self._target
        if self._target is not None and whole:
            self._path = self._target.with_name(f"{self._target.name}.part")
        try:
            self.file: IO[str] = (
                sys.stdout if self._path is None else self._path.open("w", encoding="utf-8", newline="")
            )
        except OSError as error:
            raise InvalidInputError(f"cannot write to {output}; {error}; choose another place") from error

    def close(self, *, keep: bool = True) -> None:
        if self._path is None or self._target is None:
            self.file.flush()
            return
        self.file.close()
        if not keep:
            self._path.unlink()
        elif self._path != self._target:
            self._path.replace(self._target)


def names_directory(output: str) -> bool:
    """Whether an output path names a directory: one that is there, or a name that can be no file's."""
    path = Path(output)
    return path.is_dir() or output.endswith(os.sep) or not path.suffix


def names_picture(output: str) -> bool:
    """Whether an output path names one picture file, not a directory."""
    path = Path(output)
    return path.suffix.lower() in IMAGE_SUFFIXES and not output.endswith(os.sep) and not path.is_dir()


def _protect(output: Path, paths: Sequence[str]) -> None:
    """Refuse to overwrite the source."""
    if output.is_file() and any(Path(path).exists() and output.samefile(path) for path in paths):
        raise InvalidInputError(f"cannot write to {output}; it is the source itself; choose another name")
