"""Run videos and several sources: ``python benchmarks/streams.py [--video FILE]``.

Prints how many frames of a 1280x720 video go through the packaged models in a second, read, drawn and written
to a video, also through rtmlib's classes where it is installed; what the host does for a frame outside of
network and codec; and rate and latency of several sources through one model. The contestants of a table take
turns; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import describe, table
from rtmlib_peer import detector_file, one_stage_file, peer, peer_loop, peer_version

from edgepose import Estimator, Frame, FrameSource, OneEuro, PoseResult, Source, Tracker
from edgepose.bench.frames import people_frame
from edgepose.catalog import resolve_model
from edgepose.pipeline.regions import input_region

SIZE = (720, 1280)
FPS = 25
PERSONS = 3
"""People in the made video."""
SHAKE = 12
"""Pixels by which they move to and fro."""
WAYS = {"poses": (False, False), "drawn": (True, False), "written": (False, True), "both": (True, True)}
"""What is done with the poses, by its name in the table: drawn into the frame, written as MP4."""
SOURCES = (1, 2, 4, 8)
WARM_UP = 5

Picture = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, help="a video of 1280x720 (default: one made for the run)")
    parser.add_argument("--frames", type=int, default=150, help="of the made video")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant runs the video")
    parser.add_argument("--seconds", type=float, default=6, help="of each run of several live sources")
    parser.add_argument("--parts", nargs="+", choices=("video", "host", "growth"), help="default: all")
    arguments = parser.parse_args()
    parts = arguments.parts or ("video", "host", "growth")
    print(describe() + f" OpenCV {cv2.__version__}. {arguments.rounds} rounds.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = arguments.video or made_video(folder / "made.mp4", PERSONS, arguments.frames)
        if "video" in parts:
            print("\n" + whole_videos(folder, video, arguments.rounds), flush=True)
        if "host" in parts:
            print("\n" + host_times(30 * arguments.rounds), flush=True)
        if "growth" in parts:
            one = made_video(folder / "one.mp4", 1, max(arguments.frames, int(arguments.seconds * FPS)))
            print("\n" + growth(one, arguments.rounds, arguments.seconds), flush=True)


def made_frames(persons: int, count: int) -> tuple[list[Picture], list[np.ndarray]]:
    """Copies of the packaged photo that move to and fro, and the boxes of the people in each frame."""
    still, boxes = people_frame(persons, SIZE)
    shifts = [round(SHAKE * np.sin(number / 8)) for number in range(count)]
    moved = [boxes + np.float32([shift, 0, shift, 0]) for shift in shifts]
    return [np.roll(still, shift, axis=1) for shift in shifts], moved


def made_video(path: Path, persons: int, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE[::-1])
    frames, _ = made_frames(persons, min(count, 50))
    for number in range(count):
        writer.write(frames[number % len(frames)])
    writer.release()
    return path


def whole_videos(folder: Path, video: Path, rounds: int) -> str:
    """From file to poses, and to a file again."""
    capture = cv2.VideoCapture(str(video))
    usable, frame = capture.read()
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if not usable or frame.shape[:2] != SIZE:
        raise SystemExit(
            f"{video} cannot be used; found {frame.shape if usable else 'no frame'}; give 1280x720"
        )
    _, boxes = people_frame(PERSONS, SIZE)
    version = peer_version()
    rows = []
    with ExitStack() as ends:
        multi = ends.enter_context(Estimator("multi"))
        detector = detector_file(folder / "detector.onnx", boxes, SIZE)
        models = {
            "top-down": ends.enter_context(Estimator(detector=detector)),
            "multi": multi,
        }
        peers: dict[str, Any] = {}
        if version is None:
            print("rtmlib is not installed, so that it is not compared; pip install rtmlib", file=sys.stderr)
        else:
            default = resolve_model(None)
            peers["top-down"] = peer(default, models["top-down"].info.spec.input_size, detector)
            spec = multi.info.spec
            size = input_region(*SIZE, spec.input_size[0]).size
            joints = np.stack([[np.linspace(b[:2], b[2:], len(spec.skeleton))] for b in boxes])[:, 0]
            scaled = (joints * min(size[0] / SIZE[0], size[1] / SIZE[1])).astype(np.float32)
            made = one_stage_file(folder / "one_stage.onnx", resolve_model("multi"), spec, scaled)
            peers["multi"] = peer(made, size)
        for kind, estimator in models.items():
            for way, (draw, write) in WAYS.items():
                output = folder / "out.mp4" if write else None
                rows.append(
                    [f"{kind}, {way}", *video_row(estimator, peers.get(kind), video, draw, output, rounds)]
                )
    heads = ["frames/s", "edgepose", "one at a time", *([] if version is None else ["rtmlib", "ratio"])]
    heads += ["CPU ms a frame", *([] if version is None else ["rtmlib's"])]
    note = (
        f"A video of 1280x720, {count} frames, from opening to closing the files. Top-down: a detector of "
        f"YOLOX's form and 1.1 GFLOPs with random weights that finds the same {PERSONS} people in each "
        "frame, and the packaged default for each; multi: the packaged bottom-up model. One at a time: "
        "`workers=1`. CPU: the time of all threads of the process."
    )
    if version is not None:
        note += (
            f" rtmlib {version}, in the loop of its README: top-down the same two files by `Custom` with its "
            "YOLOX and ViTPose, its class for heatmaps; multi by its `RTMO`, the same network at the same "
            "input size, with outputs of RTMO's form put behind it that are the same people always, so that "
            "rtmlib has no maps to decode. Both with as many threads as there are cores; the ratio is the "
            "median of those of the rounds."
        )
    return f"{note}\n\n{table(heads, rows)}"


def video_row(
    estimator: Estimator, rival: Any, video: Path, draw: bool, output: Path | None, rounds: int
) -> list[str]:
    contestants: dict[str, Callable[[], int]] = {
        "edgepose": lambda: own_loop(estimator, video, draw, output, None),
        "one": lambda: own_loop(estimator, video, draw, output, 1),
    }
    if rival is not None:
        contestants["rtmlib"] = lambda: peer_loop(rival, video, draw, output, SIZE)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    work: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            started, before = time.perf_counter(), time.process_time()
            frames = run()
            taken, worked = time.perf_counter() - started, time.process_time() - before
            if round_:  # the first is a warm-up
                rates[name].append(frames / taken)
                work[name].append(worked / frames * 1e3)
    row = [f"{statistics.median(values):.1f}" for values in rates.values()]
    if rival is not None:
        ratios = [own / other for own, other in zip(rates["edgepose"], rates["rtmlib"], strict=True)]
        row.append(f"{statistics.median(ratios):.2f}")
    shown = [values for name, values in work.items() if name != "one"]
    return row + [f"{statistics.median(values):.1f}" for values in shown]


def own_loop(estimator: Estimator, video: Path, draw: bool, output: Path | None, workers: int | None) -> int:
    """The frames of a video through `Estimator.stream`; how many there were."""
    writer = None
    if output is not None:
        writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE[::-1])
    count = 0
    with estimator.stream(str(video), workers=workers) as results:
        for frame, result in results.with_frames():
            picture = result.draw(frame.image) if draw else frame.image
            if writer is not None:
                writer.write(picture)
            count += 1
    if writer is not None:
        writer.release()
    return count


def host_times(count: int) -> str:
    """What is left of a frame's time without the network."""
    rows = []
    for model, persons in (("top-down", 1), ("top-down", 10), ("multi", 1), ("multi", 10)):
        frames, boxes = made_frames(persons, min(count, 50))
        with Estimator(None if model == "top-down" else "multi") as estimator:
            given = boxes if model == "top-down" else [None] * len(frames)
            found, *calls = host_calls(estimator, frames, given, count)
            streamed = [host_stream(estimator, frames, given, count, follow) for follow in (False, True)]
        rows.append([f"{model}, {persons}", str(found), *(f"{each:.2f}" for each in (*calls, *streamed))])
    heads = ["model, persons", "found", "call", "and tracked, smoothed", "stream", "and tracked, smoothed"]
    note = (
        "Milliseconds of the host for a frame of 1280x720 that is decoded, outside of the network. Call: the "
        "time of `estimator(frame)` less that of the network, as `timings.inference` tells, in one thread, "
        "so that caches are as the network leaves them. Stream: the time of `Estimator.stream` for a frame, "
        "its threads included, with the network replaced by the maps that it gave once."
    )
    return f"{note}\n\n{table(heads, rows)}"


def host_calls(
    estimator: Estimator, frames: list[Picture], boxes: list[Any], count: int
) -> tuple[int, float, float]:
    """Persons found, and medians without and with following."""
    tracker, smoother = Tracker(), OneEuro()
    plain, followed, persons = [], [], []
    for number in range(count + WARM_UP):
        place = number % len(frames)
        started = time.perf_counter()
        result = estimator(frames[place], boxes=boxes[place])
        found = time.perf_counter()
        smoother.update(tracker.update(result))
        ended = time.perf_counter()
        persons.append(len(result))
        plain.append((found - started) * 1e3 - result.timings.inference)
        followed.append((ended - started) * 1e3 - result.timings.inference)
    times = [statistics.median(values[WARM_UP:]) for values in (plain, followed)]
    return round(statistics.median(persons)), times[0], times[1]


def host_stream(
    estimator: Estimator, frames: list[Picture], boxes: list[Any], count: int, follow: bool
) -> float:
    """Median time between results of a stream without a network."""
    network = estimator._backend
    maps: dict[str, Any] = {}
    run = network.infer

    def once(batch: Any, outputs: Any) -> Any:
        if not maps:
            maps.update(run(batch, outputs))
        return maps

    def read(_: object) -> Iterator[Frame]:
        for number in range(count + WARM_UP):
            yield Frame(frames[number % len(frames)], Source("decoded", number, number * 1e3 / FPS))

    source = FrameSource("decoded", "video", read, None, fps=FPS)
    given = None if boxes[0] is None else lambda frame: boxes[frame.source.frame % len(frames)]
    network.infer = once
    try:
        times = [
            time.perf_counter()
            for _ in estimator.stream(source, track=follow, smooth=follow, boxes=given, workers=1)
        ]
    finally:
        network.infer = run
    return float(np.median(np.diff(times[WARM_UP:])) * 1e3)


def growth(video: Path, rounds: int, seconds: float) -> str:
    """More and more sources through one model."""
    rows = []
    with Estimator() as estimator:
        for count in SOURCES:
            files = [str(video)] * count
            rates = []
            for round_ in range(rounds + 1):
                started = time.perf_counter()
                frames = sum(1 for _ in zip(estimator.stream(files), range(int(seconds * 50)), strict=False))
                if round_:
                    rates.append(frames / (time.perf_counter() - started))
            rows.append([str(count), f"{statistics.median(rates):.0f}", *live(estimator, files, seconds)])
    heads = ["sources", "files: frames/s", "live: frames/s", "dropped", "p50 ms", "p99 ms"]
    note = (
        "Videos of 1280x720 through one packaged default, a person in each. Files: as fast as they go, "
        f"frames/s of all. Live: `latest=True`, each source at its {FPS} frames/s; frames/s of all and the "
        "share that was dropped, and the time from when a frame is decoded to its result."
    )
    return f"{note}\n\n{table(heads, rows)}"


def live(estimator: Estimator, files: list[str], seconds: float) -> list[str]:
    delays: list[float] = []
    with estimator.stream(files, latest=True) as results:
        started = None
        for result in results:
            now = time.monotonic()
            started = started or now
            if now - started > 1:  # all have begun
                delays.append(now * 1e3 - captured(result))
            if now - started > seconds:
                break
        frames = sum(status.frames for status in results.sources)
        share = results.dropped / (results.dropped + frames)
    p50, p99 = np.percentile(delays, [50, 99])
    return [f"{len(delays) / (seconds - 1):.0f}", f"{share:.0%}", f"{p50:.1f}", f"{p99:.1f}"]


def captured(result: PoseResult) -> float:
    assert result.source is not None
    assert result.source.captured_ms is not None
    return result.source.captured_ms


if __name__ == "__main__":
    main()
