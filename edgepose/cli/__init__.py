"""The command line: one verb a module of this package.

Exit codes: 0 done; 1 ran and failed, in whole or in part; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from edgepose import __version__
from edgepose.cli import annotate, bench, build, compare, doctor, info, predict, serve, val
from edgepose.errors import EdgePoseError

__all__ = ["main", "make_parser"]

VERBS = (predict, annotate, info, build, compare, bench, val, serve, doctor)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all verbs."""
    parser = argparse.ArgumentParser(
        prog="edgepose",
        description="2D human pose estimation on the edge.",
        epilog="Exit codes: 0 done; 1 ran and failed, in whole or in part; 2 wrong usage; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"edgepose {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    # What OpenCV fails on is told in our own words; its log would bury them.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    arguments = make_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except EdgePoseError as error:
        print(f"edgepose: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("edgepose: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, for instance `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"edgepose: cannot read or write; {error}; check the path and the disk", file=sys.stderr)
        return 1
    return code
