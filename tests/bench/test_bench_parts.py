"""The parts of a benchmark: frames, times, start-up, comparison, text, picture."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, people_model

from edgepose import BackendUnavailableError, Estimator, InvalidInputError
from edgepose.bench import timing
from edgepose.bench.frames import people_frame, person_side
from edgepose.bench.plot import COLORS, draw_report, write_plot
from edgepose.bench.report import compare, per_person, read_report, to_markdown, to_text
from edgepose.bench.startup import time_startup
from edgepose.bench.timing import STAGES, time_persons
from edgepose.result import Timings

cv2 = pytest.importorskip("cv2")


def row(persons: int, *total: float, **stages: float) -> dict[str, Any]:
    """A row of a report; stages that are not given take a tenth of the call."""
    parts = {name: stages.get(name, total[0] / 10) for name in STAGES[:-1]}
    table = {
        name: dict(zip(("p50", "p95", "p99"), [value] * 3, strict=True)) for name, value in parts.items()
    }
    return {
        "persons": persons,
        "found": float(persons),
        "calls": 50,
        "stages": {**table, "total": dict(zip(("p50", "p95", "p99"), total, strict=True))},
        "frames_per_s": 1000 / total[0],
        "memory_mb": 140.2,
    }


def report(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    machine = {
        "cpu": {"model": "AMD EPYC", "cores": 2, "governors": ["performance"]},
        "gpus": [],
        "jetson": None,
        "notes": ["other programs were at work"],
    }
    values = {
        "edgepose": "0.1.0",
        "model": {"name": "lpn50-lsp", "precision": "fp32", "task": "topdown"},
        "backend": {"name": "onnxruntime", "version": "1.30.0", "device": "cpu", "threads": 1},
        "machine": machine,
        "frame": [1280, 720],
        "settings": {"flip_test": False},
        "startup": {
            "import_ms": 100.0, "open_ms": 80.0, "first_call_ms": 20.0, "total_ms": 200.0, "called_mb": 128.0,
            "peak_mb": None, "processes": 3,
        },
        "rows": list(rows),
        "per_person_ms": per_person(list(rows)),
    }  # fmt: skip
    return {**values, **changes}


@pytest.mark.parametrize(
    ("persons", "size", "side"),
    [(1, (720, 1280), 240), (15, (720, 1280), 240), (16, (720, 1280), 213), (30, (480, 640), 96),
     (7, (1280, 720), 320)],
)  # fmt: skip
def test_the_side_of_persons(persons: int, size: tuple[int, int], side: int) -> None:
    assert person_side(persons, size) == side
    for larger in range(side + 1, size[0] // 3 + 1):
        assert (size[0] // larger) * (size[1] // larger) < persons


def test_frames_show_each_person_once() -> None:
    frame, boxes = people_frame(7, (360, 640))
    assert frame.shape == (360, 640, 3)
    assert boxes.shape == (7, 4)
    cells = boxes[:, :2] // 120
    assert len(np.unique(cells, axis=0)) == 7
    for x, y in cells.astype(int) * 120:
        np.testing.assert_array_equal(frame[y : y + 120, x : x + 120], frame[:120, :120])
    assert (frame[240:] == 128).all()
    assert (frame[120:240, 240:] == 128).all()
    assert frame[:120, :120].std() > 30
    with pytest.raises(InvalidInputError, match="100 persons do not fit a frame of 160x120 pixels; found 13"):
        people_frame(100, (120, 160))


class Slow:
    """An estimator whose calls take known times."""

    def __init__(self, task: str, clock: list[float]) -> None:
        self.info = SimpleNamespace(spec=SimpleNamespace(task=task))
        self.clock, self.calls, self.given, self.warm = clock, 0, [], False

    def warmup(self) -> None:
        self.warm = True

    def __call__(self, image: np.ndarray, boxes: np.ndarray | None) -> Any:
        self.calls += 1
        self.given.append(None if boxes is None else len(boxes))
        took = 1000 if self.calls <= 3 else 10 + self.calls % 2  # the first are the warm-up
        self.clock[0] += took / 1e3

        class Result(list):  # type: ignore[type-arg]
            timings = Timings(2.0, 5.0, 1.0, took - 1.0)

        return Result([None] * 4)


@pytest.mark.parametrize("task", ["topdown", "bottomup"])
def test_times_are_those_of_the_calls(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    estimator = Slow(task, clock)
    steps = []
    (found,) = time_persons(
        estimator, [4], (360, 640), seconds=0.5, warmup=3, step=lambda: steps.append(1)  # type: ignore[arg-type]
    )  # fmt: skip
    assert estimator.warm
    assert found.calls == len(steps) == estimator.calls - 3
    assert 47 <= found.calls <= 50  # half a second of calls of 10 and 11 ms
    assert set(estimator.given) == ({4} if task == "topdown" else {None})
    assert (found.persons, found.found) == (4, 4)
    assert found.stages["preprocess"] == {"p50": 2, "p95": 2, "p99": 2}
    assert found.stages["total"]["p99"] == pytest.approx(11)
    assert found.stages["rest"]["p95"] == pytest.approx(3)
    assert found.frames_per_s == pytest.approx(1e3 / 10.5, rel=0.01)
    few = time_persons(estimator, [1, 2], (360, 640), seconds=1e-9, warmup=1)  # type: ignore[arg-type]
    assert [each.calls for each in few] == [timing.LEAST_CALLS] * 2


def test_real_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    for make in (color_model, people_model):
        with Estimator(make(tmp_path / "model.onnx"), threads=1) as estimator:
            rows = time_persons(estimator, [1, 3], (200, 300), seconds=0.01, warmup=1)
        assert [each.persons for each in rows] == [1, 3]
        if make is color_model:
            assert [each.found for each in rows] == [1, 3]
        for each in rows:
            stages = each.to_dict()["stages"]
            assert all(stages[name]["p50"] > 0 for name in STAGES)
            assert all(s["p50"] <= s["p95"] <= s["p99"] for s in stages.values())


def test_start_up(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = color_model(tmp_path / "colors.onnx")
    found = time_startup(model, {"threads": 1, "device": "cpu"}, 1)
    parts = found["import_ms"] + found["open_ms"] + found["first_call_ms"]
    assert found["total_ms"] == pytest.approx(parts, abs=0.3)
    assert min(found[name] for name in ("import_ms", "open_ms", "first_call_ms")) > 0
    if found["imported_mb"] is not None:
        assert 5 < found["imported_mb"] < found["opened_mb"] < found["called_mb"] <= found["peak_mb"]
    with pytest.raises(BackendUnavailableError, match=r"fresh process failed; found .*none\.onnx"):
        time_startup(tmp_path / "none.onnx", {}, 1)


def test_comparison(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text(json.dumps(report(row(1, 10, 12, 14), row(5, 40, 50, 60, rest=0.0), row(30, 1, 2, 3))))
    now = report(
        row(1, 11, 12, 14), row(5, 30, 50, 60), row(10, 90, 91, 92), edgepose="0.2.0", frame=[640, 480]
    )
    found = compare(now, read_report(path), path)
    assert [each["persons"] for each in found["rows"]] == [1, 5]
    assert found["rows"][0]["ratios"]["total"] == 1.1
    assert found["rows"][1]["ratios"] == {
        "preprocess": 0.75, "inference": 0.75, "postprocess": 0.75, "rest": None, "total": 0.75
    }  # fmt: skip
    assert found["slowest"] == 1.1
    assert found["differs"] == ["edgepose: 0.2.0, was 0.1.0", "frame: 640x480, was 1280x720"]
    with pytest.raises(InvalidInputError, match="other numbers of persons: 1, 5, 30; give the same"):
        compare(report(row(2, 1, 1, 1)), read_report(path), path)


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"persons": 1}]}', '{"rows": 3}', "{}"])
def test_files_that_are_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "before.json"
    with pytest.raises(InvalidInputError, match=r"cannot read baseline .*FileNotFoundError"):
        read_report(path)
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="give what edgepose bench --json printed"):
        read_report(path)


def test_what_a_person_more_takes() -> None:
    assert per_person([row(1, 10, 10, 10)]) is None
    assert per_person([row(1, 10, 10, 10), row(5, 1, 1, 1), row(11, 30, 30, 30)]) == 2


def test_text() -> None:
    content = report(row(1, 10, 12.5, 14), row(5, 40, 50, 60))
    content["baseline"] = {
        "rows": [{"persons": 5, "ratios": {**dict.fromkeys(STAGES, 1.25), "rest": None}}],
        "differs": ["edgepose: 0.2.0, was 0.1.0"],
    }
    lines = to_text(content).splitlines()
    assert lines[0].split(maxsplit=1)[1] == "lpn50-lsp (fp32), topdown"
    assert lines[1].split(maxsplit=1)[1] == "onnxruntime 1.30.0 on cpu, 1 thread"
    assert lines[2].split(maxsplit=1)[1] == "AMD EPYC, 2 cores, governor performance"
    assert "start-up     200 ms: import 100, open 80, first call 20; median of 3" in lines
    assert "             memory 128 MB, at most - MB" in lines
    assert "1 person (1 in the result), 50 calls, 100.0 frames/s, 140 MB" in lines
    totals = [line.split() for line in lines if line.startswith("  total")]
    assert totals == [
        ["total", "10.000", "12.500", "14.000"],
        ["total", "40.000", "50.000", "60.000", "1.250"],
    ]
    assert ["rest", "4.000", "4.000", "4.000", "-"] in [line.split() for line in lines]
    assert "a person more takes 7.500 ms" in lines
    assert lines[-1] == "not as in the baseline: edgepose: 0.2.0, was 0.1.0"


def test_markdown() -> None:
    jetson = {
        "model": "NVIDIA Jetson Orin Nano", "power_mode": "15W", "fixed": True,
        "clocks": {name: {"min": 1, "max": 2, "now": 624.8} for name in ("cpu0", "cpu1", "gpu")},
    }  # fmt: skip
    content = report(row(1, 10, 12.5, 14), row(5, 40, 50, 60), startup=None)
    content["machine"]["jetson"] = jetson
    lines = to_markdown(content).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[0] == "lpn50-lsp (fp32)"
    assert cells[1] == (
        "NVIDIA Jetson Orin Nano, power mode 15W, clocks fixed, cpu0 624.8 MHz, gpu 624.8 MHz"
    )
    assert cells[3:] == ["1", *["1.00"] * 4, "10.00", "12.50", "14.00", "100.0", "140", "-"]


def test_the_plot_shows_the_stages_in_proportion(tmp_path: Path) -> None:
    content = report(
        row(1, 20, 30, 40, preprocess=5, inference=10, postprocess=4, rest=1),
        row(30, 200, 300, 400, preprocess=50, inference=100, postprocess=40, rest=10),
    )
    picture = draw_report(content)
    widths = {}
    for stage, color in COLORS.items():
        bar = (picture[150 + 64] == color).all(1)  # through the lower bar
        widths[stage] = int(bar.sum())
        assert np.flatnonzero(bar).size == 0 or np.ptp(np.flatnonzero(bar)) < 1.2 * widths[stage] + 3
    assert widths["inference"] == pytest.approx(2 * widths["preprocess"], abs=3)
    assert widths["preprocess"] == pytest.approx(1.25 * widths["postprocess"], abs=3)
    assert widths["inference"] == pytest.approx(10 * widths["rest"], abs=12)
    assert (picture[150] == COLORS["inference"]).all(1).sum() == pytest.approx(
        widths["inference"] / 10, abs=3
    )

    write_plot(content, tmp_path / "plot.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "plot.png")), picture)
    with pytest.raises(InvalidInputError, match=r"found no picture format for '\.txt'; give a \.png"):
        write_plot(content, tmp_path / "plot.txt")
