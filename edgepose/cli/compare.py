"""``edgepose compare A B``: how far the results of one model file lie from those of another.

Both run on the same pictures, in the runtime's own steps; a top-down model takes each whole picture as a
person's box. Exit code 1 where B differs from A by more than the tolerance that was asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends import RUNTIMES
from edgepose.cli.arguments import positive
from edgepose.errors import ParityError
from edgepose.estimator import resolve_model
from edgepose.optional import first_line
from edgepose.sources import open_source

__all__ = ["add_parser"]

PRECISIONS = ("fp32", "fp16", "int8")


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("compare", help="compare the results of two model files", description=__doc__)
    parser.add_argument("first", metavar="A", help="the model to measure against: a file or a packaged name")
    parser.add_argument("second", metavar="B", help="the model to be measured")
    parser.add_argument(
        "--pictures", metavar="SOURCE", required=True, help="pictures that show people: file, folder or glob"
    )
    parser.add_argument(
        "--limit", type=positive, default=200, metavar="N", help="at most so many pictures (default: 200)"
    )
    parser.add_argument(
        "--tolerance", choices=PRECISIONS, help="fail where B is outside of this one's bounds"
    )
    parser.add_argument("--layers", action="store_true", help="also compare the values within the networks")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of each network")
    parser.add_argument(
        "--runtime",
        type=_runtimes,
        default="auto",
        metavar="NAME[,NAME]",
        help="what runs the models: onnxruntime, openvino, auto (the default), or two of them for A and B; "
        "layers are compared by onnxruntime",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences."""
    from edgepose.builder.layers import compare_layers
    from edgepose.builder.parity import TOLERANCES, compare

    first, second = resolve_model(arguments.first), resolve_model(arguments.second)
    parity = compare(
        first, second, _pictures(arguments), threads=arguments.threads, runtimes=arguments.runtime
    )
    tolerance = TOLERANCES[arguments.tolerance] if arguments.tolerance else None
    layers = {}
    if arguments.layers:
        image = next(_pictures(arguments))
        layers = compare_layers(first, second, image, threads=arguments.threads)
    if arguments.json:
        print(json.dumps({**parity.to_dict(), **({"layers": layers} if arguments.layers else {})}, indent=2))
    else:
        print(parity.table(tolerance))
        for name, error in layers.items():
            print(f"{error:>10.3g}  {name}")
    if tolerance is not None:
        try:
            tolerance.check(parity, arguments.second)
        except ParityError as error:
            print(f"edgepose: {first_line(error)}", file=sys.stderr)
            return 1
    return 0


def _runtimes(text: str) -> tuple[str, str]:
    names = text.split(",")
    if not set(names) <= set(RUNTIMES) or len(names) > 2:
        raise argparse.ArgumentTypeError(f"found {text!r}; give one or two of {', '.join(RUNTIMES)}")
    return names[0], names[-1]


def _pictures(arguments: argparse.Namespace) -> Iterator[NDArray[np.uint8]]:
    for count, frame in enumerate(open_source(arguments.pictures)):
        if count == arguments.limit:
            return
        yield frame.image
