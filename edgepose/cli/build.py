"""``edgepose build MODEL -o OUT`` (also ``edgepose-build``): make a model file faster, and prove it good.

The graph is simplified and rewritten and, for int8, quantised; TensorRT then makes an ``.engine`` file of it,
for this machine's GPU. Source and result run on the given pictures in the runtime's own steps. Where they
differ by more than is allowed, nothing is written and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.engine_file import COMPATIBILITIES, side_car
from edgepose.cli.info import engine_rows
from edgepose.cli.progress import Progress
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
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="the file to write: .onnx; .engine, for TensorRT; or .plan, the same as a bare plan",
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
        help="fp32; fp16, for GPUs; int8; or auto: whichever runs fastest here, fp32 or int8, of engines "
        "fp16 or int8, without --calib fp32 or fp16 (default: fp32, of engines fp16)",
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
        type=_sizes,
        metavar="HxW",
        help="of a bottom-up model: fix the input's height and width, for instance 256x448 (default: free); "
        "an engine needs this, or least, usual and largest size: 256x256:256x448:256x512",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of verification and timing")
    parser.add_argument(
        "--triton-repo",
        type=Path,
        metavar="DIR",
        help="also write the model into this model repository of a Triton server",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_engine_options(parser.add_argument_group("engines, built by TensorRT on this machine's GPU"))
    parser.set_defaults(run=run, parser=parser)


def _add_engine_options(group: Any) -> None:
    group.add_argument(
        "--batch",
        type=_batch,
        metavar="MIN:OPT:MAX",
        help="crops or pictures in a run: least, usual and largest number; N alone is 1:N:N (default: 1:1:8, "
        "bottom-up and on the DLA 1:1:1)",
    )
    group.add_argument(
        "--workspace",
        type=int,
        metavar="MIB",
        help="scratch memory that a layer may use (default: a quarter of the memory on boards like Jetson)",
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        metavar="N",
        help="0 builds fastest, 5 looks longest for a fast engine (default: 3)",
    )
    group.add_argument(
        "--timing-cache",
        default="auto",
        metavar="FILE",
        help="where times of layers are kept for the next build, or off (default: below ~/.cache/edgepose)",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="later versions of TensorRT run the engine too; it may be slower",
    )
    group.add_argument(
        "--hardware-compatible",
        choices=COMPATIBILITIES,
        help="other GPUs run the engine too: all from SM 8.0 on, or those of the same SM; it is slower",
    )
    group.add_argument(
        "--dla", type=int, metavar="N", help="run what it can on this deep learning accelerator of a Jetson"
    )
    group.add_argument(
        "--raw-plan", action="store_true", help="write a bare plan, and its description beside it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build, and print what was done."""
    from edgepose.builder.build import Options, build
    from edgepose.builder.tensorrt import EngineOptions

    if arguments.model.lower().endswith(CHECKPOINTS):
        command = f"python -m training export CONFIG.yaml --weights {arguments.model} -o model.onnx"
        raise ModelFormatError(
            f"cannot build from {arguments.model}; it is a PyTorch checkpoint; export it first, in a "
            f"checkout with its configuration: {command}"
        )
    source = resolve_model(arguments.model)
    sizes: Any = arguments.size or ()
    options = Options(
        precision=arguments.precision,
        calibration=_pictures(arguments.calib, CALIBRATION) if arguments.calib else [],
        activations=arguments.activations,
        max_drop=arguments.max_drop,
        threads=arguments.threads,
        input=arguments.input,
        size=sizes[0] if len(sizes) == 1 else None,
        engine=EngineOptions(
            batch=arguments.batch,
            sizes=sizes if len(sizes) == 3 else None,
            workspace=arguments.workspace,
            optimization_level=arguments.optimization_level,
            timing_cache=arguments.timing_cache,
            version_compatible=arguments.version_compatible,
            hardware_compatible=arguments.hardware_compatible,
            dla=arguments.dla,
            raw_plan=arguments.raw_plan,
        ),
        triton_repo=arguments.triton_repo,
        command=_command(arguments),
    )
    pictures = _pictures(arguments.pictures, arguments.limit)
    progress = Progress(0, "steps")
    try:
        report = build(source, arguments.output, pictures, options, progress)
    finally:
        progress.close()
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report, raw_plan=arguments.raw_plan or arguments.output.suffix.lower() == ".plan")
    return 0


def _print(report: Any, *, raw_plan: bool) -> None:
    before, after = (size / 1e6 for size in report.bytes)
    kind = "input uint8, " if report.input == "uint8" else ""
    applied = ", ".join(f"{name} {count}" for name, count in report.passes.items())
    print(
        f"{report.output}  {report.precision}, {kind}{after:.1f} MB (source {before:.1f} MB), "
        f"{report.seconds:.1f} s"
    )
    print(f"rewritten: {applied or 'simplified alone'}")
    if report.engine is not None:
        print("\n".join(f"{name or '':<12} {value}" for name, value in engine_rows(report.engine)))
        if raw_plan:
            print(f"description  {side_car(report.output)}")
    for name, value in report.quantization.items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    for name, value in report.milliseconds.items():
        print(f"{name}: {value:.2f} ms")
    print(report.parity.table())
    if report.rounding is not None:
        print(f"rounding of the pictures alone:\n{report.rounding.table()}")
    if report.triton is not None:
        print(f"Triton model: {report.triton}")


def _command(arguments: argparse.Namespace) -> str:
    """The command line that was given, without what it shares with the defaults."""
    words = ["edgepose", "build", arguments.model, "-o", str(arguments.output)]
    for name in vars(arguments):
        value = getattr(arguments, name)
        if name in ("verb", "model", "output", "json", "run", "parser", "threads"):
            continue
        if value is None or value is False or value == arguments.parser.get_default(name):
            continue
        words.append("--" + name.replace("_", "-"))
        if name == "size":
            words.append(":".join(f"{height}x{width}" for height, width in value))
        elif name == "batch":
            words.append(":".join(map(str, value)))
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Height and width of ``HxW``, or three of them."""
    sizes = tuple(_size(part) for part in text.lower().split(":"))
    if len(sizes) not in (1, 3):
        raise ValueError(text)
    return sizes


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def _batch(text: str) -> tuple[int, int, int]:
    """Three numbers of ``MIN:OPT:MAX``; a single one is the usual and the largest."""
    numbers = [int(part) for part in text.split(":")]
    if len(numbers) == 1:
        return 1, numbers[0], numbers[0]
    least, usual, largest = numbers
    return least, usual, largest


def _pictures(source: str, limit: int) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in itertools.islice(open_source(source), limit)]


def main(argv: Sequence[str] | None = None) -> int:
    """``edgepose-build``."""
    from edgepose.cli import main as edgepose

    return edgepose(["build", *(sys.argv[1:] if argv is None else argv)])
