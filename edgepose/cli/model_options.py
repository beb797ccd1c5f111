"""Model and options of an `Estimator`, as several verbs take them."""

from __future__ import annotations

import argparse
from typing import Any

from edgepose.cli.arguments import positive, scales, share
from edgepose.detectors import FAMILIES, OnnxDetector
from edgepose.estimator import DEFAULT_MODEL
from edgepose.spec import ModelSpec

__all__ = [
    "add_estimator_options",
    "add_model_argument",
    "add_model_option",
    "check_task",
    "estimator_options",
    "open_detector",
]


_MODEL = f"an .onnx or .engine file, or the name of a packaged model (default: {DEFAULT_MODEL})"


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``MODEL``, which may be left out."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help=_MODEL)


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, for verbs whose arguments are sources."""
    parser.add_argument("--model", metavar="FILE|NAME", help=_MODEL)


def add_estimator_options(parser: argparse.ArgumentParser) -> None:
    """Add those that tell how persons are found."""
    parser.add_argument(
        "--detector",
        metavar="FILE|NAME",
        help="finds the persons for a top-down model: a bottom-up one, for instance multi, or an object "
        "detector, the .onnx file of a YOLOX, RTMDet or YOLOv8",
    )
    parser.add_argument(
        "--detector-family",
        choices=FAMILIES,
        help="what an object detector is, where its file does not show it (default: as recognised)",
    )
    parser.add_argument(
        "--score-threshold",
        type=share,
        metavar="SCORE",
        help="lowest score of a person that is found (default: 0.3, of bottom-up models 0.1)",
    )
    parser.add_argument(
        "--max-persons",
        type=positive,
        metavar="N",
        help="at most so many persons that are found, the best (default: 30)",
    )
    parser.add_argument(
        "--nms",
        type=share,
        metavar="SIMILARITY",
        help="drop persons more similar than this, from 0 to 1, to one with a higher score (default: keep "
        "all)",
    )
    parser.add_argument(
        "--scales",
        type=scales,
        metavar="LIST",
        help="average runs of a bottom-up model at these scales, for instance 0.5,1,2 (default: 1)",
    )
    parser.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="fill missing joints with a bottom-up model's best guess, or leave them out (default: as the "
        "model says)",
    )
    parser.add_argument(
        "--flip-test",
        action="store_true",
        help="average with the mirrored picture: more exact, twice the time",
    )


def check_task(arguments: argparse.Namespace, spec: ModelSpec, **others: Any) -> None:
    """End with exit code 2 where options are given that serve models of another task.

    Args:
        others: values of further options that serve top-down models.
    """
    bottom_up = spec.task == "bottomup"
    if bottom_up:
        flags = {
            **{f"--{name}": value for name, value in others.items()},
            "--detector": arguments.detector,
            "--detector-family": arguments.detector_family,
        }
    else:
        refine = "--no-refine" if arguments.refine is False else "--refine"
        flags = {"--scales": arguments.scales, refine: arguments.refine}
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        this, other = ("bottom-up", "top-down") if bottom_up else ("top-down", "bottom-up")
        arguments.parser.error(
            f"{' and '.join(given)} cannot be used; {spec.name!r} is a {this} model; leave "
            f"{'it' if len(given) == 1 else 'them'} out, or take a {other} one"
        )
    if arguments.detector_family is not None and arguments.detector is None:
        arguments.parser.error("--detector-family needs --detector")


def estimator_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the Estimator; those that the user left out keep their defaults."""
    options = {
        "detector": arguments.detector,
        "score_threshold": arguments.score_threshold,
        "max_persons": arguments.max_persons,
        "nms_threshold": arguments.nms,
        "scales": arguments.scales,
        "refine": arguments.refine,
        "threads": arguments.threads,
    }
    given = {name: value for name, value in options.items() if value is not None}
    always = {name: getattr(arguments, name) for name in ("device", "runtime", "flip_test")}
    return {**always, **given}


def open_detector(arguments: argparse.Namespace) -> OnnxDetector:
    """The object detector of a family that the user tells."""
    options = {"score_threshold": arguments.score_threshold, "threads": arguments.threads}
    return OnnxDetector(
        arguments.detector,
        family=arguments.detector_family,
        device=arguments.device,
        runtime=arguments.runtime,
        **{name: value for name, value in options.items() if value is not None},
    )
