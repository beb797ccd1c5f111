"""Run all benchmarks and write docs/performance.md: ``make bench``."""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPORT = HERE.parent / "docs" / "performance.md"
SECTIONS = (
    (
        "Kernels",
        "kernels.py",
        "Each kernel's implementations and what people otherwise use, on the same data.",
    ),
    (
        "Bottom-up decode",
        "bottomup.py --network",
        "From a bottom-up network's maps to persons, on one thread: peaks, grouping, quarter step, missing "
        "joints (refine). Peaks and times depend on the maps: these are made, with people that lack joints.",
    ),
    (
        "From picture to joints",
        "end_to_end.py",
        "LPN-50 at 256x192: the network alone in PyTorch and ONNX Runtime, and the whole `Estimator` call. "
        "Reading and decoding the picture's file is not included.",
    ),
    (
        "Built models",
        "build.py",
        "What `edgepose build` makes of a network: each rewriting alone, and all together.",
    ),
    (
        "Tracking and smoothing",
        "tracking.py",
        "People of a street and of a gymnastics video, marked by hand: in how many frames they are found, "
        "how often their number changes, and in how many of these frames they have the number that each has "
        "most. Jitter is the mean second difference of the joints from frame to frame; lag the shift by "
        "which the smoothed joints lie nearest to the others, by the median. The packaged models are weak in "
        "crowds: numbers change where poses jump from one person to another.",
    ),
    (
        "Streams",
        "streams.py",
        "Videos from file to poses and to a file again, against rtmlib where it is installed beside this "
        "package (`pip install rtmlib onnx`; it is no dependency); what the host does for a frame; several "
        "sources through one model.",
    ),
    (
        "Memory",
        "memory.py",
        "Memory of a process in which two sources run through one tiny model, whose people are found by a "
        "detector, tracked and smoothed; `make soak` fails where it grows.",
    ),
    (
        "Drawing",
        "drawing.py",
        "Poses of 17 joints drawn on a picture: on the picture itself, on a copy, and with options; and what "
        "the edge and vertex annotators of supervision take.",
    ),
    (
        "Serving",
        "serving.py",
        "`edgepose serve` with the packaged model, asked about the packaged photo by clients that send the "
        "next request when the last one is answered, and a loop that decodes the photo and calls the "
        "`Estimator`. The server decodes while the network runs and gives it several pictures at once. "
        "Clients and server share the machine. Then requests come at twice the rate that was served, whether "
        "earlier ones are answered or not.",
    ),
    (
        "Annotating in bulk",
        "annotate.py",
        "From a folder of pictures to one file of COCO annotations: a loop that one writes oneself, "
        "`edgepose annotate` on one and two workers, and through Ray; and a run that is killed, and goes on.",
    ),
    (
        "Start-up",
        "startup.py",
        "Importing the package, and the way to the first result of the packaged model.",
    ),
    (
        "Training",
        "training_loop.py --steps 2",
        "A training loop with its data loading, against a plain PyTorch loop of the same network that does "
        "the same to the same pictures.",
    ),
    (
        "Distillation",
        "training_loop.py --distillation --batch 8 --steps 2",
        "A training step of FPD and OKDHP, with hourglasses of 128 channels. In the published count of "
        "GFLOPs, with 256 channels, the student takes 14, FPD with its teacher's training 66, OKDHP 47.",
    ),
)
HEAD = """# Performance

Written by `make bench` on {date}; do not edit. Absolute times belong to the machine that is named with
each table; the contestants of a table took turns in one run, so what carries over is their ratios.
Figures of a GPU stand in [performance on a GPU](performance-gpu.md).
"""


def main() -> None:
    """Run the scripts one after the other; write the report when all have succeeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark (default: its own)")
    parser.add_argument(
        "--only", metavar="SCRIPT", help="measure one script's section again, leave the others"
    )
    parser.add_argument("-o", "--output", type=Path, default=REPORT, help="default: docs/performance.md")
    arguments = parser.parse_args()
    output: Path = arguments.output
    rounds = [] if arguments.rounds is None else ["--rounds", str(arguments.rounds)]
    parts = [HEAD.format(date=datetime.date.today().isoformat())]
    if arguments.only:
        parts = re.split(r"\n(?=## )", output.read_text("utf-8"))
    for title, script, text in SECTIONS:
        if arguments.only and arguments.only != script.split()[0]:
            continue
        print(f"benchmarks/{script} ...", file=sys.stderr, flush=True)
        command = f"```sh\nPYTHONPATH=. python benchmarks/{script}\n```"
        section = f"## {title}\n\n{text}\n\n{command}\n\n{measure(script, rounds).strip()}\n"
        places = [i for i, part in enumerate(parts) if part.startswith(f"## {title}\n")]
        if places:
            parts[places[0]] = section
        else:
            parts.append(section)
    titles = [f"## {title}" for title, _, _ in SECTIONS]
    parts[1:] = sorted(parts[1:], key=lambda part: titles.index(part.partition("\n")[0]))
    output.write_text("\n".join(part.strip("\n") + "\n" for part in parts), "utf-8")
    print(f"written: {output}", file=sys.stderr)


def measure(script: str, options: list[str]) -> str:
    """What a benchmark prints.

    Raises:
        SystemExit: it failed; nothing is written then.
    """
    name, *own = script.split()
    done = subprocess.run(
        [sys.executable, str(HERE / name), *own, *options],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},  # for the training package of the checkout
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"benchmarks/{script} failed; {REPORT.name} is left as it was")
    return done.stdout


if __name__ == "__main__":
    main()
