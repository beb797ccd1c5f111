"""The tables of a comparison of training methods, as far as its runs have results."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepose.errors import InvalidInputError
from training.comparison import DECODERS, METHODS, Run
from training.config import TrainConfig

__all__ = ["comparison_tables", "replace_section"]

START, END = "<!-- comparison -->", "<!-- /comparison -->"
NOTE = """PCK@0.2 is that of the network that is deployed: mean and standard deviation over seeds. Against
plain: the difference of the means and its standard error. Cost: multiply-accumulates of all that is run
forward for a training picture, a teacher's own training included."""
NAMES = {
    "teacher": "teacher",
    "plain": "plain",
    "stages": "LPN's stages",
    "fpd": "FPD, from scratch",
    "plain_fpd": "FPD, from the plain student",
    "okdhp": "OKDHP, balanced",
    "okdhp_unbalanced": "OKDHP, unbalanced",
}


def comparison_tables(runs: Sequence[Run]) -> str:
    """Markdown: for each student its methods, and its decoders, as mean and standard deviation over seeds.

    Raises:
        InvalidInputError: no run has a result.
    """
    results = {
        (run.student, run.method, run.seed): json.loads(run.result_file.read_text())
        for run in runs
        if run.result_file.is_file()
    }
    if not results:
        raise InvalidInputError(
            f"no results; found none under {Path(runs[0].configs[-1].output)}; run the comparison first"
        )
    teacher = [value for (_, method, _), value in results.items() if method == "teacher"]
    configs = {run.student: run.configs[-1] for run in runs if run.method in ("plain", "teacher")}
    parts = [f"{_described('teacher', configs[''])}: {_size(teacher[0])}."] if teacher else []
    for student in dict.fromkeys(run.student for run in runs if run.student):
        of_student = {
            method: [value for (s, m, _), value in results.items() if (s, m) == (student, method)]
            for method in METHODS
        }
        if any(of_student.values()):
            title = _described(student, configs[student])
            parts += _student_tables(title, {"teacher": teacher, **of_student})
    return "\n\n".join([*parts, NOTE])


def replace_section(text: str, tables: str) -> str:
    """A document with the tables between its marks, in place of what stands there.

    Raises:
        InvalidInputError: the document has no marks.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise InvalidInputError(f"no place for the tables; found no {START} and {END}; add them")
    return f"{before}{START}\n{tables}\n{END}{after}"


def _student_tables(title: str, results: dict[str, list[dict[str, Any]]]) -> list[str]:
    plain = results["plain"]
    some = next(values[0] for method, values in results.items() if values and method != "teacher")
    lines = [
        f"{title}: {_size(some)}.",
        "",
        "| training | PCK@0.2 | against plain | ensemble | all branches | seeds | pictures | cost |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for method, values in results.items():
        if not values:
            continue
        scores = [value["test"]["mean"] for value in values]
        ensemble = [value["ensemble"] for value in values if "ensemble" in value]
        branches = [value["branches"] for value in values if "branches" in value]
        cells = [
            NAMES[method],
            _spread(scores),
            "" if method == "plain" else _gain(scores, [value["test"]["mean"] for value in plain]),
            _spread(ensemble) if ensemble else "",
            ", ".join(f"{statistics.mean(column):.2f}" for column in zip(*branches, strict=True)),
            str(len(values)),
            f"{statistics.mean(value['pictures'] for value in values) / 1e3:.0f} k",
            f"{values[0]['training_macs'] / 1e9:.2f} G",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    parts = ["\n".join(lines)]
    if plain:
        lines = ["| decoder of the plain students | PCK@0.2 | against the first |", "|---|---:|---:|"]
        base = [value["decoders"][next(iter(DECODERS))] for value in plain]
        for name in DECODERS:
            scores = [value["decoders"][name] for value in plain]
            differences = [a - b for a, b in zip(scores, base, strict=True)]
            lines.append(f"| {name} | {_spread(scores)} | {statistics.mean(differences):+.2f} |")
        parts.append("\n".join(lines))
    return parts


def _described(name: str, config: TrainConfig) -> str:
    """What is trained, and for how long."""
    options = [f"{key} {value}" for key, value in config.options.items() if key != "joints"]
    size, epochs = "x".join(map(str, config.input_size)), config.stages * config.epochs
    return f"**{name}** ({', '.join([config.model, *options])}; crops of {size}, {epochs} epochs)"


def _size(result: dict[str, Any]) -> str:
    return f"{result['parameters'] / 1e6:.2f} M parameters, {result['macs'] / 1e9:.3f} G multiply-accumulates"


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, the latter of two values at least."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _gain(values: Sequence[float], plain: Sequence[float]) -> str:
    """Difference of the means and its standard error, from two runs of each on."""
    if not plain:
        return ""
    gain = f"{statistics.mean(values) - statistics.mean(plain):+.2f}"
    if min(len(values), len(plain)) < 2:
        return gain
    error = math.sqrt(sum(statistics.variance(group) / len(group) for group in (values, plain)))
    return f"{gain} ± {error:.2f}"
