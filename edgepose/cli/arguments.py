"""Options and values that several verbs take."""

from __future__ import annotations

import argparse
import math

from edgepose.backends import RUNTIMES
from edgepose.errors import InvalidInputError
from edgepose.pipeline.bottomup import check_scales

__all__ = ["add_machine_options", "attempts", "counts", "positive", "scales", "seconds", "share"]


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, ``--device`` and ``--runtime``."""
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all there are)")
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:1 (default: auto)"
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help="what runs the network (default: auto, tensorrt for an engine, else onnxruntime where it is "
        "installed, else openvino)",
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; give a number from 0 to 1")
    return value


def seconds(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; give a number above 0")
    return value


def scales(text: str) -> tuple[float, ...]:
    """Scales of a multi-scale test, apart by commas."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; give numbers, for instance 0.5,1,2") from None
    try:
        return check_scales(values)
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def attempts(text: str) -> int | None:
    """A number of attempts; None for ``forever``."""
    if text == "forever":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}; give a whole number, or forever")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; give a whole number of at least 1")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, apart by commas, each once and in rising order."""
    return tuple(sorted({positive(part.strip()) for part in text.split(",")}))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
