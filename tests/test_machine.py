"""What is read of a machine: made-up Jetsons and servers, and this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgepose.machine import describe_machine, resident_memory, run_program

# What `sudo jetson_clocks --show` prints on an Orin Nano.
SHOWN = """SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Developer Kit
Online CPUs: 0-3
cpu0:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=1036800 IdleStates: WFI=1 c7=1
cpu1:  Online=1 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=729600 IdleStates: WFI=1 c7=1
cpu4:  Online=0 Governor=schedutil MinFreq=729600 MaxFreq=1510400 CurrentFreq=729600 IdleStates: WFI=1 c7=1
GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000
EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0
FAN Dynamic Speed control=nvfancontrol hwmon1_pwm1=78
NV Power Mode: 15W
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def processor(number: int, least: int, most: int, now: int, governor: str) -> dict[str, str]:
    folder = f"sys/devices/system/cpu/cpu{number}/cpufreq"
    return {
        f"{folder}/scaling_min_freq": f"{least}\n",
        f"{folder}/scaling_max_freq": f"{most}\n",
        f"{folder}/scaling_cur_freq": f"{now}\n",
        f"{folder}/cpuinfo_max_freq": f"{most}\n",
        f"{folder}/scaling_governor": f"{governor}\n",
    }


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    graphics = "sys/class/devfreq/17000000.gpu"
    return tree(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n",
            **processor(0, 729600, 1510400, 1036800, "schedutil"),
            **processor(1, 729600, 1510400, 729600, "schedutil"),
            f"{graphics}/min_freq": "306000000\n",
            f"{graphics}/max_freq": "624750000\n",
            f"{graphics}/cur_freq": "306000000\n",
            "sys/class/devfreq/15480000.vic/min_freq": "1\n",
            "sys/class/thermal/thermal_zone0/temp": "48500\n",
            "sys/class/thermal/thermal_zone1/temp": "51250\n",
        },
    )


def printing(**outputs: str) -> object:
    return lambda *command: outputs.get(command[0])


def test_a_jetson_whose_clocks_are_shown(jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0, 0))
    run = printing(nvpmodel="NV Power Mode: 15W\n0", jetson_clocks=SHOWN)
    machine = describe_machine(jetson, run)
    assert machine["jetson"] == {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "power_mode": "15W",
        "clocks": {
            "cpu0": {"min": 729.6, "max": 1510.4, "now": 1036.8},
            "cpu1": {"min": 729.6, "max": 1510.4, "now": 729.6},
            "gpu": {"min": 306, "max": 624.8, "now": 306},
            "emc": {"min": 204, "max": 2133, "now": 2133},
        },
        "fixed": False,
    }
    assert machine["temperature_c"] == 51.2
    assert machine["notes"] == ["the clocks follow the load; fix them: sudo jetson_clocks"]


def test_a_jetson_without_rights_for_jetson_clocks(jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0, 0))
    machine = describe_machine(jetson, printing(nvpmodel="NV Power Mode: MAXN\n0"))
    clocks = machine["jetson"]["clocks"]
    assert set(clocks) == {"cpu0", "cpu1", "gpu"}
    assert clocks["gpu"] == {"min": 306, "max": 624.8, "now": 306}
    assert machine["jetson"]["fixed"] is False

    (jetson / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("0\n")  # asleep
    machine = describe_machine(jetson, printing(nvpmodel="NV Power Mode: MAXN\n0"))
    assert machine["jetson"]["clocks"]["gpu"] == {"min": 306, "max": 624.8, "now": 0}

    for unit in (
        "sys/class/devfreq/17000000.gpu",
        *(f"sys/devices/system/cpu/cpu{i}/cpufreq" for i in (0, 1)),
    ):
        for file in (jetson / unit).glob("*min_freq"):
            file.write_text(file.with_name(file.name.replace("min", "max")).read_text())
    machine = describe_machine(jetson, printing(nvpmodel="NV Power Mode: MAXN\n0"))
    assert machine["jetson"]["fixed"] is True
    assert machine["notes"] == []


def test_a_jetson_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0, 0))
    root = tree(tmp_path, {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1\n"})
    machine = describe_machine(root, printing())
    assert machine["jetson"] == {"model": None, "power_mode": None, "clocks": {}, "fixed": None}
    assert [note.partition(";")[0] for note in machine["notes"]] == [
        "it is not known whether the clocks are fixed",
        "the power mode is not known",
    ]


def test_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (3.456, 0, 0))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 7763\nprocessor\t: 1\nmodel name\t: other\n",
        **processor(0, 1500000, 3500000, 2450000, "powersave"),
        **processor(1, 1500000, 3500000, 1500000, "powersave"),
        "sys/class/thermal/thermal_zone0/temp": "91000\n",
    }
    row = "NVIDIA L4, 550.54, 2040 MHz, 2040 MHz, 72.00 W"
    machine = describe_machine(tree(tmp_path, files), printing(**{"nvidia-smi": row}))
    assert machine["cpu"] == {
        "model": "AMD EPYC 7763",
        "cores": 8,
        "governors": ["powersave"],
        "clock_mhz": 2450,
        "max_clock_mhz": 3500,
    }
    assert machine["jetson"] is None
    assert machine["gpus"][0]["name"] == "NVIDIA L4"
    assert machine["gpus"][0]["clocks.max.sm"] == "2040 MHz"
    found = " / ".join(machine["notes"])
    assert "governor powersave" in found
    assert "load average 3.46" in found
    assert "hot (91 degrees" in found
    for number in (0, 1):
        governor = tmp_path / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor"
        governor.write_text("performance\n")
    assert "governor" not in " ".join(describe_machine(tmp_path, printing())["notes"])


def test_this_machine() -> None:
    machine = describe_machine()
    assert machine["cpu"]["cores"] == os.cpu_count()
    assert run_program("no-such-program-here") is None
    if Path("/proc/self/status").exists():
        before = resident_memory()
        held = bytearray(os.urandom(1)) * 50_000_000
        assert resident_memory() - before > 40_000_000
        del held
        assert resident_memory(peak=True) - before > 40_000_000
