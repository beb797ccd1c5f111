"""A benchmark as a picture: a bar of stages for each number of persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.bench.timing import STAGES
from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2

__all__ = ["check_target", "draw_report", "write_plot"]

WIDTH, ROW, TOP, LEFT, RIGHT, BOTTOM = 1200, 64, 130, 150, 220, 60
COLORS = {
    "preprocess": (0xD9, 0x9A, 0x4A), "inference": (0x6E, 0xB0, 0x5A), "postprocess": (0x52, 0x7E, 0xE6),
    "rest": (0xA8, 0xA8, 0xA8),
}  # fmt: skip
"""BGR, by stage."""
INK, FAINT = (0x33, 0x33, 0x33), (0xDD, 0xDD, 0xDD)
STEPS = (1.0, 2.0, 5.0)
"""What the lines of the scale are apart, times a power of ten."""


def check_target(path: Path) -> None:
    """Refuse a file in no folder, and one whose name says no format that pictures can be written in."""
    if not path.parent.is_dir():
        raise InvalidInputError(f"cannot draw {path}; found no folder {path.parent}; make it first")
    if not require_cv2("a plot").haveImageWriter(f"x{path.suffix}"):
        raise InvalidInputError(
            f"cannot draw {path}; found no picture format for {path.suffix!r}; give a .png file"
        )


def write_plot(report: dict[str, Any], path: Path) -> None:
    """Write the picture of a report (`draw_report`), in the format that the file's name says.

    Raises:
        InvalidInputError: there is no such folder or format.
    """
    check_target(path)
    _, data = require_cv2("a plot").imencode(path.suffix, draw_report(report))
    path.write_bytes(data.tobytes())


def draw_report(report: dict[str, Any]) -> NDArray[np.uint8]:
    """BGR uint8 picture: median stages one after the other, and total p95 and p99 as marks behind."""
    cv2 = require_cv2("a plot")
    rows = report["rows"]
    height = TOP + ROW * len(rows) + BOTTOM
    picture = np.full((height, WIDTH, 3), 255, np.uint8)

    def text(words: str, x: float, y: float, size: float = 0.5) -> None:
        place = (round(x), round(y))
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)

    most = max(row["stages"]["total"]["p99"] for row in rows) or 1.0
    unit = (WIDTH - LEFT - RIGHT) / most
    model, backend = report["model"], report["backend"]
    text(f"{model['name']} ({model['precision']})", 20, 36, 0.8)
    where = (
        f"{backend['name']} {backend['version']} on {backend['device']}, {report['machine']['cpu']['model']}"
    )
    text(f"{where}; frames {report['frame'][0]}x{report['frame'][1]}", 20, 64)
    x = 20
    for stage, color in COLORS.items():
        cv2.rectangle(picture, (x, 82), (x + 14, 96), color, cv2.FILLED)
        text(stage, x + 20, 95)
        x += 140
    text("median; marks: p95, p99 of the call", x, 95)
    for value in _scale(most):
        at = round(LEFT + value * unit)
        cv2.line(picture, (at, TOP - 10), (at, height - BOTTOM + 6), FAINT, 1)
        text(f"{value:g} ms", at - 18, height - BOTTOM + 28, 0.45)
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        stages = row["stages"]
        text("1 person" if row["persons"] == 1 else f"{row['persons']} persons", 20, y + 30)
        start = float(LEFT)
        for stage in STAGES[:-1]:
            end = start + max(stages[stage]["p50"], 0) * unit
            if round(end) > round(start):
                corners = (round(start), y + 8), (round(end) - 1, y + 40)
                cv2.rectangle(picture, *corners, COLORS[stage], cv2.FILLED)
            start = end
        marks = [round(LEFT + stages["total"][name] * unit) for name in ("p50", "p95", "p99")]
        cv2.line(picture, (marks[0], y + 24), (marks[2], y + 24), INK, 1)
        for mark, size in zip(marks[1:], (10, 6), strict=True):
            cv2.line(picture, (mark, y + 24 - size), (mark, y + 24 + size), INK, 2)
        label = f"{stages['total']['p50']:.4g} ms, {row['frames_per_s']:.4g}/s"
        text(label, WIDTH - RIGHT + 14, y + 30)
    return picture


def _scale(most: float) -> NDArray[np.float64]:
    """Round values from 0 on, some six of them."""
    power = 10.0 ** np.floor(np.log10(most / 6))
    step = next((s * power for s in STEPS if s * power * 7 > most), 10 * power)
    return np.arange(0, most, step)
