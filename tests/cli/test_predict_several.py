"""`edgepose predict` with several sources: one model, an output that tells them apart, and exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import color_model, spots

from edgepose.cli import main
from tests.fakes.servers import MjpegServer

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

PICTURE = spots((192, 144), [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(color_model(tmp_path_factory.mktemp("model") / "colors.onnx"))


@pytest.fixture(autouse=True)
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two of the same name, and a picture: 4, 6 and 1 frames."""
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)
    paths = []
    for name, fps, count in (("a/clip.avi", 10.0, 4), ("b/clip.avi", 25.0, 6)):
        Path(name).parent.mkdir()
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), fps, (144, 192))
        for _ in range(count):
            writer.write(PICTURE)
        writer.release()
        paths.append(name)
    cv2.imwrite("spots.png", PICTURE)
    return paths


def usage_error(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", *arguments])
    assert caught.value.code == 2


def frames(path: str) -> tuple[int, float]:
    capture = cv2.VideoCapture(path)
    count = 0
    while capture.read()[0]:
        count += 1
    return count, capture.get(cv2.CAP_PROP_FPS)


def test_a_line_per_frame_names_the_source(
    model: str, videos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *videos, "spots.png", "--model", model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f"{videos[0]} frame ") for line in lines) == 4
    assert sum(line.startswith(f"{videos[1]} frame ") for line in lines) == 6
    assert sum(line.startswith("spots.png  144x192  1 person") for line in lines) == 1


@pytest.mark.parametrize("output", [None, "new/out.jsonl"])
def test_json_entries_carry_the_source(
    model: str, videos: list[str], capsys: pytest.CaptureFixture[str], output: str | None
) -> None:
    where = ["-o", output] if output else ["--format", "jsonl"]
    assert main(["predict", *videos, "--model", model, *where]) == 0
    text = Path(output).read_text() if output else capsys.readouterr().out
    found = sorted(
        (entry["source"]["index"], entry["source"]["path"], entry["source"]["frame"])
        for entry in map(json.loads, text.splitlines())
    )
    assert found == [(i, path, n) for i, path in enumerate(videos) for n in range((4, 6)[i])]


def test_json_is_one_array_and_csv_one_table(model: str, videos: list[str]) -> None:
    for name in ("out.json", "out.csv"):
        assert main(["predict", *videos, "--model", model, "-o", name]) == 0
    assert len(json.loads(Path("out.json").read_text())) == 10
    with Path("out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [sum(row["source"] == path for row in rows) for path in videos] == [12, 18]


def test_a_video_for_each(model: str, videos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *videos, "--model", model, "-o", "out", "--format", "video"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["clip-2.mp4", "clip.mp4"]
    assert frames("out/clip.mp4") == (4, 10)
    assert frames("out/clip-2.mp4") == (6, 25)
    assert "10 frames done, written to out" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "suffix"), [("jsonl", ".jsonl"), ("coco", ".json"), ("csv", ".csv")])
def test_a_text_for_each(model: str, videos: list[str], form: str, suffix: str) -> None:
    assert main(["predict", *videos, "--model", model, "-o", "out/", "--format", form]) == 0
    first, second = (Path("out", name + suffix).read_text() for name in ("clip", "clip-2"))
    assert second.count("\n") > first.count("\n") >= 4
    if form == "coco":
        assert [entry["image_id"] for entry in json.loads(first)] == [1, 2, 3, 4]


def test_a_folder_of_pictures_for_each(model: str, videos: list[str]) -> None:
    assert main(["predict", *videos, "spots.png", "--model", model, "-o", "out"]) == 0
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*g"))
    expected = [f"clip/clip_{n:06d}.jpg" for n in range(4)] + [f"clip-2/clip_{n:06d}.jpg" for n in range(6)]
    assert names == sorted([*expected, "spots/spots.png"])


def test_pictures_alone_are_one_source(
    model: str, videos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite("more.png", PICTURE)
    assert main(["predict", "spots.png", "more.png", "--model", model, "-o", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["more.png", "spots.png"]
    assert "2 pictures done" in capsys.readouterr().err


def test_one_that_is_lost_is_reported_and_the_other_goes_on(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = cv2.VideoWriter("long.avi", cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (144, 192))
    for _ in range(200):  # four seconds, by --latest
        writer.write(PICTURE)
    writer.release()
    with MjpegServer(PICTURE, lives=(3,)) as server:
        options = ["--model", model, "-o", "out.jsonl", "--reconnect", "0", "--latest"]
        assert main(["predict", server.url, "long.avi", *options]) == 1
        name = server.url.replace("user:secret@", "")
        assert f"skipped {name}: {name} stopped after 3 frames" in capsys.readouterr().err
    entries = [json.loads(line)["source"] for line in Path("out.jsonl").read_text().splitlines()]
    assert entries[-1]["path"] == "long.avi"
    assert entries[-1]["frame"] == 199


def test_one_that_is_not_there(model: str, videos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", videos[0], "nothing.mp4", "--model", model]) == 1
    assert "source not found: nothing.mp4" in capsys.readouterr().err


def test_no_source_is_overwritten(model: str, videos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(videos[0]).read_bytes()
    Path("b/clip.avi").rename("b/clip.mp4")
    code = main(["predict", videos[0], "b/clip.mp4", "--model", model, "-o", "b", "--format", "video"])
    assert code == 1
    assert "it is the source itself" in capsys.readouterr().err
    assert Path(videos[0]).read_bytes() == before
    assert not list(Path("b").glob("*.part*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "out.mp4"],
        ["-o", "out.json", "--format", "coco"],
        ["--format", "coco"],
        ["-o", "out.png"],
        ["spots.png", "-o", "out", "--format", "video"],
    ],
)
def test_wrong_usage(model: str, videos: list[str], arguments: list[str]) -> None:
    usage_error(*videos, "--model", model, *arguments)
    assert np.all([path.suffix != ".mp4" for path in Path().iterdir()])
