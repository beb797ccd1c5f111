"""What a machine offers to edgepose: versions, processor, devices, runtimes, kernels; and what is wrong."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import edgepose
from edgepose import kernels
from edgepose.backends import choose_runtime
from edgepose.backends.base import default_threads
from edgepose.backends.device import open_device
from edgepose.backends.openvino import short_version, without_telemetry
from edgepose.machine import gpus, jetson_model, power_mode, processor_name, read_fields, read_text
from edgepose.machine import run_program as _run
from edgepose.optional import first_line

__all__ = ["examine"]

PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "pycuda", "numba", "onnx", "onnxslim"
)  # fmt: skip
"""Distributions whose versions matter, besides those of OpenCV."""

CPU_FEATURES = {
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
}  # fmt: skip
"""Flags of the processor that decide which code can run, as Linux spells them."""

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
TEGRA_RELEASE = Path("/etc/nv_tegra_release")
DEVICE_TREE_MODEL = Path("/proc/device-tree/model")

Section = dict[str, Any]


def examine() -> dict[str, Any]:
    """Examine the machine; nothing is changed, and a part that cannot be examined says so.

    Returns:
        JSON-ready sections: ``edgepose``, ``system``, ``cpu``, ``packages`` (versions, None where not
        installed), ``opencv``, ``onnxruntime``, ``openvino``, ``runtime`` (which one ``"auto"`` takes, None
        where none serves, and the ``reason``), ``gpu``, ``tensorrt``, ``cuda`` (the ``device`` that engines
        run on, None with an ``error`` where there is none, and whether the ``kernels`` serve there),
        ``jetson`` (None elsewhere), ``kernels`` (`edgepose.kernels.Kernels.status`) and ``problems``: each
        with its ``level`` (``"error"``: the packaged models cannot run; ``"warning"``), what was ``found``,
        and ``advice``.
    """
    report: dict[str, Any] = {
        "edgepose": {"version": edgepose.__version__, "path": str(Path(edgepose.__file__).parent)},
        "system": _system(),
        "cpu": _cpu(),
        "packages": {name: _version(name) for name in PACKAGES},
        "opencv": _opencv(),
        "onnxruntime": _onnxruntime(),
        "openvino": _openvino(),
        "runtime": _runtime(),
        "gpu": _gpu(),
        "tensorrt": _tensorrt(),
        "cuda": _cuda(),
        "jetson": _jetson(),
        "kernels": _kernels(),
    }
    report["problems"] = _problems(report)
    return report


def _system() -> Section:
    libc, version = platform.libc_ver()
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": f"{libc} {version}".strip() or None,
    }


def _cpu() -> Section:
    fields = read_fields(read_text(CPU_INFO))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text(MEMORY_INFO), re.MULTILINE))
    return {
        "model": processor_name(fields),
        "cores": os.cpu_count(),
        "usable_threads": default_threads(),
        "features": sorted(flags & CPU_FEATURES),
        "memory_gb": round(int(memory["MemTotal"]) / 2**20, 1) if "MemTotal" in memory else None,
        "available_gb": round(int(memory["MemAvailable"]) / 2**20, 1) if "MemAvailable" in memory else None,
    }


def _opencv() -> Section:
    found = _loaded("cv2")
    section: Section = {
        "version": getattr(found, "__version__", None),
        "distributions": sorted(_providers("cv2")),
        "gstreamer": None,
        "error": found if isinstance(found, str) else None,
    }
    if hasattr(found, "getBuildInformation"):
        line = re.search(r"GStreamer:\s+(\S+)", found.getBuildInformation())
        section["gstreamer"] = bool(line and line[1] == "YES")
    return section


def _onnxruntime() -> Section:
    found = _loaded("onnxruntime")
    usable = hasattr(found, "get_available_providers")
    return {
        "version": getattr(found, "__version__", None),
        "distributions": sorted(_providers("onnxruntime")),
        "providers": list(found.get_available_providers()) if usable else [],
        "error": found if isinstance(found, str) else None,
    }


def _openvino() -> Section:
    with without_telemetry():
        found = _loaded("openvino")
    section: Section = {"version": None, "devices": [], "error": None}
    if isinstance(found, str):
        section["error"] = found
        return section
    section["version"] = short_version(found)
    try:
        core = found.Core()
        section["devices"] = [f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}" for name in
                              core.available_devices]  # fmt: skip
    except Exception as error:  # a broken driver can raise anything
        section["error"] = first_line(error)
    return section


def _runtime() -> Section:
    try:
        name, reason = choose_runtime()
    except edgepose.BackendUnavailableError as error:
        return {"auto": None, "reason": str(error)}
    return {"auto": name, "reason": reason}


def _gpu() -> Section:
    return {"devices": gpus(_run, "name", "driver_version", "compute_cap", "memory.total")}


def _tensorrt() -> Section:
    found = _loaded("tensorrt")
    broken = isinstance(found, str) and found != "No module named 'tensorrt'"
    return {"version": getattr(found, "__version__", None), "error": found if broken else None}


def _cuda() -> Section:
    """The device that engines run on, and the kernels there."""
    section: Section = {"device": None, "kernels": False, "error": None, "kernels_error": None}
    try:
        device = open_device(0)
    except edgepose.BackendUnavailableError as error:
        section["error"] = str(error)
    else:
        major, minor = device.compute_capability
        section["device"] = {
            "name": device.name,
            "compute_capability": f"{major}.{minor}",
            "driver": f"{device.driver_version // 1000}.{device.driver_version % 1000 // 10}",
            "memory_gb": round(device.total_memory / 2**30, 1),
            "integrated": device.integrated,
        }
    try:
        kernels.get("cuda")
    except edgepose.BackendUnavailableError as error:
        section["kernels_error"] = str(error)
    else:
        section["kernels"] = True
    return section


def _jetson() -> Section | None:
    model = jetson_model(read_text(DEVICE_TREE_MODEL))
    release = read_text(TEGRA_RELEASE).splitlines()
    if not release and "jetson" not in model.lower():
        return None
    l4t = re.search(r"R(\d+).*REVISION:\s*([\d.]+)", release[0]) if release else None
    packages = {
        name: _run("dpkg-query", "-W", "-f=${Version}", name) for name in ("nvidia-jetpack", "tensorrt")
    }
    return {
        "model": model or None,
        "l4t": f"{l4t[1]}.{l4t[2]}" if l4t else None,
        "jetpack": packages["nvidia-jetpack"],
        "tensorrt": packages["tensorrt"],
        "power_mode": power_mode(_run),
    }


def _kernels() -> Section:
    try:
        return {"ops": kernels.get(os.environ.get("EDGEPOSE_KERNELS", "auto")).status(), "error": None}
    except edgepose.EdgePoseError as error:
        return {"ops": {}, "error": str(error)}


def _problems(report: dict[str, Any]) -> list[dict[str, str]]:
    problems: list[dict[str, str]] = []

    def note(level: str, found: str, advice: str) -> None:
        problems.append({"level": level, "found": found, "advice": advice})

    choices = {"opencv": "the one that you want", "onnxruntime": "onnxruntime-gpu or onnxruntime"}
    for name, choice in choices.items():
        section, module = report[name], "cv2" if name == "opencv" else name
        found = section["distributions"]
        replaced = name == "onnxruntime" and report["runtime"]["auto"] == "openvino"
        if section["error"] and (found or not replaced):
            level = "warning" if replaced else "error"
            note(level, f"{name} does not load: {section['error']}", 'pip install "edgepose[cpu]"')
        if len(found) > 1:
            note(
                "warning",
                f"several distributions install {module} over one another: {', '.join(found)}",
                f"pip uninstall -y {' '.join(found)}, then install {choice}",
            )
    if report["gpu"]["devices"] and report["onnxruntime"]["version"]:
        providers = report["onnxruntime"]["providers"]
        if "CUDAExecutionProvider" not in providers:
            note(
                "warning",
                f"there is a GPU, but this onnxruntime offers {', '.join(providers)}",
                "install onnxruntime-gpu in its place to use the GPU",
            )
    tensorrt, cuda = report["tensorrt"], report["cuda"]
    if tensorrt["error"]:
        note("warning", f"tensorrt does not load: {tensorrt['error']}", "see docs/jetson.md, Install")
    if tensorrt["version"] and cuda["error"]:
        note("warning", f"engines cannot run: {cuda['error']}", "see docs/jetson.md, Install")
    if tensorrt["version"] and cuda["device"] and not cuda["kernels"]:
        note(
            "warning",
            f"crops and decoding around engines run on the CPU: {cuda['kernels_error']}",
            "see docs/jetson.md, Install",
        )
    broken = report["openvino"]["error"]
    if broken and report["packages"]["openvino"]:
        note("warning", f"openvino is installed and does not work: {broken}", "pip install -U openvino")
    if report["kernels"]["error"]:
        note("error", report["kernels"]["error"], "unset EDGEPOSE_KERNELS")
    reasons = {status["reason"] for status in report["kernels"]["ops"].values() if status["reason"]}
    for reason in sorted(reasons):
        note("warning", f"kernels run slower than they could: {reason}", "see `edgepose doctor`, kernels")
    return problems


def _loaded(module: str) -> Any:
    """The module, or why it does not load."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken binary can raise anything
        return first_line(error)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _providers(module: str) -> set[str]:
    """Distributions that install a module."""
    return set(metadata.packages_distributions().get(module, ()))
