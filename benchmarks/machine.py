"""What the benchmarks say about the machine that they ran on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from edgepose.machine import processor_name, read_fields, read_text

__all__ = ["describe", "table"]

PACKAGES = ("edgepose", "numpy", "opencv-python", "onnxruntime", "torch", "numba", "openvino")


def describe() -> str:
    """Processor, cores, load and versions, as a markdown paragraph."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    processor = processor_name(read_fields(read_text(Path("/proc/cpuinfo"))))
    return f"Machine: {processor}, {cores} cores{load}. Versions: {', '.join(versions)}."


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
