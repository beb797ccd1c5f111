"""The machine that a process runs on: processor, clocks, power mode, load, memory.

Everything is read; nothing is changed. What a system does not tell is None, or left out.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = [
    "Run",
    "describe_machine",
    "gpus",
    "jetson_model",
    "power_mode",
    "processor_name",
    "read_fields",
    "read_text",
    "resident_memory",
    "run_program",
]

Run = Callable[..., str | None]
"""Runs a program with its arguments: what it prints, or None where it is missing or fails."""

FIXED = ("performance", "userspace")
"""Governors that keep a processor's clock where it is."""
BUSY = 0.3
"""Load per core from which others are said to be at work."""
HOT = 85.0
"""Degrees Celsius from which boards and processors begin to slow down."""


def describe_machine(root: Path = Path("/"), run: Run | None = None) -> dict[str, Any]:
    """What decides how fast this machine is now.

    Args:
        root: where ``proc`` and ``sys`` are.
        run: runs programs; None: `run_program`.

    Returns:
        JSON-ready: ``cpu`` (``model``, ``cores``, ``governors`` and clocks in MHz), ``system``, ``load``
        (average of the last minute), ``temperature_c`` (of the hottest sensor), ``gpus`` (of nvidia-smi),
        ``jetson`` (None elsewhere: ``model``, ``power_mode``, ``clocks`` in MHz by unit, and whether they are
        ``fixed``), and ``notes``: what makes figures vary.
    """
    run = run or run_program
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine: dict[str, Any] = {
        "cpu": _cpu(root),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": None if load is None else round(load, 2),
        "temperature_c": _temperature(root),
        "gpus": gpus(run, "name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit"),
        "jetson": _jetson(root, run),
    }
    machine["notes"] = _notes(machine)
    return machine


def processor_name(fields: dict[str, str]) -> str:
    """The processor by what ``/proc/cpuinfo`` says of it."""
    return fields.get("model name") or fields.get("Hardware") or platform.processor() or "unknown"


def read_fields(text: str) -> dict[str, str]:
    """Names and values of lines ``name: value``; of a name that comes again the first."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def gpus(run: Run, *query: str) -> list[dict[str, str]]:
    """What nvidia-smi says of each NVIDIA GPU."""
    lines = run("nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader")
    rows = [[value.strip() for value in line.split(",")] for line in (lines or "").splitlines()]
    return [dict(zip(query, row, strict=True)) for row in rows if len(row) == len(query)]


def jetson_model(device_tree: str) -> str:
    """The board's name of ``/proc/device-tree/model``, or an empty text."""
    return device_tree.strip("\0\n ")


def power_mode(run: Run) -> str | None:
    """The power mode of a Jetson by its name, for instance ``"25W"``."""
    found = re.search(r"NV Power Mode:\s*(.+)", run("nvpmodel", "-q") or "")
    return found[1].strip() if found else None


def resident_memory(*, peak: bool = False) -> int:
    """Bytes of memory that this process holds, or the most that it held; 0 where the system does not say.

    ``getrusage`` would count a parent's too.
    """
    value = read_fields(read_text(Path("/proc/self/status"))).get("VmHWM" if peak else "VmRSS")
    return 1024 * int(value.split()[0]) if value else 0


def read_text(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def run_program(*command: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu(root: Path) -> dict[str, Any]:
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = {read_text(folder / "scaling_governor").strip() for folder in folders}
    return {
        "model": processor_name(read_fields(read_text(root / "proc/cpuinfo"))),
        "cores": os.cpu_count(),
        "governors": sorted(governors - {""}),
        "clock_mhz": _largest(folders, "scaling_cur_freq", 1e3),
        "max_clock_mhz": _largest(folders, "cpuinfo_max_freq", 1e3),
    }


def _jetson(root: Path, run: Run) -> dict[str, Any] | None:
    model = jetson_model(read_text(root / "proc/device-tree/model"))
    if "jetson" not in model.lower() and not (root / "etc/nv_tegra_release").exists():
        return None
    clocks = _shown_clocks(run("jetson_clocks", "--show") or "") or _read_clocks(root)
    return {
        "model": model or None,
        "power_mode": power_mode(run),
        "clocks": clocks,
        "fixed": all(unit["min"] == unit["max"] for unit in clocks.values()) if clocks else None,
    }


def _shown_clocks(text: str) -> dict[str, dict[str, float]]:
    """Clocks in MHz of what ``jetson_clocks --show`` prints: of processors in kHz, of other units in Hz."""
    clocks = {}
    for line in text.splitlines():
        found = re.match(r"\s*(\w+):?\s.*?MinFreq=(\d+)\s+MaxFreq=(\d+)\s+CurrentFreq=(\d+)", line)
        if found and "Online=0" not in line:
            scale = 1e3 if found[1].startswith("cpu") else 1e6
            least, most, now = (round(int(value) / scale, 1) for value in found.groups()[1:])
            clocks[found[1].lower()] = {"min": least, "max": most, "now": now}
    return clocks


def _read_clocks(root: Path) -> dict[str, dict[str, float]]:
    """The same from the kernel's files, which need no root's rights; the memory's clock is not among them."""
    places = [
        (folder.parent.name, folder, ("scaling_min_freq", "scaling_max_freq", "scaling_cur_freq"), 1e3)
        for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    ]
    places += [
        ("gpu", folder, ("min_freq", "max_freq", "cur_freq"), 1e6)
        for folder in sorted((root / "sys/class/devfreq").glob("*"))
        if re.search(r"gpu|g[av]1\db", folder.name)
    ]
    clocks = {}
    for unit, folder, names, scale in places:
        values = [_number(folder / name, scale) for name in names]
        known = [value for value in values if value is not None]
        if len(known) == 3:  # a sleeping unit's clock is 0
            clocks[unit] = dict(zip(("min", "max", "now"), known, strict=True))
    return clocks


def _temperature(root: Path) -> float | None:
    sensors = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    values = [value for sensor in sensors if (value := _number(sensor, 1e3)) is not None]
    return max(values, default=None)


def _largest(folders: list[Path], name: str, scale: float) -> float | None:
    values = [value for folder in folders if (value := _number(folder / name, scale)) is not None]
    return max(values, default=None)


def _number(path: Path, scale: float) -> float | None:
    text = read_text(path).strip()
    return round(int(text) / scale, 1) if re.fullmatch(r"-?\d+", text) else None


def _notes(machine: dict[str, Any]) -> list[str]:
    """What makes figures vary from run to run."""
    notes = []
    cpu, jetson = machine["cpu"], machine["jetson"]
    moving = sorted(set(cpu["governors"]) - set(FIXED))
    if jetson is not None:
        if jetson["fixed"] is False:
            notes.append("the clocks follow the load; fix them: sudo jetson_clocks")
        elif jetson["fixed"] is None:
            notes.append("it is not known whether the clocks are fixed; see sudo jetson_clocks --show")
        if jetson["power_mode"] is None:
            notes.append("the power mode is not known; tell it with the figures (nvpmodel -q)")
    elif moving:
        notes.append(f"the processor's clock follows the load (governor {', '.join(moving)})")
    if machine["load"] is not None and machine["load"] > BUSY * (cpu["cores"] or 1):
        notes.append(f"other programs were at work (load average {machine['load']:g} at the start)")
    if machine["temperature_c"] is not None and machine["temperature_c"] >= HOT:
        notes.append(f"the machine is hot ({machine['temperature_c']:g} degrees Celsius), and may slow down")
    return notes
