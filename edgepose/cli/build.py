"""``edgepose build MODEL -o OUT`` (also ``edgepose-build``): make a model file faster, and prove it good.

The graph is simplified and rewritten and, for int8, quantised. Then source and result run on the given
pictures in the runtime's own steps. Where they differ by more than is allowed, nothing is written and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import ModelFormatError
from edgepose.estimator import resolve_model
from edgepose.sources import open_source

__all__ = ["add_parser", "main"]

CHECKPOINTS = (".pt", ".pth", ".ckpt")
CALIBRATION = 500
"""At most so many pictures are calibrated on."""
SAMPLE = Path(__file__).parents[1] / "samples" / "astronaut.jpg"


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("build", help="make a model file faster and verify it", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="an exported .onnx file, or a packaged name")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the .onnx file to write"
    )
    parser.add_argument(
        "--pictures",
        metavar="SOURCE",
        default=str(SAMPLE),
        help="pictures that show people, to verify on: file, folder or glob (default: the packaged photo)",
    )
    parser.add_argument("--limit", type=int, default=50, help="at most so many pictures (default: 50)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8", "auto"),
        default="fp32",
        help="fp32 (default); fp16, for GPUs; int8; or auto: fp32 or int8, whichever runs faster here",
    )
    parser.add_argument(
        "--calib", metavar="SOURCE", help="pictures of people by which int8 is calibrated, some hundred"
    )
    parser.add_argument(
        "--activations",
        choices=("uint8", "int8"),
        help="of int8: uint8 runs fast in ONNX Runtime on x86, int8 in OpenVINO, and TensorRT takes that "
        "alone (default: by machine)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.03,
        help="of int8: how far the mean object keypoint similarity to the source may fall (default: 0.03)",
    )
    parser.add_argument(
        "--input",
        choices=("float32", "uint8"),
        default="float32",
        help="what the network takes: float32 (default), normalised; or uint8: the picture's own values",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="of a bottom-up model: fix the input's height and width, for instance 256x448 (default: free)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of verification and timing")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, and print what was done."""
    from edgepose.builder.build import Options, build

    if arguments.model.lower().endswith(CHECKPOINTS):
        command = f"python -m training export CONFIG.yaml --weights {arguments.model} -o model.onnx"
        raise ModelFormatError(
            f"cannot build from {arguments.model}; it is a PyTorch checkpoint; export it first, in a "
            f"checkout with its configuration: {command}"
        )
    source = resolve_model(arguments.model)
    options = Options(
        precision=arguments.precision,
        calibration=_pictures(arguments.calib, CALIBRATION) if arguments.calib else [],
        activations=arguments.activations,
        max_drop=arguments.max_drop,
        threads=arguments.threads,
        input=arguments.input,
        size=arguments.size,
    )
    pictures = _pictures(arguments.pictures, arguments.limit)
    report = build(source, arguments.output, pictures, options)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    before, after = (size / 1e6 for size in report.bytes)
    kind = "input uint8, " if report.input == "uint8" else ""
    applied = ", ".join(f"{name} {count}" for name, count in report.passes.items())
    print(
        f"{report.output}  {report.precision}, {kind}{after:.1f} MB (source {before:.1f} MB), "
        f"{report.seconds:.1f} s"
    )
    print(f"rewritten: {applied}")
    for name, value in report.quantization.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    for name, value in report.milliseconds.items():
        print(f"{name}: {value:.2f} ms")
    print(report.parity.table())
    if report.rounding is not None:
        print(f"rounding of the pictures alone:\n{report.rounding.table()}")
    return 0


def _size(text: str) -> tuple[int, int]:
    """Height and width, of ``HxW``."""
    height, width = text.lower().split("x")
    return int(height), int(width)


def _pictures(source: str, limit: int) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in itertools.islice(open_source(source), limit)]


def main(argv: Sequence[str] | None = None) -> int:
    """``edgepose-build``."""
    from edgepose.cli import main as edgepose

    return edgepose(["build", *(sys.argv[1:] if argv is None else argv)])
