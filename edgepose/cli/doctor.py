"""``edgepose doctor``: what this machine offers, which code serves, and what is wrong.

Exit code 1 where the packaged models cannot run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("doctor", help="examine this machine and the installation", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    from edgepose.diagnosis import examine

    report = examine()
    if arguments.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(f"{name:<13} {value}".rstrip() for name, value in _rows(report)))
    return int(any(problem["level"] == "error" for problem in report["problems"]))


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    system, cpu = report["system"], report["cpu"]
    yield "edgepose", f"{report['edgepose']['version']}, {report['edgepose']['path']}"
    yield "python", f"{system['python']}, {system['executable']}"
    yield "system", ", ".join(filter(None, (system["platform"], system["libc"])))
    yield "cpu", f"{cpu['model']}, {cpu['cores']} cores, {cpu['usable_threads']} usable"
    yield "", " ".join(cpu["features"])
    if cpu["memory_gb"]:
        yield "memory", f"{cpu['memory_gb']:g} GB, {cpu['available_gb']:g} GB available"
    if report["jetson"]:
        parts = (f"{name} {value}" for name, value in report["jetson"].items() if value)
        yield "jetson", ", ".join(parts)
    devices = report["gpu"]["devices"]
    for device in devices:
        yield "gpu", ", ".join(device.values())
    if not devices and not report["jetson"]:
        yield "gpu", "none (nvidia-smi finds no NVIDIA GPU)"
    yield from _runtimes(report)
    missing = [name for name, version in report["packages"].items() if version is None]
    found = [f"{name} {version}" for name, version in report["packages"].items() if version]
    yield "packages", ", ".join(found)
    yield "not installed", ", ".join(missing) or "-"
    for op, status in report["kernels"]["ops"].items():
        isa = f" ({status['isa']})" if status["isa"] else ""
        reason = f"; {status['reason']}" if status["reason"] else ""
        yield "kernel", f"{op:<18} {status['implementation']}{isa}{reason}"
    for problem in report["problems"]:
        yield problem["level"], f"{problem['found']}; {problem['advice']}"
    if not report["problems"]:
        yield "problems", "none"


def _cuda(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    tensorrt, cuda = report["tensorrt"], report["cuda"]
    yield "tensorrt", tensorrt["error"] or tensorrt["version"] or "not installed"
    device = cuda["device"]
    if device:
        shared = ", memory shared with the CPU" if device["integrated"] else ""
        yield (
            "cuda",
            (
                f"{device['name']}, compute capability {device['compute_capability']}, driver for CUDA "
                f"{device['driver']}, {device['memory_gb']:g} GB{shared}"
            ),
        )
        yield "", f"kernels: {'serve' if cuda['kernels'] else cuda['kernels_error']}"
    elif tensorrt["version"]:
        yield "cuda", cuda["error"]


def _runtimes(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    opencv, runtime, openvino = report["opencv"], report["onnxruntime"], report["openvino"]
    gstreamer = "with" if opencv["gstreamer"] else "without"
    source = ", ".join(opencv["distributions"]) or "the system"
    yield "opencv", opencv["error"] or f"{opencv['version']} {gstreamer} GStreamer, from {source}"
    yield "onnxruntime", runtime["error"] or f"{runtime['version']}, {', '.join(runtime['providers'])}"
    found = f"{openvino['version']}, {'; '.join(openvino['devices'])}"
    yield from _cuda(report)
    yield "openvino", (openvino["error"] or found) if report["packages"]["openvino"] else "not installed"
    auto = report["runtime"]["auto"]
    yield "runtime", f"auto takes {auto or 'none'}: {report['runtime']['reason']}"
