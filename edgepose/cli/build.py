"""``edgepose build MODEL -o OUT`` (also ``edgepose-build``): make a model file faster, and prove it the same.

The graph is simplified and rewritten; then source and result run on the given pictures in the runtime's own
steps. Where they differ by more than rounding, nothing is written and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgepose.errors import ModelFormatError
from edgepose.estimator import resolve_model
from edgepose.sources import open_source

__all__ = ["add_parser", "main"]

CHECKPOINTS = (".pt", ".pth", ".ckpt")
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
    parser.add_argument("--threads", type=int, help="CPU threads of the verification")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build, and print what was done."""
    from edgepose.builder.build import build

    if arguments.model.lower().endswith(CHECKPOINTS):
        command = f"python -m training export CONFIG.yaml --weights {arguments.model} -o model.onnx"
        raise ModelFormatError(
            f"cannot build from {arguments.model}; it is a PyTorch checkpoint; export it first, in a "
            f"checkout with its configuration: {command}"
        )
    source = resolve_model(arguments.model)
    frames = itertools.islice(open_source(arguments.pictures), arguments.limit)
    report = build(source, arguments.output, [frame.image for frame in frames], threads=arguments.threads)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    before, after = (size / 1e6 for size in report.bytes)
    applied = ", ".join(f"{name} {count}" for name, count in report.passes.items())
    print(f"{report.output}  {after:.1f} MB (source {before:.1f} MB), {report.seconds:.1f} s")
    print(f"rewritten: {applied}")
    print(report.parity.table())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """``edgepose-build``."""
    from edgepose.cli import main as edgepose

    return edgepose(["build", *(sys.argv[1:] if argv is None else argv)])
