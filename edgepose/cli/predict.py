"""``edgepose predict SOURCE...``: the poses in pictures, directories, videos, cameras or streams."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from edgepose.backends import read_model_spec
from edgepose.cli.arguments import add_machine_options, attempts, positive
from edgepose.cli.interrupts import Interrupts
from edgepose.cli.model_options import (
    add_estimator_options,
    add_model_option,
    check_task,
    estimator_options,
    open_detector,
)
from edgepose.cli.progress import Progress
from edgepose.cli.writers import (
    FORMATS,
    TEXT_FORMATS,
    infer_format,
    names_directory,
    names_picture,
    open_writers,
)
from edgepose.errors import BackendUnavailableError, InvalidInputError
from edgepose.estimator import Estimator, resolve_model
from edgepose.optional import require_cv2
from edgepose.result import PoseResult
from edgepose.sources import RECONNECT, Frame, FrameSource, Skip, open_sources
from edgepose.streams.stream import PoseStream

__all__ = ["add_parser"]

_DESCRIPTION = """Estimate the poses in a picture, directory, glob pattern, video, camera or network stream,
or in several of them at once through one model.

A top-down model takes the whole picture as the box of one person unless --boxes or --detector is given; a
bottom-up model, such as the packaged one named multi, finds all persons itself.
Without --format and --output, the joints of a single picture are printed as a table, and one line per
picture of any other source. A damaged item of a directory or video, and one of several sources that is
lost, is reported and skipped, and the exit code is then 1. Several sources share one text output, whose
entries name them; with a directory as --output each has a file or directory of its own there."""


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "predict",
        help="estimate the poses in pictures or a video",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="picture, directory, glob pattern (quoted), video, the number of a camera, a URL (rtsp://, "
        "http://), or csi://0 for the camera of a Jetson",
    )
    add_model_option(parser)
    parser.add_argument("--show", action="store_true", help="show the poses in a window; q or Esc ends")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="where to write; the suffix gives the format: .json .jsonl .csv, .mp4 .avi for a video, "
        ".jpg .png for a single drawn picture, a directory for several, or with --format for several sources",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the output; json, jsonl, csv and coco go to standard output where there is no "
        "--output. json: an object for a single picture, else an array",
    )
    form.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="JSON file with person boxes, [x1, y1, x2, y2] or [x1, y1, x2, y2, score] in pixels: a list "
        "of them for a single picture, or an object from file names to lists",
    )
    add_estimator_options(parser)
    parser.add_argument("--track", action="store_true", help="give people identities over time")
    parser.add_argument("--smooth", action="store_true", help="smooth the joints over time")
    parser.add_argument(
        "--every", type=positive, default=1, metavar="N", help="use each N-th frame alone (default: 1)"
    )
    parser.add_argument(
        "--detect-every",
        type=positive,
        default=1,
        metavar="N",
        help="have --detector look at each N-th frame, and look where the people were in between (default: "
        "1)",
    )
    parser.add_argument(
        "--latest",
        action="store_true",
        help="always go on with the newest frame and drop those that came meanwhile; a video is read at its "
        "own pace",
    )
    parser.add_argument(
        "--reconnect",
        type=attempts,
        default=RECONNECT,
        metavar="N|forever",
        help=f"attempts in a row to open a lost camera or stream again (default: {RECONNECT})",
    )
    add_machine_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    skips = _Skips()
    names = arguments.source if len(arguments.source) > 1 else arguments.source[0]
    sources = open_sources(names, skips, reconnect=arguments.reconnect)
    single = len(sources) == 1 and sources[0].kind == "image"
    output_format = _output_format(arguments, sources)
    model = resolve_model(arguments.model)
    if arguments.detect_every > 1 and arguments.detector is None:
        arguments.parser.error("--detect-every cannot be used; found no --detector; add one, or leave it out")
    check_task(arguments, read_model_spec(model), boxes=arguments.boxes)
    boxes = None if arguments.boxes is None else _read_boxes(arguments.boxes, sources)
    window = _Window(sources) if arguments.show else None
    # A single picture's joints are worth printing even when they are written to a file too.
    wanted = single if arguments.output else output_format is None
    report = _Report(single) if wanted else None

    with contextlib.ExitStack() as ends:
        options = estimator_options(arguments)
        if arguments.detector_family is not None:
            options["detector"] = ends.enter_context(open_detector(arguments))
        estimator = ends.enter_context(Estimator(model, **options))
        if window is not None:
            ends.callback(window.close)
        writer = None
        if output_format is not None:
            writer = open_writers(output_format, arguments.output, sources, arguments.every)
            ends.callback(writer.close)
        lines_on_screen = sys.stdout.isatty() and arguments.output is None
        progress = Progress(
            _total(sources, arguments.every), _unit(sources), hidden=lines_on_screen or single
        )
        ends.callback(progress.close)
        skips.progress = progress
        results = ends.enter_context(_stream(estimator, sources, arguments, boxes))
        done = 0
        interrupted = False
        try:
            with Interrupts() as interrupts:
                for frame, result in results.with_frames():
                    with interrupts.whole():
                        if report is not None:
                            report.add(result, estimator)
                        if writer is not None:
                            writer.write(frame, result)
                        done += 1
                        progress.step()
                    if window is not None and not window.show(frame, result):
                        break
        except KeyboardInterrupt:
            interrupted = True
    if results.dropped:
        print(f"edgepose: {results.dropped} frames dropped for newer ones", file=sys.stderr)
    if results.reconnects:
        print(f"edgepose: {results.reconnects} reconnects", file=sys.stderr)
    return _summary(arguments, sources, skips, done, interrupted)


def _stream(
    estimator: Estimator, sources: list[FrameSource], arguments: argparse.Namespace, boxes: _Boxes | None
) -> PoseStream:
    names = ("latest", "track", "smooth", "every", "detect_every")
    options = {name: getattr(arguments, name) for name in names}
    return estimator.stream(sources, boxes=None if boxes is None else boxes.of, **options)


def _unit(sources: list[FrameSource]) -> str:
    return "pictures" if all(source.kind in ("image", "images") for source in sources) else "frames"


def _total(sources: list[FrameSource], every: int) -> int | None:
    """Pictures that are used of all sources together, as far as known."""
    totals = [source.total and math.ceil(source.total / every) for source in sources]
    return sum(total for total in totals if total) if all(totals) else None


def _output_format(arguments: argparse.Namespace, sources: list[FrameSource]) -> str | None:
    """The format to write, checked against output and source; ends with exit code 2 where it cannot be."""
    error = arguments.parser.error
    output, chosen = arguments.output, arguments.format
    if output is None:
        if chosen in ("video", "images") or (chosen == "coco" and len(sources) > 1):
            error(f"--format {chosen} needs --output")
        return str(chosen) if chosen else None
    chosen = chosen or infer_format(output)
    if chosen is None:
        error(f"cannot tell the format of {output} by its suffix; add --format {'|'.join(FORMATS)}")
    told = " and ".join(arguments.source)
    if chosen == "video" and any(source.kind not in ("video", "camera") for source in sources):
        error(f"a video can only be written of a video or camera, not of {told}")
    pictures = len(sources) > 1 or sources[0].kind != "image"
    if chosen == "images" and pictures and names_picture(output):
        error(f"{told} gives several pictures; let --output name a directory, not {output}")
    if len(sources) > 1 and chosen in ("video", "coco") and not names_directory(output):
        error(
            f"--format {chosen} needs a file for each of several sources; found {output}; let --output name "
            "a directory"
        )
    if chosen in TEXT_FORMATS and infer_format(output) in ("images", "video") and Path(output).suffix:
        error(f"--format {chosen} does not fit the name {output}")
    return str(chosen)


def _summary(
    arguments: argparse.Namespace, sources: list[FrameSource], skips: _Skips, done: int, interrupted: bool
) -> int:
    unit = _unit(sources)
    many = len(sources) > 1 or sources[0].kind != "image"
    if arguments.output and (many or interrupted):
        print(f"edgepose: {done} {unit} done, written to {arguments.output}", file=sys.stderr)
    elif arguments.output:
        print(f"edgepose: written to {arguments.output}", file=sys.stderr)
    if skips.count:
        print(f"edgepose: {skips.count} skipped, {done} {unit} done; see above", file=sys.stderr)
    if interrupted:
        print(f"edgepose: interrupted after {done} {unit}", file=sys.stderr)
        return 130
    return 1 if skips.count or not done else 0


class _Skips:
    """Counts and reports skipped items."""

    def __init__(self) -> None:
        self.count = 0
        self.progress: Progress | None = None

    def __call__(self, skip: Skip) -> None:
        self.count += 1
        text = f"edgepose: {skip}"
        if self.progress is None:
            print(text, file=sys.stderr)
        else:
            self.progress.message(text)


class _Report:
    """What is printed for people: a table for one picture, else a line per picture."""

    def __init__(self, single: bool) -> None:
        self._single = single

    def add(self, result: PoseResult, estimator: Estimator) -> None:
        """Print one result."""
        height, width = result.image_size
        persons = "1 person" if len(result) == 1 else f"{len(result)} persons"
        if result.truncated:
            persons += ", maybe more: a limit was hit, see --max-persons"
        line = f"{result.source}  {width}x{height}  {persons}"
        if not self._single:
            scores = " ".join(f"{person.score:.2f}" for person in result)
            if result.track_ids is not None:
                line += f"  tracks {' '.join(map(str, result.track_ids)) or '-'}"
            print(f"{line}  scores {scores or '-'}  {result.timings.total:.1f} ms")
            return
        info = estimator.info
        print(line)
        print(f"{info.spec.name} on {info.backend['name']} {info.backend['device']}, {_times(result)}")
        for number, person in enumerate(result, 1):
            box = " ".join(f"{value:.0f}" for value in person.box)
            print(f"\nperson {number}  score {person.score:.2f}  box {box}")
            width_of_name = max(map(len, person))
            print(f"  {'joint':<{width_of_name}}  {'x':>8}  {'y':>8}  score")
            for name, joint in person.items():
                x, y = ("-", "-") if math.isnan(joint.x) else (f"{joint.x:.1f}", f"{joint.y:.1f}")
                print(f"  {name:<{width_of_name}}  {x:>8}  {y:>8}  {joint.score:5.2f}")


def _times(result: PoseResult) -> str:
    times = result.timings
    return (
        f"{times.total:.1f} ms (preprocess {times.preprocess:.1f}, inference {times.inference:.1f}, "
        f"postprocess {times.postprocess:.1f})"
    )


class _Boxes:
    """Person boxes by picture."""

    def __init__(self, path: str, boxes: dict[str, Any] | list[Any]) -> None:
        self._path = path
        self._boxes = boxes

    def of(self, frame: Frame) -> Any:
        """The boxes of a picture, looked up by its path, then by its file name."""
        if isinstance(self._boxes, list):
            return self._boxes
        path = "" if frame.source is None else frame.source.path
        for key in (path, Path(path).name):
            if key in self._boxes:
                return self._boxes[key]
        raise InvalidInputError(f"no boxes for {Path(path).name}; {self._path} has none; add them")


def _read_boxes(path: str, sources: list[FrameSource]) -> _Boxes:
    try:
        boxes = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"cannot read boxes from {path}; {error}; give a JSON file") from error
    for source in sources:
        if source.kind not in ("image", "images"):
            raise InvalidInputError(
                f"--boxes serves pictures; found the {source.kind} {source.name}; leave it out"
            )
    single = len(sources) == 1 and sources[0].kind == "image"
    if not isinstance(boxes, dict) and not (isinstance(boxes, list) and single):
        raise InvalidInputError(
            f"cannot use the boxes in {path}; found a JSON {type(boxes).__name__}; give an object from file "
            "names to lists of boxes"
        )
    return _Boxes(path, boxes)


class _Window:
    """A window on the screen for each source.

    Raises:
        BackendUnavailableError: there is no display, or OpenCV was built without windows.
    """

    TITLE = "edgepose"
    KEYS = (ord("q"), 27)

    def __init__(self, sources: list[FrameSource]) -> None:
        self._cv2 = require_cv2("--show")
        self._wait = 0 if len(sources) == 1 and sources[0].kind == "image" else 1
        many = len(sources) > 1
        self._titles = [
            f"{self.TITLE} {place}: {source.name}" if many else self.TITLE
            for place, source in enumerate(sources, 1)
        ]
        remedy = "leave --show out and use --output"
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise BackendUnavailableError(f"--show needs a display; found none; {remedy}")
        try:
            for title in self._titles:
                self._cv2.namedWindow(title, self._cv2.WINDOW_NORMAL)
        except self._cv2.error as error:
            raise BackendUnavailableError(
                f"--show needs an OpenCV with windows; this one has none; install opencv-python, or {remedy}"
            ) from error

    def show(self, frame: Frame, result: PoseResult) -> bool:
        """Show one picture; False when the user wants to end."""
        place = (frame.source.index or 0) if frame.source else 0
        self._cv2.imshow(self._titles[place], result.draw(frame.image))
        return self._cv2.waitKey(self._wait) & 0xFF not in self.KEYS

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()
