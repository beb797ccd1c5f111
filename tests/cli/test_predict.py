"""`edgepose predict`: outputs, exit codes, and that nothing is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, spots

from edgepose import Frame, InvalidInputError, PoseResult, Source, lsp14, open_source
from edgepose.cli import main
from edgepose.cli.writers import VideoWriter
from edgepose.streams import live
from tests.fakes.servers import MjpegServer

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

CENTERS = [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)]
PICTURE = spots((192, 144), CENTERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(color_model(tmp_path_factory.mktemp("model") / "colors.onnx"))


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("spots.png", PICTURE)


@pytest.fixture
def folder() -> Path:
    """Three good pictures and a damaged one."""
    path = Path("pictures")
    path.mkdir()
    for name in ("000000000005.png", "000000000036.jpg", "7.png"):
        cv2.imwrite(str(path / name), PICTURE)
    return path


@pytest.fixture
def video() -> Path:
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (144, 192))
    for _ in range(6):
        writer.write(PICTURE)
    writer.release()
    return Path("clip.avi")


def names_in(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def usage_error(*arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", *arguments])
    assert caught.value.code == 2


def test_a_single_picture_is_a_table(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "spots.png", "--model", model]) == 0
    output = capsys.readouterr()
    assert "spots.png  144x192  1 person" in output.out
    rows = [line.split() for line in output.out.splitlines() if line.startswith("  ")]
    assert rows[0] == ["joint", "x", "y", "score"]
    assert [row[0] for row in rows[1:]] == ["blue", "green", "red"]
    np.testing.assert_allclose([[float(row[1]), float(row[2])] for row in rows[1:]], CENTERS, atol=1)
    assert output.err == ""


def test_the_table_and_a_drawn_picture(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "spots.png", "--model", model, "-o", "new/out.png"]) == 0
    drawn = cv2.imread("new/out.png")
    assert drawn.shape == PICTURE.shape
    assert (drawn != PICTURE).any()
    output = capsys.readouterr()
    assert "blue" in output.out
    assert "written to new/out.png" in output.err
    assert not list(Path("new").glob("*.part*"))


def test_json_of_one_picture(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "spots.png", "--model", model, "--json"]) == 0
    result = PoseResult.from_dict(json.loads(capsys.readouterr().out))
    np.testing.assert_allclose(result.keypoints[0], CENTERS, atol=1)
    assert result.source is not None
    assert result.source.path == "spots.png"


def test_a_folder_is_a_line_per_picture(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(folder), "--model", model]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_of_a_folder(model: str, folder: Path, suffix: str) -> None:
    assert main(["predict", str(folder), "--model", model, "-o", f"out.{suffix}"]) == 0
    text = Path(f"out.{suffix}").read_text()
    entries = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    assert [Path(entry["source"]["path"]).name for entry in entries] == names_in(folder)
    assert all(len(PoseResult.from_dict(entry)) == 1 for entry in entries)


def test_csv(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(folder), "--model", model, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 9
    assert [row["joint"] for row in rows[:3]] == ["blue", "green", "red"]
    assert {row["track_id"] for row in rows} == {""}
    assert float(rows[1]["x"]) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("numbered", [True, False])
def test_coco_ids_are_the_numbers_of_the_files_or_count(model: str, folder: Path, numbered: bool) -> None:
    if not numbered:
        (folder / "7.png").rename(folder / "seven.png")
    assert main(["predict", str(folder), "--model", model, "--format", "coco", "-o", "out.json"]) == 0
    entries = json.loads(Path("out.json").read_text())
    assert [entry["image_id"] for entry in entries] == ([5, 36, 7] if numbered else [1, 2, 3])
    assert len(entries[0]["keypoints"]) == 9


def test_coco_ids_do_not_move_where_a_picture_is_skipped(model: str, folder: Path, video: Path) -> None:
    (folder / "7.png").rename(folder / "seven.png")
    (folder / "000000000036.jpg").write_bytes(b"junk")
    assert main(["predict", str(folder), "--model", model, "--format", "coco", "-o", "out.json"]) == 1
    assert [entry["image_id"] for entry in json.loads(Path("out.json").read_text())] == [1, 3]
    assert main(["predict", str(video), "--model", model, "--format", "coco", "-o", "out.json"]) == 0
    assert [entry["image_id"] for entry in json.loads(Path("out.json").read_text())] == [1, 2, 3, 4, 5, 6]


def test_drawn_pictures_keep_their_names(model: str, folder: Path) -> None:
    assert main(["predict", str(folder), "--model", model, "-o", "drawn/"]) == 0
    assert names_in("drawn") == names_in(folder)
    assert main(["predict", str(folder), "--model", model, "-o", "like.jpg/"]) == 0
    assert names_in("like.jpg") == names_in(folder)
    (folder / "sub").mkdir()
    cv2.imwrite(str(folder / "sub/7.png"), PICTURE)
    assert main(["predict", "pictures/**/7.png", "--model", model, "-o", "again"]) == 0
    assert names_in("again") == ["7-2.png", "7.png"]


def test_video_in_video_out(model: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(video), "--model", model, "-o", "out.mp4"]) == 0
    capture = cv2.VideoCapture("out.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 6
    assert names_in(".") == ["clip.avi", "out.mp4", "spots.png"]


def test_each_nth_frame(model: str, video: Path) -> None:
    assert main(["predict", str(video), "--model", model, "--every", "2", "-o", "out.avi"]) == 0
    capture = cv2.VideoCapture("out.avi")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(6.25), "it takes as long as the source"
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert main(["predict", str(video), "--model", model, "--every", "2", "-o", "out.csv"]) == 0
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["frame"] for row in rows[::3]] == ["0", "2", "4"]


def test_a_video_takes_as_long_as_its_source(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was dropped on the way."""
    writer = cv2.VideoWriter("quick.avi", cv2.VideoWriter.fourcc(*"MJPG"), 100, (144, 192))
    for _ in range(50):
        writer.write(PICTURE)
    writer.release()

    def draw(self: PoseResult, image: np.ndarray) -> np.ndarray:
        time.sleep(0.03)
        return image

    monkeypatch.setattr(PoseResult, "draw", draw)
    assert main(["predict", "quick.avi", "--model", model, "--latest", "--every", "2", "-o", "out.avi"]) == 0
    capture = cv2.VideoCapture("out.avi")
    assert capture.get(cv2.CAP_PROP_FPS) == 50
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(25, abs=1)


@pytest.mark.parametrize(("told", "comes"), [(30, 10), (30, 30), (25, 24), (30, 0.2)])
def test_a_cameras_video_takes_as_long_as_it_ran(told: float, comes: float) -> None:
    """Also where it, or the network, is slower than it says; what is lost for long is not made up for."""
    writer = VideoWriter(Path("out.avi"), told, live=True)
    for number in range(12):
        source = Source("camera:0", number, 1000 * number / comes, 0.0)
        writer.write(Frame(PICTURE, source), PoseResult.empty(lsp14, PICTURE.shape[:2]))
    writer.close()
    frames = cv2.VideoCapture("out.avi").get(cv2.CAP_PROP_FRAME_COUNT)
    assert frames == pytest.approx(1 + 11 * told * min(1 / comes, 2), abs=1)


def test_a_burst_loses_nothing() -> None:
    writer = VideoWriter(Path("out.avi"), 10, live=True)
    for number, time_ms in enumerate((0, 1, 2, 3, 4, 500, 1000)):
        writer.write(
            Frame(PICTURE, Source("camera:0", number, time_ms, 0.0)), PoseResult.empty(lsp14, (192, 144))
        )
    writer.close()
    assert cv2.VideoCapture("out.avi").get(cv2.CAP_PROP_FRAME_COUNT) == 11


def test_options_reach_the_stream(model: str, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    from edgepose.cli import predict

    class Spy(predict.Estimator):
        def stream(self, source: Any, **options: Any) -> Any:
            seen.append(options)
            return super().stream(source)

    monkeypatch.setattr(predict, "Estimator", Spy)
    command = ["predict", str(video), "--model", model]
    flags = ["--latest", "--track", "--smooth", "--every", "3", "--detect-every", "4", "--detector", "multi"]
    assert main([*command, *flags]) == 0
    assert main(command) == 0
    given = {"latest": True, "track": True, "smooth": True, "every": 3, "detect_every": 4}
    defaults = {"latest": False, "track": False, "smooth": False, "every": 1, "detect_every": 1}
    assert seen == [{**given, "boxes": None}, {**defaults, "boxes": None}]


def test_a_network_stream(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks off, comes back, breaks off for good: what was seen until then is written."""
    monkeypatch.setattr(live, "FIRST_DELAY", 0.02)
    with MjpegServer(PICTURE, lives=(4, 5, 0, 0, 0)) as server:
        command = ["predict", server.url, "--model", model, "-o", "out.jsonl", "--reconnect", "2"]
        assert main(command) == 1
        address = server.url.replace("user:secret@", "")
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["source"]["frame"] for line in lines] == list(range(9))
    assert {line["source"]["path"] for line in lines} == {address}
    output = capsys.readouterr()
    assert f"{address} stopped after 9 frames, and 2 attempts to open it again have failed" in output.err
    assert "secret" not in output.err + output.out


def test_a_video_that_has_no_place_is_told(video: Path) -> None:
    writer = VideoWriter(Path("gone/out.avi"), 25.0)
    frame = next(iter(open_source(video)))
    with pytest.raises(InvalidInputError, match=r"cannot write to .*out.avi; .*No such file"):
        writer.write(frame, PoseResult.empty(lsp14, (192, 144)))
    writer.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_a_full_disk_is_told(model: str, suffix: str) -> None:
    """OpenCV goes on as if nothing had happened."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter("noise.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (144, 192))
    for _ in range(12):
        writer.write(rng.integers(0, 256, (192, 144, 3), np.uint8))
    writer.release()
    code = (
        "import resource, sys; from edgepose.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000)); sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "predict", "noise.avi", "--model", model, "-o", f"out.{suffix}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert f"cannot complete out.{suffix}; found that not all could be written" in done.stderr
    assert "frames done" not in done.stderr
    assert not Path(f"out.{suffix}").exists()


def test_video_to_csv_and_pictures(model: str, video: Path) -> None:
    assert main(["predict", str(video), "--model", model, "-o", "out.csv"]) == 0
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["frame"] for row in rows] == [str(i) for i in range(6) for _ in range(3)]
    assert main(["predict", str(video), "--model", model, "-o", "frames"]) == 0
    assert names_in("frames") == [f"clip_{i:06d}.jpg" for i in range(6)]


def test_damaged_items_are_reported_and_the_rest_is_done(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.jpg").write_bytes(b"junk")
    (folder / "cut.jpg").write_bytes((folder / "000000000036.jpg").read_bytes()[:-500])
    assert main(["predict", str(folder), "--model", model, "-o", "out.jsonl"]) == 1
    assert len(Path("out.jsonl").read_text().splitlines()) == 3
    errors = capsys.readouterr().err
    assert "bad.jpg" in errors
    assert "cut short" in errors
    assert "2 skipped, 3 pictures done" in errors


def test_a_video_cut_short_is_reported(model: str, video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 2 // 3])
    assert main(["predict", str(video), "--model", model, "-o", "out.jsonl"]) == 1
    assert 1 <= len(Path("out.jsonl").read_text().splitlines()) < 6
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jpg"], "source not found"),
        (["nothing*.jpg"], "no file matches"),
        (["bad.jpg"], "not a picture"),
        (["empty.jpg"], "empty"),
        (["spots.png", "--model", "missing.onnx"], "model not found"),
        (["spots.png", "--model", "unknown"], "no packaged model"),
        (["spots.png", "--model", "empty.onnx"], "empty"),
        (["spots.png", "--model", "bad.onnx"], "not a complete ONNX"),
        (["spots.png", "--model", "bare.onnx"], "no edgepose ModelSpec"),
        (["spots.png", "--device", "tpu"], "unknown device"),
        (["spots.png", "--format", "csv", "-o", "folder"], "it is a directory"),
        (["spots.png", "-o", "spots.png"], "it is the source itself"),
        (["spots.png", "--boxes", "missing.json"], "cannot read boxes"),
        (["spots.png", "--boxes", "bad.onnx"], "cannot read boxes"),
        (["spots.png", "--boxes", "outside.json"], "outside the picture"),
        (["spots.png", "--boxes", "other.json"], r"no boxes for spots.png"),
        (["spots.png", "-o", "bad.onnx/out.json"], "cannot write"),
        (["spots.png", "-o", "out.heic"], "cannot write"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(
    model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    for name, content in {
        "bad.jpg": b"junk", "empty.jpg": b"", "empty.onnx": b"", "bad.onnx": b"junk",
        "outside.json": b"[[500, 0, 600, 50]]", "other.json": b'{"a.jpg": []}',
    }.items():  # fmt: skip
        Path(name).write_bytes(content)
    color_model(Path("bare.onnx"), metadata={})
    Path("folder").mkdir()
    if "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    assert main(["predict", *arguments]) == 1
    output = capsys.readouterr()
    assert words in output.err
    assert output.err.startswith("edgepose: ")
    assert len(output.err.splitlines()) == 1
    assert not list(Path().glob("*.part*"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["spots.png", "--formt", "json"],
        ["spots.png", "--format", "xml"],
        ["spots.png", "--format", "video"],
        ["spots.png", "--format", "images"],
        ["spots.png", "--json", "--format", "csv"],
        ["spots.png", "-o", "out.mp4"],
        ["spots.png", "-o", "out.txt"],
        ["pictures", "-o", "out.jpg"],
        ["spots.png", "-o", "out.jpg", "--format", "csv"],
        ["spots.png", "--threads", "0"],
        ["spots.png", "--runtime", "tensorflow"],
        ["spots.png", "--threads", "two"],
        ["spots.png", "--every", "0"],
        ["spots.png", "--detect-every", "2"],
        ["spots.png", "--reconnect", "always"],
    ],
)
def test_wrong_usage_is_exit_code_2(folder: Path, arguments: list[str]) -> None:
    usage_error(*arguments)


def test_boxes_from_a_file(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = [0, 0, 143, 191]
    Path("one.json").write_text(json.dumps([box, box]))
    assert main(["predict", "spots.png", "--model", model, "--boxes", "one.json", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["persons"]) == 2

    Path("all.json").write_text(json.dumps({"pictures/7.png": [], "000000000036.jpg": [box] * 3}))
    assert main(["predict", str(folder), "--model", model, "--boxes", "all.json", "-o", "o.jsonl"]) == 1
    persons = [len(json.loads(line)["persons"]) for line in Path("o.jsonl").read_text().splitlines()]
    assert persons == [3, 0]
    assert "no boxes for 000000000005.png" in capsys.readouterr().err


def test_options_reach_the_estimator(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    seen: dict[str, Any] = {}
    from edgepose.cli import predict

    class Spy(predict.Estimator):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            seen.update(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(predict, "Estimator", Spy)
    command = ["predict", "spots.png", "--model", model, "--flip-test", "--threads", "1", "--device", "cpu"]
    assert main([*command, "--runtime", runtime]) == 0
    assert seen == {"flip_test": True, "threads": 1, "device": "cpu", "runtime": runtime}
    assert f"colors on {runtime} cpu" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the display is found by Linux variables")
def test_show_without_a_display(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["predict", "spots.png", "--model", model, "--show"]) == 1
    assert "--show needs a display" in capsys.readouterr().err


class FakeWindows:
    """What `--show` uses of OpenCV, without a screen."""

    def __init__(self, keys: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[np.ndarray] = []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", lambda _, image: self.shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", lambda _: keys.pop(0) if keys else -1)
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)


@pytest.mark.parametrize(("keys", "frames"), [([], 6), ([-1, ord("q")], 2), ([27], 1)])
def test_show(model: str, video: Path, monkeypatch: pytest.MonkeyPatch, keys: list[int], frames: int) -> None:
    windows = FakeWindows(keys, monkeypatch)
    assert main(["predict", str(video), "--model", model, "--show"]) == 0
    assert len(windows.shown) == frames
    assert windows.shown[0].shape == PICTURE.shape


def test_show_with_a_headless_opencv(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def headless(*_: Any) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", headless)
    assert main(["predict", "spots.png", "--model", model, "--show"]) == 1
    assert "needs an OpenCV with windows" in capsys.readouterr().err


class TestAsACommand:
    """In a process of its own, as users run it."""

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgepose", *arguments]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False, **options
        )

    def test_predict(self, model: str) -> None:
        done = self.run("predict", "spots.png", "--model", model, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)["persons"]) == 1

    def test_help_version_and_no_verb(self) -> None:
        assert "predict" in self.run("--help").stdout
        assert self.run("--version").stdout.startswith("edgepose ")
        assert self.run().returncode == 2

    def test_no_traceback(self) -> None:
        done = self.run("predict", "missing.jpg")
        assert done.returncode == 1
        assert done.stderr == "edgepose: source not found: missing.jpg; check the path\n"

    def test_a_reader_that_stops_early(self, model: str, folder: Path) -> None:
        command = f'"{sys.executable}" -m edgepose predict pictures --model "{model}" | true'
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr

    @pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
    @pytest.mark.parametrize("output", ["out.json", "out.mp4"])
    def test_an_interrupted_run_keeps_what_it_has(self, model: str, name: str, output: str) -> None:
        writer = cv2.VideoWriter("long.avi", cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (144, 192))
        for _ in range(3000):
            writer.write(PICTURE)
        writer.release()
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            [sys.executable, "-m", "edgepose", "predict", "long.avi", "--model", model, "-o", output],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # A shell's job in the background ignores the signal, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        part = Path("out.json.part" if output == "out.json" else "out.part.mp4")
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > 20_000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "interrupted after" in errors
        assert "Traceback" not in errors
        assert not part.exists()
        if output == "out.json":
            done = len(json.loads(Path("out.json").read_text()))
        else:
            capture = cv2.VideoCapture("out.mp4")
            assert capture.isOpened()
            assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25)
            done = 0
            while capture.read()[0]:
                done += 1
        assert 0 < done < 3000
        assert f"interrupted after {done} frames" in errors
