"""Follow and smooth the people of real videos: ``python benchmarks/tracking.py [--cache DIR]``.

Prints how often a person who was marked by hand (tracking_truth.json) changes the number, what smoothing
does to jitter and lag, and what both cost. The poses are those of the packaged models; with --cache they are
kept as JSON lines and taken from there the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, table

from edgepose import Estimator, OneEuro, PoseResult, Tracker, coco17, open_source

TRUTH = Path(__file__).with_name("tracking_truth.json")
SQUATS = "tfjs_pose_squats.mp4"
REFERENCE = {"shoulder": (11, 12), "elbow": (13, 14), "wrist": (15, 16), "hip": (23, 24), "knee": (25, 26),
             "ankle": (27, 28)}  # fmt: skip
"""Places of the left and right joints among the reference's."""
POSES = {"multi": "`multi`", "topdown": "default, boxes by `multi`", "reuse": "default, boxes every 5 frames"}
TRACKERS: dict[str, dict[str, Any]] = {
    "default": {},
    "IoU": {"method": "iou"},
    "no motion": {"motion": False},
    "duplicates kept": {"nms_threshold": None},
}
SHIFTS = np.arange(0, 8.01, 0.25)
"""Frames."""
WARM_UP = 20

Tracks = dict[int, dict[int, np.ndarray]]


def main() -> None:
    default = os.environ.get("EDGEPOSE_SHARED") or Path(__file__).resolve().parents[2] / "shared"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path(default), help="folder of the reference data")
    parser.add_argument("--cache", type=Path, help="folder that keeps the estimated poses")
    parser.add_argument("--rounds", type=int, default=300, help="results of which each time is the median")
    arguments = parser.parse_args()
    videos = arguments.shared / "data" / "videos"
    print(describe() + "\n")
    truth = json.loads(TRUTH.read_text())["videos"]
    poses = {
        (name, kind): estimated(videos / name, kind, arguments.cache) for name in truth for kind in POSES
    }
    print(identities(truth, poses) + "\n")
    single = estimated(videos / SQUATS, "single", arguments.cache)
    reference = np.array(json.loads((videos / SQUATS).with_suffix(".full.json").read_text()))[:, :, :2]
    print(smoothness(poses, single, reference) + "\n")
    print(costs(arguments.rounds))


def estimated(video: Path, kind: str, cache: Path | None) -> list[PoseResult]:
    """The poses of a video's frames."""
    file = None if cache is None else cache / f"{video.stem}-{kind}.jsonl"
    if file is not None and file.is_file():
        lines = file.read_text(encoding="utf-8").split("\n")
        return [PoseResult.from_dict(json.loads(line)) for line in lines if line]
    results = list(estimate(video, kind))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(result.to_json() + "\n" for result in results), encoding="utf-8")
    return results


def estimate(video: Path, kind: str) -> Iterator[PoseResult]:
    frames = open_source(video)
    if kind == "reuse":
        tracker = Tracker()
        with Estimator(detector="multi") as found, Estimator() as given:
            for number, frame in enumerate(frames):
                boxes = tracker.predict_boxes()
                fresh = number % 5 == 0
                result = found(frame) if fresh else given(frame, boxes=boxes)
                tracker.update(result)
                yield result
        return
    options: dict[str, Any] = {"multi": {"model": "multi"}, "topdown": {"detector": "multi"}, "single": {}}[
        kind
    ]
    with Estimator(**options) as estimator:
        for frame in frames:
            yield estimator(frame)


def identities(truth: dict[str, Any], poses: dict[tuple[str, str], list[PoseResult]]) -> str:
    rows = []
    for (name, kind), results in poses.items():
        for label, options in TRACKERS.items():
            for every in (1, 5) if label == "default" else (1,):
                if kind == "reuse" and (every > 1 or label != "default"):
                    continue
                tracker = Tracker(**options)
                tracked = [tracker.update(result) for result in results[::every]]
                switches, found, main_number = follow(truth[name], tracked)
                numbers = {number for result in tracked for number in ids(result)}
                people = len(truth[name]["persons"])
                row = [f"{name}, {POSES[kind]}, {label}, frames / {every}", str(people), f"{found:.0%}"]
                rows.append([*row, str(switches), f"{main_number:.0%}", str(len(numbers))])
    heads = ["video, poses, tracker", "marked people", "found", "changes of number", "under main number"]
    return table([*heads, "numbers given"], rows)


def follow(marks: dict[str, Any], tracked: list[PoseResult]) -> tuple[int, float, float]:
    """Changes of number, share of the marks where a track is, and of these the share under the main number.

    As in CLEAR MOT (Bernardin and Stiefelhagen, 2008) a person keeps a track as long as it is within reach,
    and else takes the nearest.
    """
    places = {person: between(points, marks["step"]) for person, points in marks["persons"].items()}
    last: dict[str, int] = {}
    owners: dict[str, Counter[int]] = {person: Counter() for person in places}
    switches = there = 0
    for result in tracked:
        frame = frame_of(result)
        here = {person: points[frame] for person, points in places.items() if frame in points}
        there += len(here)
        free = dict(zip(ids(result), chests(result), strict=True))
        gaps = sorted(
            (last.get(person) != number, float(np.hypot(*(chest - place))), person, number)
            for person, place in here.items()
            for number, chest in free.items()
        )
        taken: dict[str, int] = {}
        for _, gap, person, number in gaps:
            if gap <= marks["reach"] and person not in taken and number not in taken.values():
                taken[person] = number
        switches += sum(last.get(person, number) != number for person, number in taken.items())
        last |= taken
        for person, number in taken.items():
            owners[person][number] += 1
    found = sum(counter.total() for counter in owners.values())
    main_numbers = sum(max(counter.values(), default=0) for counter in owners.values())
    return switches, found / max(there, 1), main_numbers / max(found, 1)


def between(points: list[list[int]], step: int) -> dict[int, np.ndarray]:
    """Place of a person in each frame between marks that are not further apart than a step."""
    places = {}
    for first, second in pairwise(points):
        length = second[0] - first[0]
        for frame in range(first[0], second[0] + 1) if length <= step else ():
            part = (frame - first[0]) / length
            places[frame] = np.array(first[1:]) * (1 - part) + np.array(second[1:]) * part
    return places


def chests(result: PoseResult) -> np.ndarray:
    """(n, 2) points in the upper part of the trunk, as far as its joints are there."""
    names = result.skeleton.joints
    groups = (("left_shoulder", "right_shoulder", "neck"), ("left_hip", "right_hip"))
    points = []
    for group in groups:
        joints = result.keypoints[:, [names.index(name) for name in group if name in names]]
        points.append(mean(joints))
    chest = np.where(np.isnan(points[1]), points[0], 0.7 * points[0] + 0.3 * points[1])
    return np.where(np.isnan(chest), mean(result.keypoints), chest)


def mean(joints: np.ndarray) -> np.ndarray:
    """Mean over axis 1 of those that are there."""
    present = np.isfinite(joints)
    count = present.sum(axis=1)
    total = np.where(present, joints, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def smoothness(
    poses: dict[tuple[str, str], list[PoseResult]], single: list[PoseResult], reference: np.ndarray
) -> str:
    rows = []
    for (name, kind), results in {**poses, (SQUATS, "single"): single}.items():
        tracker = Tracker(start_score=0.0)
        tracked = [tracker.update(result) for result in results]
        smoother = OneEuro()
        smoothed = [smoother.update(result) for result in tracked]
        before, after = tracks(tracked), tracks(smoothed)
        frame_ms = (tracked[-1].source.time_ms - tracked[0].source.time_ms) / (len(tracked) - 1)
        rough, smooth = jitter(before), jitter(after)
        row = [
            f"{name}, {POSES.get(kind, 'default')}",
            f"{1000 / frame_ms:.0f}",
            f"{rough:.1f}",
            f"{smooth:.1f}",
        ]
        row += [f"{1 - smooth / rough:.0%}", f"{lag(before, after) * frame_ms:.0f}"]
        far = (
            [f"{error(each, reference):.1f}" for each in (tracked, smoothed)]
            if kind == "single"
            else ["-"] * 2
        )
        rows.append(row + far)
    heads = ["video, poses", "frames/s", "jitter px", "smoothed px", "less by", "lag ms"]
    return table([*heads, "distance to the reference px", "smoothed px"], rows)


def frame_of(result: PoseResult) -> int:
    assert result.source is not None
    assert result.source.frame is not None
    return result.source.frame


def ids(result: PoseResult) -> list[int]:
    assert result.track_ids is not None
    return result.track_ids.tolist()


def tracks(results: list[PoseResult]) -> Tracks:
    """The joints of each person by place in the stream."""
    found: Tracks = {}
    for place, result in enumerate(results):
        for number, joints in zip(ids(result), result.keypoints, strict=True):
            found.setdefault(number, {})[place] = joints
    return found


def jitter(people: Tracks) -> float:
    """Mean length of the second difference of the joints, in pixels."""
    lengths = [
        np.linalg.norm(joints[t - 1] - 2 * joints[t] + joints[t + 1], axis=1)
        for joints in people.values()
        for t in joints
        if t - 1 in joints and t + 1 in joints
    ]
    return float(np.nanmean(np.concatenate(lengths)))


def lag(before: Tracks, after: Tracks) -> float:
    """By how many frames the smoothed joints must be shifted to lie nearest to the others, by the median."""
    distances: list[list[np.ndarray]] = [[] for _ in SHIFTS]
    reach = int(SHIFTS[-1]) + 1
    for number, joints in before.items():
        smoothed = after[number]
        for t in joints:
            if not all(t + later in smoothed for later in range(reach + 1)):
                continue
            for shift, found in zip(SHIFTS, distances, strict=True):
                whole = int(shift)
                part = shift - whole
                place = (1 - part) * smoothed[t + whole] + part * smoothed[t + whole + 1]
                found.append(np.linalg.norm(place - joints[t], axis=1))
    return float(SHIFTS[np.argmin([np.nanmedian(np.concatenate(found)) for found in distances])])


def error(results: list[PoseResult], reference: np.ndarray) -> float:
    """Mean distance to the reference's joints, of twelve per frame."""
    gaps = []
    for result in results:
        frame = frame_of(result)
        for person in result:
            for name, places in REFERENCE.items():
                for side, place in zip(("left", "right"), places, strict=True):
                    joint = person[f"{side}_{name}"]
                    gaps.append(np.hypot(*(reference[frame, place] - (joint.x, joint.y))))
    return float(np.nanmean(gaps))


def costs(rounds: int) -> str:
    rows = []
    for n in (1, 10, 30):
        rng = np.random.default_rng(0)
        stand = rng.uniform(0, 1, (n, 17, 2)) * [80, 200] + np.arange(n)[:, None, None] * [100, 0]
        results = [people(stand + rng.normal(0, 2, stand.shape) + [t, 0]) for t in range(WARM_UP + rounds)]
        tracker = Tracker()
        tracked = [tracker.update(result) for result in results]
        assert all(len(result) == n for result in tracked[WARM_UP:])
        tracker.reset()
        row = [str(n), f"{median_ms(tracker.update, results):.3f}"]
        for each in (tracked, [replace(result, covariance=None) for result in tracked]):
            row.append(f"{median_ms(OneEuro().update, each):.3f}")
        rows.append(row)
    return table(["persons of 17 joints", "Tracker ms", "OneEuro ms", "without covariance ms"], rows)


def people(joints: np.ndarray) -> PoseResult:
    n = len(joints)
    boxes = np.concatenate([joints.min(axis=1), joints.max(axis=1)], axis=1)
    covariance = np.tile(np.eye(2) * 4, (n, 17, 1, 1))
    fields: dict[str, Any] = {"skeleton": coco17, "image_size": (1080, 1920), "covariance": covariance}
    return PoseResult(joints, np.full((n, 17), 0.8), boxes, np.full(n, 0.8), **fields)


def median_ms(update: Callable[[PoseResult], PoseResult], results: list[PoseResult]) -> float:
    times = []
    for result in results:
        started = time.perf_counter()
        update(result)
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times[WARM_UP:]))


if __name__ == "__main__":
    main()
