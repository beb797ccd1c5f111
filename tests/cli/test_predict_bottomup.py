"""`edgepose predict` with several persons, some of whose joints are missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, people_model, people_picture, people_spec

from edgepose import Grouping, PoseResult, Skeleton
from edgepose.cli import main, predict

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

WHOLE, HALF = [(40.3, 50.2), (70.4, 60.1)], [(150.2, 80.7), None]
PICTURE = people_picture((130, 200), [WHOLE, HALF], peaks=[0.7, 0.9])
SHIFT = 0.5  # see tests/pipeline/test_bottomup.py


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(people_model(tmp_path_factory.mktemp("model") / "people.onnx"))


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("people.png", PICTURE)


def test_the_table_has_a_part_per_person(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "people.png", "--model", model]) == 0
    output = capsys.readouterr().out
    assert "200x130  2 persons" in output
    assert "person 1  score 0.62" in output
    assert "person 2" in output
    rows = [line.split() for line in output.splitlines() if line.startswith("  ")]
    assert rows[-1] == ["green", "-", "-", "0.00"]


def test_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "people.png", "--model", model, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["persons"][1]["keypoints"]["green"] == [None, None, 0.0]
    result = PoseResult.from_dict(data)
    np.testing.assert_allclose(result.keypoints[0] - SHIFT, WHOLE, atol=0.7)
    np.testing.assert_allclose(result.keypoints[1, 0] - SHIFT, HALF[0], atol=0.7)
    assert np.isnan(result.keypoints[1, 1]).all()


def test_csv(model: str) -> None:
    assert main(["predict", "people.png", "--model", model, "-o", "out.csv"]) == 0
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [(row["person"], row["joint"]) for row in rows] == [
        ("0", "blue"), ("0", "green"), ("1", "blue"), ("1", "green"),
    ]  # fmt: skip
    assert (rows[3]["x"], rows[3]["y"], float(rows[3]["score"])) == ("", "", 0)
    assert float(rows[0]["person_score"]) > float(rows[2]["person_score"]) > 0.3


def test_tracks_are_told_in_every_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = cv2.imread("people.png")
    writer = cv2.VideoWriter("people.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, picture.shape[1::-1])
    for _ in range(4):
        writer.write(picture)
    writer.release()
    command = ["predict", "people.avi", "--model", model, "--track"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0 persons  tracks -  scores -" in lines[0]
    assert "1 person  tracks 1  scores" in lines[3]
    assert main([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {(row["frame"], row["person"], row["track_id"]) for row in rows} == {
        ("2", "0", "1"),
        ("3", "0", "1"),
    }
    assert main([*command, "--format", "coco"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [(entry["image_id"], entry["track_id"]) for entry in entries] == [(3, 1), (4, 1)]


def test_coco(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "people.png", "--model", model, "--format", "coco"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["keypoints"][2::3] == [1, 1]
    assert second["keypoints"][3:] == [0, 0, 0]
    assert second["bbox"] == [*second["keypoints"][:2], 0, 0]
    x, y, width, height = first["bbox"]
    corners = [x, y, x + width, y + height]
    np.testing.assert_allclose(corners, np.array([WHOLE[0], WHOLE[1]]).ravel() + SHIFT, atol=0.7)


def test_nobody_and_drawings(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("empty.png", np.zeros((100, 150, 3), np.uint8))
    assert main(["predict", "empty.png", "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["persons"] == []
    assert main(["predict", "people.png", "--model", model, "-o", "drawn.png"]) == 0
    assert (cv2.imread("drawn.png") != PICTURE).any()


def test_options_reach_the_estimator(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Spy(predict.Estimator):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            seen.clear()
            seen.update(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(predict, "Estimator", Spy)
    common = {"device": "auto", "runtime": "auto", "flip_test": False}
    command = ["predict", "people.png", "--model", model]
    for words, options in (
        (["--refine"], {"refine": True}),
        (["--no-refine"], {"refine": False}),
        (["--scales", "0.5,1,2"], {"scales": (2.0, 1.0, 0.5)}),
        (["--nms", "0"], {"nms_threshold": 0.0}),
        (["--score-threshold", "0.5"], {"score_threshold": 0.5}),
        (["--max-persons", "7"], {"max_persons": 7}),
        ([], {}),
    ):
        assert main([*command, *words]) == 0
        assert seen == common | options


def test_refine_and_threshold_show(capsys: pytest.CaptureFixture[str]) -> None:
    picture = PICTURE.copy()
    picture[:, :, 1] //= 12
    cv2.imwrite("faint.png", picture)
    path = people_model(Path("refine.onnx"), people_spec(grouping=Grouping(refine=True)))

    def present(*options: str) -> list[bool]:
        assert main(["predict", "faint.png", "--model", str(path), "--json", *options]) == 0
        persons = json.loads(capsys.readouterr().out)["persons"]
        return [person["keypoints"]["green"][0] is not None for person in persons]

    assert present() == present("--refine") == [False, True]
    assert present("--no-refine") == [False, False]
    assert present("--score-threshold", "0.35") == [False]


def test_a_limit_that_was_hit_is_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for limit, line in (("1", "1 person, maybe more: a limit was hit"), ("3", "2 persons\n")):
        assert main(["predict", "people.png", "--model", model, "--max-persons", limit]) == 0
        assert line in capsys.readouterr().out


def test_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    three = Skeleton("three", ("blue", "green", "again"), (), (), (0.05,) * 3)
    finder = people_model(Path("finder.onnx"), people_spec(skeleton=three), joints=3, tag_maps=1)
    single = str(color_model(Path("colors.onnx")))
    cv2.imwrite("two.png", people_picture((130, 200), [WHOLE, [(150.2, 80.7), (120.1, 100.4)]]))
    command = ["predict", "two.png", "--model", single, "--json"]
    assert main([*command, "--detector", str(finder), "--score-threshold", "0"]) == 0
    assert len(json.loads(capsys.readouterr().out)["persons"]) == 2
    assert main([*command, "--detector", single]) == 1
    assert "top-down model" in capsys.readouterr().err


def test_failures_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    single = str(color_model(Path("colors.onnx")))
    assert main(["predict", "people.png", "--model", single, "--detector", "unknown"]) == 1
    errors = capsys.readouterr().err
    assert "no packaged model 'unknown'" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (
            "people",
            ["--boxes", "boxes.json"],
            "--boxes cannot be used; 'people' is a bottom-up model; leave it",
        ),
        ("people", ["--boxes", "missing.json"], "--boxes cannot be used"),
        ("people", ["--detector", "multi"], "--detector cannot be used"),
        (
            "people",
            ["--detector", "unknown", "--boxes", "boxes.json"],
            "--boxes and --detector cannot be used",
        ),
        ("colors", ["--scales", "0.5,1"], "--scales cannot be used; 'colors' is a top-down model"),
        ("colors", ["--scales", "1"], "or take a bottom-up one"),
        ("colors", ["--refine"], ": --refine cannot"),
        (
            "colors",
            ["--no-refine", "--scales", "1,2"],
            "--scales and --no-refine cannot be used; 'colors' is",
        ),
    ],
)
def test_options_for_models_of_another_kind_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], kind: str, arguments: list[str], words: str
) -> None:
    Path("boxes.json").write_text("[[0, 0, 50, 50]]")
    model = {"people": people_model, "colors": color_model}[kind](Path("model.onnx"))
    with pytest.raises(SystemExit) as caught:
        main(["predict", "people.png", "--model", str(model), *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scales", "0.5,2"],
        ["--scales", "big"],
        ["--scales", "0.1,1"],
        ["--scales", ""],
        ["--max-persons", "0"],
        ["--nms", "2"],
        ["--nms", "nan"],
        ["--score-threshold", "high"],
        ["--refine", "--no-refine", "--refined"],
    ],
)
def test_wrong_usage_is_exit_code_2(model: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "people.png", "--model", model, *arguments])
    assert caught.value.code == 2
