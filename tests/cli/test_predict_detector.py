"""`edgepose predict` with an object detector of another project."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_detectors import bright_detector
from tiny_models import color_model, people_model

from edgepose import OnnxDetector
from edgepose.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[10:50, 20:60] = 255
    cv2.imwrite("person.png", picture)
    color_model(Path("colors.onnx"))
    bright_detector(Path("finder.onnx"), "dets", channel=0, limit=150)


COMMAND = ["predict", "person.png", "--model", "colors.onnx", "--json", "--score-threshold", "0.05"]


def test_the_family_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    close = OnnxDetector.close
    monkeypatch.setattr(OnnxDetector, "close", lambda self: closed.append(self.describe()) or close(self))
    options = ["--threads", "1", "--detector", "finder.onnx"]
    assert main([*COMMAND, *options, "--detector-family", "yolox"]) == 0
    (person,) = json.loads(capsys.readouterr().out)["persons"]
    assert person["box"] == [19.5, 9.5, 59.5, 49.5]
    assert [(told["family"], told["backend"]["threads"]) for told in closed] == [("yolox", 1)]
    # As an RTMDet the network sees other values, of which none is above its limit.
    assert main([*COMMAND, *options]) == 0
    assert json.loads(capsys.readouterr().out)["persons"] == []
    assert closed[1]["family"] == "rtmdet"


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    people_model(Path("people.onnx"))
    bottom_up = ["predict", "person.png", "--model", "people.onnx", "--detector-family", "yolox"]
    for command, words in (
        ([*COMMAND, "--detector-family", "yolox"], "--detector-family needs --detector"),
        ([*COMMAND, "--detector-family", "ssd", "--detector", "finder.onnx"], "invalid choice: 'ssd'"),
        (bottom_up, "--detector-family cannot be used"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 2
        assert words in capsys.readouterr().err


def test_failures_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--detector", "missing.onnx", "--detector-family", "yolox"]) == 1
    assert main([*COMMAND, "--detector", "finder.onnx", "--runtime", "tensorrt"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "missing.onnx" in first
    assert "runtime 'tensorrt'" in second
