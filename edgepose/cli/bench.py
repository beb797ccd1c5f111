"""``edgepose bench MODEL``: how fast a model file runs on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edgepose import __version__
from edgepose.cli.arguments import add_machine_options, counts, positive, seconds
from edgepose.cli.model_options import add_model_argument
from edgepose.cli.progress import Progress
from edgepose.estimator import Estimator, resolve_model
from edgepose.machine import describe_machine, resident_memory

__all__ = ["add_parser"]

_DESCRIPTION = """Measure how fast a model file runs on this machine.

Frames show 1, 5, 10 and 30 copies of a photo of a person: a top-down model is given their boxes, a bottom-up
model has to find them. Every call is timed whole, from decoded frame to result, and by stage: preprocess,
inference, postprocess, and the rest of the call. Told are the median and the 95th and 99th percentile, the
memory of the process, the way from a fresh process to the first result, and what decides the machine's
speed: processor and governor, on a Jetson power mode and clocks. Reading files, cameras and drawing are not
included."""

Json = dict[str, Any]


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "bench",
        help="measure the speed of a model file",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_argument(parser)
    parser.add_argument(
        "--persons",
        type=counts,
        default=(1, 5, 10, 30),
        metavar="LIST",
        help="numbers of persons in the frames (default: 1,5,10,30)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=5.0,
        metavar="S",
        help="how long each number of persons is timed, at least 10 calls (default: 5)",
    )
    parser.add_argument(
        "--warmup", type=positive, default=5, metavar="N", help="calls before that (default: 5)"
    )
    parser.add_argument(
        "--frame", type=_frame, default=(1280, 720), metavar="WxH", help="pixels (default: 1280x720)"
    )
    parser.add_argument(
        "--starts",
        type=_starts,
        default=3,
        metavar="N",
        help="fresh processes whose start is timed; 0: none (default: 3)",
    )
    parser.add_argument("--flip-test", action="store_true", help="average with the mirrored picture")
    add_machine_options(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures into a .png file")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="compare with what --json printed before"
    )
    parser.add_argument(
        "--max-slowdown",
        type=seconds,
        metavar="FACTOR",
        help="exit code 1 where the median call takes longer than this many times the baseline's",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, which --baseline reads")
    form.add_argument(
        "--markdown", action="store_true", help="print a Markdown table, a row a number of persons"
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    from edgepose.bench.plot import check_target, write_plot
    from edgepose.bench.report import compare, read_report, to_markdown, to_text

    if arguments.max_slowdown is not None and arguments.baseline is None:
        arguments.parser.error("--max-slowdown needs --baseline; give the file, or leave it out")
    if arguments.plot is not None:
        check_target(arguments.plot)
    baseline = None if arguments.baseline is None else read_report(arguments.baseline)
    report = _measure(arguments)
    if baseline is not None:
        report["baseline"] = compare(report, baseline, arguments.baseline)
    if arguments.plot is not None:
        write_plot(report, arguments.plot)
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(to_markdown(report) if arguments.markdown else to_text(report))
    return _verdict(arguments, report)


def _measure(arguments: argparse.Namespace) -> Json:
    from edgepose.bench.report import per_person
    from edgepose.bench.startup import time_startup
    from edgepose.bench.timing import time_persons

    model = resolve_model(arguments.model)
    options = {name: getattr(arguments, name) for name in ("device", "runtime", "threads", "flip_test")}
    options["max_persons"] = max(30, *arguments.persons)
    machine = describe_machine()
    startup = time_startup(model, options, arguments.starts) if arguments.starts else None
    width, height = arguments.frame
    with Estimator(model, **options) as estimator:
        info = estimator.info
        progress = Progress(None, "calls")
        try:
            rows = time_persons(
                estimator,
                arguments.persons,
                (height, width),
                seconds=arguments.seconds,
                warmup=arguments.warmup,
                step=progress.step,
            )
        finally:
            progress.close()
    plain = [row.to_dict() for row in rows]
    peak = resident_memory(peak=True)
    return {
        "edgepose": __version__,
        "model": {
            "name": info.spec.name,
            "path": str(model),
            "bytes": model.stat().st_size,
            "task": info.spec.task,
            "precision": info.spec.precision,
            "input_size": list(info.spec.input_size),
        },
        "backend": info.backend,
        "kernels": {op: status["implementation"] for op, status in info.kernels.items()},
        "machine": machine,
        "frame": [width, height],
        "settings": {
            "seconds": arguments.seconds,
            "warmup": arguments.warmup,
            "flip_test": arguments.flip_test,
        },
        "startup": startup,
        "rows": plain,
        "per_person_ms": per_person(plain),
        "peak_mb": round(peak / 1e6, 1) if peak else None,
    }


def _verdict(arguments: argparse.Namespace, report: Json) -> int:
    limit = arguments.max_slowdown
    slowest = report["baseline"]["slowest"] if limit is not None else None
    if slowest is None or slowest <= limit:
        return 0
    print(
        f"edgepose: slower than the baseline; found {slowest:.3f} times its time, allowed are {limit:g}; see "
        "what differs from it",
        file=sys.stderr,
    )
    return 1


def _frame(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return positive(width), positive(height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"found {text!r}; give WIDTHxHEIGHT, such as 1280x720") from None


def _starts(text: str) -> int:
    return 0 if text == "0" else positive(text)
