"""``edgepose val MODEL``: the accuracy of a model file on annotated people."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from edgepose import __version__
from edgepose.backends import read_model_spec
from edgepose.cli.arguments import add_machine_options, positive, scales, share
from edgepose.cli.model_options import add_model_argument
from edgepose.cli.progress import Progress
from edgepose.errors import InvalidInputError
from edgepose.estimator import Estimator, resolve_model
from edgepose.evaluation.coco import PictureSet, load_coco, load_crowdpose
from edgepose.evaluation.lsp import load_lsp
from edgepose.evaluation.run import score_people, score_pictures
from edgepose.evaluation.scorers import LspScorer, Scorer, score_coco, score_mpii
from edgepose.spec import ModelSpec

__all__ = ["add_parser"]

_DESCRIPTION = """Measure the accuracy of a model file on annotated people, run as it is deployed.

A top-down model is given each person's box: the annotated one, on COCO and CrowdPose also those of a
detector's result file (--detections); or it looks for the people with --detector, as a bottom-up model does
by itself. COCO and CrowdPose: AP and its companions by object keypoint similarity, from 0 to 1, which needs
edgepose[eval]. Leeds Sports Pose: PCK@0.2 on the pictures 1001 to 2000. MPII: PCKh@0.5, with gt_valid.mat
beside valid.json. PCK and PCKh are in percent."""

Json = dict[str, Any]


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "val",
        help="measure the accuracy of a model file",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_argument(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    pair = ("ANNOTATIONS", "IMAGES")
    for name in ("coco", "crowdpose", "mpii"):
        data.add_argument(
            f"--{name}", nargs=2, type=Path, metavar=pair, help="annotation file, and folder of the pictures"
        )
    data.add_argument("--lsp", type=Path, metavar="DIR", help="folder that holds joints.mat and images/")
    boxes = parser.add_mutually_exclusive_group()
    boxes.add_argument(
        "--detections", type=Path, metavar="FILE", help="boxes of a detector in COCO's result format"
    )
    boxes.add_argument(
        "--detector", metavar="FILE|NAME", help="finds the persons: a bottom-up model or an object detector"
    )
    parser.add_argument("--flip-test", action="store_true", help="average with the mirrored picture")
    parser.add_argument(
        "--scales", type=scales, metavar="LIST", help="average runs of a bottom-up model at these scales"
    )
    parser.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="fill missing joints of a bottom-up model, or leave them out (default: as the model says)",
    )
    parser.add_argument(
        "--score-threshold",
        type=share,
        default=0.0,
        metavar="SCORE",
        help="leave out persons that are found with a lower score (default: 0, as published figures are "
        "taken)",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="the first N people (LSP, MPII) or pictures alone"
    )
    parser.add_argument(
        "--at-least",
        type=float,
        metavar="FIGURE",
        help="exit code 1 where the first figure that is told (AP, or the mean) is lower",
    )
    add_machine_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    model = resolve_model(arguments.model)
    spec = read_model_spec(model)
    _check_usage(arguments, spec)
    data = _data(arguments, spec)
    people = not isinstance(data, PictureSet)
    total = len(data.people) if not isinstance(data, PictureSet) else len(data)
    progress = Progress(total, "people" if people else "pictures")
    with Estimator(model, **_options(arguments)) as estimator:
        started = time.perf_counter()
        try:
            if isinstance(data, PictureSet):
                headline, figures = "AP", score_pictures(estimator, data, progress.step)
            else:
                headline, figures = data.headline, score_people(estimator, data, progress.step)
        finally:
            progress.close()
        report = {
            "edgepose": __version__,
            "model": {"name": spec.name, "path": str(model), "precision": spec.precision},
            "data": {"name": _name(arguments), "scored": "people" if people else "pictures", "count": total},
            "settings": _settings(arguments),
            "backend": estimator.info.backend,
            "seconds": round(time.perf_counter() - started, 3),
            "headline": headline,
            "figures": {name: None if math.isnan(value) else value for name, value in figures.items()},
        }
    print(json.dumps(report, indent=2, ensure_ascii=False) if arguments.json else _table(report))
    return _verdict(arguments, headline, figures[headline])


def _check_usage(arguments: argparse.Namespace, spec: ModelSpec) -> None:
    """End with exit code 2 where options do not fit the data or the model."""
    name, bottom_up = _name(arguments), spec.task == "bottomup"
    whole = name in ("coco", "crowdpose")
    refine = "--no-refine" if arguments.refine is False else "--refine"
    boxes = {"--detections": arguments.detections, "--detector": arguments.detector}
    maps = {"--scales": arguments.scales, refine: arguments.refine}
    for flag, value in {**boxes, **maps}.items():
        if value is None:
            continue
        if flag in boxes and not whole:
            arguments.parser.error(f"{flag} serves --coco and --crowdpose; leave it out with --{name}")
        if (flag in boxes) == bottom_up:
            kinds = ("top-down", "bottom-up") if bottom_up else ("bottom-up", "top-down")
            arguments.parser.error(
                f"{flag} serves {kinds[0]} models; {spec.name!r} is {kinds[1]}; leave it out"
            )
    if bottom_up and not whole:
        arguments.parser.error(
            f"--{name} scores people in their boxes; {spec.name!r} is bottom-up; give --coco or --crowdpose"
        )


def _name(arguments: argparse.Namespace) -> str:
    return next(name for name in ("coco", "crowdpose", "lsp", "mpii") if getattr(arguments, name) is not None)


def _data(arguments: argparse.Namespace, spec: ModelSpec) -> Scorer | PictureSet:
    """What is scored: people in boxes, or whole pictures."""
    limit = arguments.limit
    if arguments.lsp is not None:
        return LspScorer(load_lsp(arguments.lsp, 1001, 2000 if limit is None else min(1000 + limit, 2000)))
    if arguments.mpii is not None:
        annotations, images = arguments.mpii
        return score_mpii(annotations, images, spec.padding, limit=limit)
    load = load_coco if arguments.coco else load_crowdpose
    pictures = load(*(arguments.coco or arguments.crowdpose))[:limit]
    if not len(pictures):
        raise InvalidInputError("nothing to score; found no picture in the annotations; give another file")
    if spec.task == "bottomup" or arguments.detector is not None:
        return pictures
    return score_coco(pictures.mapped(spec.skeleton), spec.input_size, spec.padding, arguments.detections)


def _options(arguments: argparse.Namespace) -> Json:
    """The options of the Estimator; those that the user left out keep their defaults."""
    names = ("detector", "scales", "refine", "threads")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    always = ("device", "runtime", "flip_test", "score_threshold")
    return {**given, **{name: getattr(arguments, name) for name in always}}


def _settings(arguments: argparse.Namespace) -> Json:
    """The options that change the figures."""
    names = ("flip_test", "scales", "refine", "score_threshold", "detector", "detections", "limit")
    values = {name: getattr(arguments, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _table(report: Json) -> str:
    model, backend, data, settings = (report[name] for name in ("model", "backend", "data", "settings"))
    first = "the first " if settings["limit"] else ""
    lines = [
        f"{model['name']} ({model['precision']}), {backend['name']} on {backend['device']}",
        f"{data['name']}, {first}{data['count']} {data['scored']}, "
        f"{'with' if settings['flip_test'] else 'without'} flip test, {report['seconds']:.1f} s",
    ]
    digits = 4 if "AP" in report["figures"] else 2
    for name, value in report["figures"].items():
        lines.append(f"{name:<12} {'none' if value is None else f'{value:.{digits}f}':>8}")
    return "\n".join(lines)


def _verdict(arguments: argparse.Namespace, name: str, value: float) -> int:
    least = arguments.at_least
    if least is None or value >= least:
        return 0
    print(f"edgepose: {name} is too low; found {value:g}, asked for at least {least:g}", file=sys.stderr)
    return 1
