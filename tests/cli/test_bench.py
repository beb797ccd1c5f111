"""`edgepose bench`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import color_model

from edgepose.bench.timing import STAGES
from edgepose.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

QUICK = ("--seconds", "0.01", "--warmup", "1", "--frame", "300x200", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(color_model(tmp_path_factory.mktemp("model") / "colors.onnx"))


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)


def bench(model: str, *arguments: str, starts: int = 0) -> int:
    return main(["bench", model, *QUICK, "--starts", str(starts), *arguments])


def measured(model: str, capsys: pytest.CaptureFixture[str], *arguments: str, starts: int = 0) -> Any:
    assert bench(model, "--json", *arguments, starts=starts) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out)


def test_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = measured(model, capsys, "--persons", "2,1,2", starts=1)
    assert [row["persons"] for row in report["rows"]] == [1, 2]
    for row in report["rows"]:
        assert row["found"] == row["persons"]
        assert row["calls"] >= 10
        assert set(row["stages"]) == set(STAGES)
        assert row["stages"]["total"]["p50"] > row["stages"]["inference"]["p50"] > 0
    assert report["model"]["name"] == "colors"
    assert report["model"]["path"] == model
    assert report["backend"]["threads"] == 1
    assert set(report["kernels"].values()) == {"numpy"}
    assert report["machine"]["cpu"]["cores"]
    assert report["frame"] == [300, 200]
    assert report["startup"]["processes"] == 1
    assert report["startup"]["total_ms"] > 0
    assert report["per_person_ms"] is not None
    assert "baseline" not in report


def test_text_markdown_and_plot(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(model, "--persons", "1", "--plot", "plot.png") == 0
    output = capsys.readouterr()
    assert output.out.startswith("model        colors (fp32), topdown\n")
    assert "start-up" not in output.out
    assert output.err == ""
    assert cv2.imread("plot.png").shape[1] == 1200
    assert bench(model, "--persons", "1,2", "--markdown", "--flip-test") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["1", "2"]


def test_baseline(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = measured(model, capsys, "--persons", "1,2")
    Path("before.json").write_text(json.dumps(report))
    again = measured(model, capsys, "--persons", "2", "--baseline", "before.json", "--max-slowdown", "1000")
    assert again["baseline"]["differs"] == []
    (row,) = again["baseline"]["rows"]
    then, now = (found["rows"][-1]["stages"]["total"]["p50"] for found in (report, again))
    assert row["ratios"]["total"] == pytest.approx(now / then, abs=1e-3)

    for row in report["rows"]:
        row["stages"]["total"]["p50"] /= 1e4
    report["model"]["precision"] = "int8"
    Path("fast.json").write_text(json.dumps(report))
    arguments = ("--persons", "1", "--baseline", "fast.json", "--max-slowdown", "2")
    assert bench(model, *arguments) == 1
    output = capsys.readouterr()
    assert "not as in the baseline: precision: fp32, was int8" in output.out
    assert "edgepose: slower than the baseline; found " in output.err
    assert bench(model, *arguments[:4]) == 0  # told, but no verdict was asked for


def test_what_is_told_before_anything_is_measured(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("edgepose.cli.bench._measure", never)
    assert bench(model, "--baseline", "none.json") == 1
    assert "cannot read baseline none.json" in capsys.readouterr().err
    assert bench(model, "--plot", "plot.txt") == 1
    assert "cannot draw plot.txt" in capsys.readouterr().err
    assert bench(model, "--plot", "none/plot.png") == 1
    assert "found no folder none" in capsys.readouterr().err
    for arguments, text in (
        (("--max-slowdown", "1.1"), "--max-slowdown needs --baseline"),
        (("--persons", "1,0"), "found '0'; give a whole number of at least 1"),
        (("--frame", "1280"), "found '1280'; give WIDTHxHEIGHT"),
        (("--seconds", "0"), "found '0'; give a number above 0"),
        (("--seconds", "inf"), "found 'inf'; give a number above 0"),
        (("--json", "--markdown"), "not allowed with"),
    ):
        with pytest.raises(SystemExit) as caught:
            bench(model, *arguments)
        assert caught.value.code == 2
        assert text in capsys.readouterr().err


def test_what_ran_and_failed(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "none.onnx", "--starts", "0"]) == 1
    assert "model not found: none.onnx" in capsys.readouterr().err
    assert bench(model, "--persons", "5000") == 1
    assert "5000 persons do not fit a frame of 300x200 pixels" in capsys.readouterr().err
