"""The examination of the machine, on made-up machines."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgepose import diagnosis
from edgepose.cli import main
from edgepose.diagnosis import examine
from tests.fakes import pycuda

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")


def problems(report: dict[str, Any], word: str) -> list[dict[str, str]]:
    return [problem for problem in report["problems"] if word in problem["found"]]


def test_this_machine() -> None:
    report = examine()
    json.dumps(report)
    assert report["packages"]["numpy"] == np.__version__
    assert report["system"]["executable"] == sys.executable
    assert 1 <= report["cpu"]["usable_threads"] <= report["cpu"]["cores"]
    assert "CPUExecutionProvider" in report["onnxruntime"]["providers"]
    assert report["runtime"] == {"auto": "onnxruntime", "reason": "onnxruntime is installed"}
    assert report["kernels"]["ops"]["group"]["implementation"] in ("native", "numba", "numpy")
    assert not [problem for problem in report["problems"] if problem["level"] == "error"]


def test_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "CPU_INFO": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp aes\nprocessor\t: 1\n",
        "MEMORY_INFO": "MemTotal:        7802112 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n",
        "TEGRA_RELEASE": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "DEVICE_TREE_MODEL": "NVIDIA Jetson Orin Nano Developer Kit\0",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(diagnosis, name, tmp_path / name)
    printed = {
        "nvpmodel": "NV Power Mode: 25W\n1",
        "nvidia-jetpack": "6.2+b77",
        "tensorrt": "10.3.0.30-1+cuda12.5",
        "nvidia-smi": "Orin (nvgpu), 540.4.0, [N/A], [N/A]",
    }
    monkeypatch.setattr(
        diagnosis, "_run", lambda *command: next((printed[w] for w in command if w in printed), None)
    )
    monkeypatch.setattr(diagnosis, "_loaded", lambda name: SimpleNamespace(
        __version__="1", get_available_providers=lambda: ["CPUExecutionProvider"], available_devices=[],
        Core=lambda: SimpleNamespace(available_devices=["CPU"], get_property=lambda *_: "Arm"),
    ))  # fmt: skip
    report = examine()
    assert report["jetson"] == {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "36.4.3",
        "jetpack": "6.2+b77",
        "tensorrt": "10.3.0.30-1+cuda12.5",
        "power_mode": "25W",
    }
    assert report["cpu"]["features"] == ["asimd", "asimddp", "asimdhp"]
    assert (report["cpu"]["memory_gb"], report["cpu"]["available_gb"]) == (7.4, 4.0)
    assert report["gpu"]["devices"][0]["name"] == "Orin (nvgpu)"
    (found,) = problems(report, "there is a GPU")
    assert "onnxruntime-gpu" in found["advice"]


def test_packages_that_overwrite_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {
        "cv2": ["opencv-python", "opencv-python-headless"],
        "onnxruntime": ["onnxruntime", "onnxruntime-gpu"],
    }
    monkeypatch.setattr(metadata, "packages_distributions", lambda: both)
    report = examine()
    (opencv,) = problems(report, "install cv2")
    assert opencv["advice"].startswith("pip uninstall -y opencv-python opencv-python-headless")
    assert problems(report, "onnxruntime, onnxruntime-gpu")


def test_what_does_not_load(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str) -> str:
        return f"lib{name}.so.1: cannot open shared object file"

    monkeypatch.setattr(diagnosis, "_loaded", broken)
    monkeypatch.setattr(diagnosis, "_version", lambda name: "9.9" if name == "openvino" else None)
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    report = examine()
    levels = [problem["level"] for problem in report["problems"]]
    assert levels.count("error") == 2
    assert problems(report, "openvino is installed and does not work: libopenvino.so.1")
    assert report["runtime"]["auto"] is None
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "libonnxruntime.so.1: cannot open" in printed
    assert "runtime       auto takes none: running a model needs onnxruntime or openvino" in printed


def test_openvino_in_the_place_of_onnxruntime(
    openvino: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    distributions = {"cv2": ["opencv-python"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: distributions)
    report = examine()
    assert report["runtime"] == {"auto": "openvino", "reason": "onnxruntime is not installed"}
    assert openvino.__version__.startswith(report["openvino"]["version"])
    assert any(device.startswith("CPU") for device in report["openvino"]["devices"])
    assert problems(report, "onnxruntime") == []
    distributions["onnxruntime"] = ["onnxruntime"]
    (found,) = problems(examine(), "onnxruntime does not load")
    assert found["level"] == "warning"
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"openvino      {report['openvino']['version']}, CPU: " in printed
    assert "runtime       auto takes openvino: onnxruntime is not installed" in printed


def test_why_kernels_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    assert problems(examine(), "kernels run slower than they could: numpy was asked for")
    monkeypatch.setenv("EDGEPOSE_KERNELS", "cobol")
    (found,) = problems(examine(), "cobol")
    assert found["level"] == "error"


def test_a_program_that_is_missing_or_fails() -> None:
    assert diagnosis._run("no-such-program") is None
    assert diagnosis._run(sys.executable, "-c", "raise SystemExit(3)") is None
    assert diagnosis._run(sys.executable, "-c", "print('yes')") == "yes"
    assert isinstance(diagnosis._loaded("no_such_module"), str)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"numpy {np.__version__}" in text
    assert "kernel        aggregate_nms_topk" in text
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["edgepose"]["version"] in text


def test_what_runs_engines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cuda = pycuda.install(monkeypatch, integrated=True)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setitem(sys.modules, "edgepose.kernels.cuda", None)
    report = examine()
    json.dumps(report)
    assert report["tensorrt"] == {"version": "10.3.0", "error": None}
    assert report["cuda"]["device"]["name"] == "Fake GPU"
    assert report["cuda"]["device"]["integrated"]
    (found,) = problems(report, "crops and decoding around engines run on the CPU")
    assert "docs/jetson.md" in found["advice"]
    assert main(["doctor"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "tensorrt      10.3.0" in printed
    assert "Fake GPU, compute capability 8.7" in printed
    cuda.check()


def test_what_keeps_engines_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setattr("edgepose.backends.device._devices", {})
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    report = examine()
    assert report["cuda"]["device"] is None
    (found,) = problems(report, "engines cannot run")
    assert "pycuda" in found["found"]
