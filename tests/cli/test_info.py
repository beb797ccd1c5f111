"""`edgepose info`: a model file described without any runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import color_model, color_spec, people_model, people_spec, pixel_model

from edgepose import Decoder, Grouping, ModelSpec
from edgepose.cli import main

pytest.importorskip("onnx")


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = color_spec(
        decoder=Decoder("soft_argmax", refine="quarter", bias=1.0),
        provenance={"licence": "Apache-2.0", "epochs": 140},
        parity={"max_error": 1e-6},
    )
    assert main(["info", str(color_model(tmp_path / "a.onnx", spec))]) == 0
    output = capsys.readouterr().out
    for words in (
        "model        colors",
        "64 x 48 (height x width), bgr",
        "batch        free",
        "soft_argmax, beta 160, refine quarter, bias 1 px",
        "provenance   licence: Apache-2.0",
        "             epochs: 140",
        "max_error: 1e-06",
        "blue, green, red",
    ):
        assert words in output


def test_a_bottom_up_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = people_spec(grouping=Grouping(detection_threshold=0.05, tag_threshold=0.5, max_people=12))
    path = str(people_model(tmp_path / "a.onnx", spec))
    assert main(["info", path]) == 0
    output = capsys.readouterr().out
    for words in (
        "task         bottomup",
        "input        shorter side 128, bgr",
        "grouping     peaks above 0.05 in 5x5",
        "             tags nearer than 0.5, 12 people per joint",
        "ignore_too_much off, adjust on, refine on",
        "             order: blue, green",
    ):
        assert words in output
    assert "decoder" not in output
    assert main(["info", path, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["grouping"]["max_people"] == 12


def test_what_the_file_fixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(people_model(tmp_path / "a.onnx", size=(160, 256)))]) == 0
    assert "input        160 x 256 (height x width), bgr\nbatch        free\n" in capsys.readouterr().out
    assert main(["info", str(color_model(tmp_path / "b.onnx", batch=4))]) == 0
    assert "batch        4\n" in capsys.readouterr().out


def test_networks_that_take_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    color = color_model(tmp_path / "a.onnx", color_spec(color="rgb"), batch=4)
    assert main(["info", str(pixel_model(tmp_path / "b.onnx", color))]) == 0
    output = capsys.readouterr().out
    assert "input        64 x 48 (height x width), rgb, uint8 NHWC\nbatch        4\n" in output
    for size, words in (((160, 256), "160 x 256 (height x width)"), (("h", "w"), "shorter side 128")):
        people = people_model(tmp_path / "a.onnx", size=size)
        assert main(["info", str(pixel_model(tmp_path / "b.onnx", people))]) == 0
        assert f"input        {words}, bgr, uint8 NHWC\nbatch        free\n" in capsys.readouterr().out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = color_model(tmp_path / "a.onnx")
    assert main(["info", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data.pop("path") == str(path)
    assert ModelSpec.from_dict(data) == color_spec()


def test_needs_no_runtime(tmp_path: Path) -> None:
    path = color_model(tmp_path / "a.onnx")
    code = f"""
import sys
sys.modules["onnxruntime"] = sys.modules["onnx"] = sys.modules["cv2"] = None
from edgepose.cli import main
sys.exit(main(["info", {str(path)!r}]))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_unusable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.onnx").write_bytes(content)
    assert main(["info", str(tmp_path / "a.onnx")]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("edgepose: ")
    assert len(errors.splitlines()) == 1
