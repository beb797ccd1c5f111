"""``edgepose annotate SOURCE... -o OUT``: the poses of many pictures in one file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edgepose.annotation.outputs import TOLD, check_output, errors_path
from edgepose.annotation.plan import Plan, make_plan
from edgepose.annotation.run import Annotated, run_plan
from edgepose.backends import read_model_spec
from edgepose.cli.arguments import add_machine_options, positive
from edgepose.cli.interrupts import Interrupts
from edgepose.cli.model_options import (
    add_estimator_options,
    add_model_option,
    check_task,
    estimator_options,
    open_detector,
)
from edgepose.cli.progress import Progress
from edgepose.estimator import resolve_model

__all__ = ["add_parser"]

_DESCRIPTION = """Estimate the poses in many pictures, and write them to one file: .parquet, a row a person
(edgepose[parquet]), or .json, COCO's annotations.

What is done stands in OUT.parts until the file is complete: a run that was ended, by whatever, goes on where
it was when the same command is given again (without --overwrite, which begins anew), with any number of
workers, and its file is the same as without the break. Pictures that have changed meanwhile are done again.
What cannot be used is listed at the end and in OUT.errors.json, and the exit code is then 1. Ctrl-C waits for
what is under way, some 32 pictures a worker; a second one does not."""


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "annotate",
        help="estimate the poses in many pictures, into one file",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SOURCE", nargs="+", help="picture, directory, glob pattern (quoted) or video"
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help=".parquet or .json")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, and forget an unfinished run")
    add_model_option(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="processes, which share the CPU cores (default: 1; on a cluster one for each machine)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=4,
        metavar="N",
        help="pictures that go through the network together (default: 4)",
    )
    parser.add_argument(
        "--every", type=positive, default=1, metavar="N", help="of a video, use each N-th frame (default: 1)"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="let a Ray cluster do it, which sees the same files: its address, auto (which --ray alone "
        "means) or local (edgepose[ray])",
    )
    add_estimator_options(parser)
    add_machine_options(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    output: Path = arguments.output
    check_output(output)
    check_task(arguments, read_model_spec(resolve_model(arguments.model)))
    options = estimator_options(arguments)
    if arguments.detector_family is not None:
        with open_detector(arguments) as detector:  # opened again by those that use it
            options["detector"] = detector
    plan = make_plan(arguments.source, arguments.model, arguments.batch, arguments.every, options)
    view = _View(plan)
    done: Annotated | None = None
    try:
        with Interrupts(view.on_wait) as interrupts, interrupts.whole():
            done = run_plan(
                plan,
                output,
                workers=arguments.workers,
                ray=arguments.ray,
                overwrite=arguments.overwrite,
                on_start=view.on_start,
                on_step=view.on_step,
                stop=lambda: interrupts.waiting,
            )
    except KeyboardInterrupt:
        if done is None:
            view.close()
            again = "without --overwrite" if arguments.overwrite else "again"
            print(
                f"edgepose: interrupted; run the same command {again} to go on: what is done is kept in "
                f"{output}.parts",
                file=sys.stderr,
            )
            return 130
    finally:
        view.close()
    assert done is not None
    return _report(arguments, done)


def _report(arguments: argparse.Namespace, done: Annotated) -> int:
    if arguments.json:
        print(json.dumps(done.to_dict(), indent=2, ensure_ascii=False))
    for skip in done.first_errors:
        print(f"edgepose: {skip}", file=sys.stderr)
    if done.errors > TOLD:
        print(f"edgepose: and {done.errors - TOLD} more", file=sys.stderr)
    print(
        f"edgepose: {done.pictures} pictures, {done.persons} persons written to {done.output}",
        file=sys.stderr,
    )
    if done.errors:
        print(f"edgepose: errors: {done.errors}, see {errors_path(done.output)}", file=sys.stderr)
    return 1 if done.errors else 0


class _View:
    """What the user sees of a run while it goes on."""

    def __init__(self, plan: Plan) -> None:
        self._videos = any(item.video for item in plan.items)
        self._progress: Progress | None = None

    def on_start(self, kept: int, left: int, changed: int) -> None:
        """Tell what an earlier run has done, and begin to count."""
        if kept:
            print(f"edgepose: going on; {kept} of {kept + left} files were done", file=sys.stderr)
        if changed:
            print(
                f"edgepose: files have changed since; groups of them that are done again: {changed}",
                file=sys.stderr,
            )
        # The frames of a video are not known beforehand.
        self._progress = Progress(None if self._videos else left, "frames" if self._videos else "pictures")

    def on_step(self, results: int, errors: int) -> None:
        """Count."""
        if self._progress is not None:
            self._progress.step(results + errors, errors)

    def on_wait(self) -> None:
        """Say that an interrupt waits."""
        text = "edgepose: finishing what is under way; press Ctrl-C again to end at once"
        if self._progress is None:
            print(text, file=sys.stderr)
        else:
            self._progress.message(text)

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None
