"""The report of a benchmark as text, as Markdown, and against an earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgepose.bench.timing import PERCENTILES, STAGES
from edgepose.errors import InvalidInputError

__all__ = ["compare", "per_person", "read_report", "to_markdown", "to_text"]

Json = dict[str, Any]

SAME = {
    "model": ("model", "name"),
    "precision": ("model", "precision"),
    "edgepose": ("edgepose",),
    "runtime": ("backend", "name"),
    "version of the runtime": ("backend", "version"),
    "device": ("backend", "device"),
    "threads": ("backend", "threads"),
    "processor": ("machine", "cpu", "model"),
    "power mode": ("machine", "jetson", "power_mode"),
    "frame": ("frame",),
    "flip test": ("settings", "flip_test"),
}
"""Where stands in a report what should be equal in two that are compared."""


def per_person(rows: list[Json]) -> float | None:
    """Milliseconds that a person more takes: the median call's, from the fewest persons to the most."""
    if len(rows) < 2:
        return None
    few, many = rows[0], rows[-1]
    growth: float = many["stages"]["total"]["p50"] - few["stages"]["total"]["p50"]
    more: int = many["persons"] - few["persons"]
    return round(growth / more, 4)


def read_report(path: Path) -> Json:
    """A report that ``edgepose bench --json`` printed.

    Raises:
        InvalidInputError: the file is missing or holds none.
    """
    try:
        report: Json = json.loads(path.read_bytes())
        for row in report["rows"]:
            for stage in STAGES:
                if not row["stages"][stage]["p50"] >= 0 or row["persons"] < 1:
                    raise ValueError(f"{stage} of {row['persons']} persons is {row['stages'][stage]['p50']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"cannot read baseline {path}; {type(error).__name__}: {error}; give what edgepose bench --json "
            "printed"
        ) from error
    return report


def compare(report: Json, baseline: Json, path: Path) -> Json:
    """How the medians of a report stand to those of an earlier one; above 1 is slower now.

    Returns:
        ``path``; ``differs``, what the two do not have in common, in words; ``rows``, of each number of
        persons in both the ``ratios`` by stage, None where a stage took no time then; ``slowest``, the
        largest ratio of a total.

    Raises:
        InvalidInputError: they have no number of persons in common.
    """
    earlier = {row["persons"]: row["stages"] for row in baseline["rows"]}
    rows = []
    for row in report["rows"]:
        if (then := earlier.get(row["persons"])) is None:
            continue
        ratios = {
            stage: round(row["stages"][stage]["p50"] / then[stage]["p50"], 4) if then[stage]["p50"] else None
            for stage in STAGES
        }
        rows.append({"persons": row["persons"], "ratios": ratios})
    if not rows:
        raise InvalidInputError(
            f"nothing to compare with in {path}; found other numbers of persons: "
            f"{', '.join(map(str, earlier))}; give the same to --persons"
        )
    differs = []
    for what, keys in SAME.items():
        now, then = (_value(content, keys) for content in (report, baseline))
        if now != then:
            differs.append(f"{what}: {_words(now)}, was {_words(then)}")
    totals = [row["ratios"]["total"] for row in rows if row["ratios"]["total"] is not None]
    return {"path": str(path), "differs": differs, "rows": rows, "slowest": max(totals, default=None)}


def to_text(report: Json) -> str:
    """Everything for a reader."""
    return "\n".join(_lines(report))


def to_markdown(report: Json) -> str:
    """A table with one row for each number of persons: medians of the stages in milliseconds."""
    heads = ["model", "machine", "runtime", "persons", *STAGES[:-1], *(f"total p{p}" for p in PERCENTILES)]
    heads += ["frames/s", "memory, MB", "start-up, ms"]
    model, start = report["model"], report["startup"]
    machine = ", ".join(part for part in _machine(report["machine"]) if part)
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---|" + "---:|" * (len(heads) - 3)]
    for row in report["rows"]:
        cells = [f"{model['name']} ({model['precision']})", machine, _backend(report), str(row["persons"])]
        cells += [f"{row['stages'][stage]['p50']:.2f}" for stage in STAGES[:-1]]
        cells += [f"{row['stages']['total'][f'p{p}']:.2f}" for p in PERCENTILES]
        cells += [f"{row['frames_per_s']:.1f}", _megabytes(row["memory_mb"])]
        lines.append("| " + " | ".join([*cells, f"{start['total_ms']:.0f}" if start else "-"]) + " |")
    return "\n".join(lines)


def _lines(report: Json) -> Iterator[str]:
    model, start = report["model"], report["startup"]
    width, height = report["frame"]
    flip = ", flip test" if report["settings"]["flip_test"] else ""
    yield f"{'model':<12} {model['name']} ({model['precision']}), {model['task']}{flip}"
    yield f"{'runtime':<12} {_backend(report)}"
    yield f"{'machine':<12} {', '.join(part for part in _machine(report['machine']) if part)}"
    for note in report["machine"]["notes"]:
        yield f"{'note':<12} {note}"
    if start:
        stages = ", ".join(
            f"{words} {start[name]:.0f}"
            for words, name in (("import", "import_ms"), ("open", "open_ms"), ("first call", "first_call_ms"))
        )
        yield f"{'start-up':<12} {start['total_ms']:.0f} ms: {stages}; median of {start['processes']}"
        memory = [_megabytes(start[name]) for name in ("called_mb", "peak_mb")]
        yield f"{'':<12} memory {memory[0]} MB, at most {memory[1]} MB"
    yield f"{'frames':<12} {width}x{height}, milliseconds a call"
    against = report.get("baseline") or {"rows": [], "differs": []}
    ratios = {row["persons"]: row["ratios"] for row in against["rows"]}
    for row in report["rows"]:
        yield ""
        persons = "1 person" if row["persons"] == 1 else f"{row['persons']} persons"
        yield (
            f"{persons} ({row['found']:g} in the result), {row['calls']} calls, {row['frames_per_s']:.1f} "
            f"frames/s, {_megabytes(row['memory_mb'])} MB"
        )
        heads = [f"p{p}" for p in PERCENTILES] + (["to baseline"] if row["persons"] in ratios else [])
        yield f"  {'':<12}" + "".join(f"{head:>12}" for head in heads)
        for stage in STAGES:
            cells = [f"{row['stages'][stage][f'p{p}']:>12.3f}" for p in PERCENTILES]
            if row["persons"] in ratios:
                ratio = ratios[row["persons"]][stage]
                cells.append(f"{'-' if ratio is None else f'{ratio:.3f}':>12}")
            yield f"  {stage:<12}" + "".join(cells)
    if report["per_person_ms"] is not None:
        yield ""
        yield f"a person more takes {report['per_person_ms']:.3f} ms"
    for difference in against["differs"]:
        yield f"not as in the baseline: {difference}"


def _backend(report: Json) -> str:
    backend = report["backend"]
    threads = backend.get("threads")
    count = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return f"{backend['name']} {backend['version']} on {backend['device']}{count}"


def _machine(machine: Json) -> Iterator[str]:
    cpu, jetson = machine["cpu"], machine["jetson"]
    if jetson:
        yield jetson["model"] or "Jetson"
        yield f"power mode {jetson['power_mode'] or 'unknown'}"
        fixed = {True: "clocks fixed", False: "clocks not fixed", None: "clocks unknown"}
        yield fixed[jetson["fixed"]]
        yield ", ".join(
            f"{unit} {clock['now']:g} MHz"
            for unit, clock in jetson["clocks"].items()
            if not unit.startswith("cpu") or unit == "cpu0"
        )
        return
    yield cpu["model"]
    yield f"{cpu['cores']} cores"
    yield f"governor {' '.join(cpu['governors'])}" if cpu["governors"] else ""
    for gpu in machine["gpus"]:
        yield gpu["name"]


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _value(content: Json, keys: tuple[str, ...]) -> Any:
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _words(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
