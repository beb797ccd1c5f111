"""`edgepose annotate`: what is written, in which order, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_detectors import fixed_detector
from tiny_models import color_model, people_model, people_picture

import edgepose
from edgepose import Estimator, InvalidInputError, OnnxDetector, annotate
from edgepose.annotation import outputs
from edgepose.annotation.plan import make_plan
from edgepose.cli import main
from tests.annotate.conftest import BROKEN, COUNT, parts_of

cv2 = pytest.importorskip("cv2")


def read_table(path: str) -> Any:
    return pytest.importorskip("pyarrow.parquet").read_table(path)


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def few(pictures: Path, count: int = 40) -> str:
    """A folder of the first pictures."""
    folder = Path("few")
    folder.mkdir()
    for path in sorted(pictures.glob("????.png"))[:count]:
        shutil.copy2(path, folder)
    return str(folder)


def test_coco(model: str, pictures: Path) -> None:
    done = annotate(pictures, "out.json", model=model)
    assert (done.pictures, done.persons, done.errors, done.kept) == (COUNT, COUNT, len(BROKEN), 0)
    content = json.loads(Path("out.json").read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == [
        f"{number:04d}.png" for number in range(COUNT)
    ]
    (category,) = content["categories"]
    assert category["keypoints"] == ["blue", "green", "red"]
    assert category["skeleton"] == [[1, 2], [2, 3]]
    estimator = Estimator(model)
    for image, person in zip(content["images"], content["annotations"], strict=True):
        result = estimator(image["file_name"])
        assert person["image_id"] == image["id"]
        assert (image["height"], image["width"]) == result.image_size
        points = np.array(person["keypoints"]).reshape(3, 3)
        np.testing.assert_allclose(points[:, :2], result.keypoints[0], atol=1e-3)
        assert (points[:, 2] == 2).all()
        assert (person["num_keypoints"], person["iscrowd"]) == (3, 0)
        assert person["area"] == pytest.approx(person["bbox"][2] * person["bbox"][3])
    assert [person["id"] for person in content["annotations"]] == list(range(1, COUNT + 1))
    errors = json.loads(Path("out.json.errors.json").read_text())
    assert [Path(error["source"]).name for error in errors] == list(BROKEN)
    assert all("not a picture" in error["reason"] for error in errors)
    assert not Path("out.json.parts").exists()


def test_coco_loads(model: str, pictures: Path) -> None:
    faster_coco_eval = pytest.importorskip("faster_coco_eval")
    annotate(few(pictures), "out.json", model=model)
    coco = faster_coco_eval.COCO("out.json")
    assert sorted(coco.getImgIds()) == list(range(40))  # the numbers that name the files
    assert coco.loadImgs([7])[0]["file_name"].endswith("0007.png")
    assert len(coco.loadAnns(coco.getAnnIds(imgIds=[7], catIds=coco.getCatIds(["person"])))) == 1


@pytest.mark.usefixtures("arrow")
def test_parquet(model: str, pictures: Path) -> None:
    annotate(pictures, "out.parquet", model=model)
    table = read_table("out.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "source": "string",
        "frame": "int32",
        "time_ms": "double",
        "width": "int32",
        "height": "int32",
        "truncated": "bool",
        "person": "int32",
        **dict.fromkeys(("person_score", "box_x1", "box_y1", "box_x2", "box_y2"), "float"),
        **{f"{joint}_{what}": "float" for joint in ("blue", "green", "red") for what in ("x", "y", "score")},
    }
    about = json.loads(table.schema.metadata[b"edgepose"])
    assert about["skeleton"]["joints"] == ["blue", "green", "red"]
    assert about["settings"]["model"] == "colors"
    rows = table.to_pylist()
    assert [Path(row["source"]).name for row in rows] == [f"{number:04d}.png" for number in range(COUNT)]
    estimator = Estimator(model)
    for row in rows:
        result = estimator(row["source"])
        assert (row["frame"], row["person"], row["truncated"]) == (None, 0, False)
        assert (row["height"], row["width"]) == result.image_size
        joint = result[0]["green"]
        found = [row["green_x"], row["green_y"], row["green_score"], row["person_score"]]
        np.testing.assert_allclose(found, [*joint, result[0].score], atol=1e-3)
        np.testing.assert_allclose([row[f"box_{name}"] for name in ("x1", "y1", "x2", "y2")], result.boxes[0])


@pytest.mark.usefixtures("arrow")
def test_pictures_with_no_and_with_several_persons(tmp_path: Path) -> None:
    model = people_model(tmp_path / "people.onnx")
    two = people_picture((128, 128), [[(20, 20), (20, 60)], [(90, 40), None]])
    Path("pics").mkdir()
    cv2.imwrite("pics/a.png", np.zeros((128, 128, 3), np.uint8))
    cv2.imwrite("pics/b.png", two)
    done = annotate("pics", "out.parquet", model=model)
    assert (done.pictures, done.persons) == (2, 2)
    rows = read_table("out.parquet").to_pylist()
    assert [(row["source"], row["person"]) for row in rows] == [
        ("pics/a.png", None), ("pics/b.png", 0), ("pics/b.png", 1),
    ]  # fmt: skip
    assert all(rows[0][name] is None for name in ("person_score", "box_x1", "blue_x", "green_score"))
    missing = next(row for row in rows[1:] if row["green_x"] is None)
    assert missing["blue_x"] == pytest.approx(90, abs=2)
    assert missing["green_score"] is not None
    annotate("pics", "out.json", model=model)
    content = json.loads(Path("out.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["pics/a.png", "pics/b.png"]
    assert [(p["image_id"], p["num_keypoints"]) for p in content["annotations"]] == [(2, 2), (2, 1)]


def test_the_output_does_not_depend_on_the_workers(model: str, pictures: Path) -> None:
    for workers in (1, 2, 3):
        annotate(pictures, f"{workers}.json", model=model, workers=workers)
    assert Path("1.json").read_bytes() == Path("2.json").read_bytes() == Path("3.json").read_bytes()
    assert Path("1.json.errors.json").read_bytes() == Path("2.json.errors.json").read_bytes()


def test_several_sources_each_file_once(model: str, pictures: Path) -> None:
    folder = few(pictures, 3)
    done = annotate([f"{folder}/0002.png", folder, f"./{folder}/*.png"], "out.json", model=model)
    found = [Path(i["file_name"]).name for i in json.loads(Path("out.json").read_text())["images"]]
    assert found == ["0002.png", "0000.png", "0001.png"]
    assert done.pictures == 3


@pytest.mark.usefixtures("arrow")
def test_videos_are_frames(model: str, pictures: Path) -> None:
    folder = few(pictures, 2)
    writer = cv2.VideoWriter("few/clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (144, 192))
    for _ in range(11):
        writer.write(np.full((192, 144, 3), 90, np.uint8))
    writer.release()
    (Path(folder) / "broken.mp4").write_bytes(b"none")
    done = annotate(folder, "out.parquet", model=model, every=2)
    assert (done.pictures, done.errors) == (8, 1)
    rows = read_table("out.parquet").to_pylist()
    assert [row["frame"] for row in rows] == [None, None, 0, 2, 4, 6, 8, 10]
    assert [row["time_ms"] for row in rows[2:]] == pytest.approx([0, 200, 400, 600, 800, 1000], abs=1)
    annotate("few/clip.avi", "out.json", model=model)
    images = json.loads(Path("out.json").read_text())["images"]
    assert [(image["id"], image["frame"]) for image in images] == [(n + 1, n) for n in range(11)]


def test_a_picture_that_the_model_refuses_leaves_the_others(
    model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = few(pictures, 6)
    call = Estimator.__call__

    def refusing(self: Estimator, image: Any, boxes: Any = None) -> Any:
        for frame in image if isinstance(image, list) else [image]:
            if frame.source.path.endswith("0001.png"):
                raise InvalidInputError("not this one")
        return call(self, image, boxes)

    monkeypatch.setattr(Estimator, "__call__", refusing)
    done = annotate(folder, "out.json", model=model)
    assert (done.pictures, done.errors) == (5, 1)
    assert str(done.first_errors[0]) == "skipped few/0001.png: not this one"


@pytest.mark.usefixtures("arrow")
def test_memory_does_not_grow_with_the_pictures(
    model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more results are alive than two chunks of the output, or two batches."""
    import weakref

    alive: Any = weakref.WeakSet()
    most = 0
    check = edgepose.PoseResult.__post_init__

    def counted(self: edgepose.PoseResult) -> None:
        nonlocal most
        check(self)
        alive.add(self)
        most = max(most, len(alive))

    monkeypatch.setattr(edgepose.PoseResult, "__post_init__", counted)
    monkeypatch.setattr(outputs, "CHUNK", 16)
    annotate(pictures, "out.parquet", model=model)
    annotate(pictures, "out.json", model=model)
    assert 0 < most <= 2 * 16


@pytest.mark.usefixtures("arrow")
def test_row_groups(model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotate(pictures, "one.parquet", model=model)
    monkeypatch.setattr(outputs, "CHUNK", 7)
    monkeypatch.setattr(outputs, "ROWS", 20)
    annotate(pictures, "many.parquet", model=model)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.ParquetFile("many.parquet").num_row_groups == COUNT // 21 + 1
    assert read_table("many.parquet").equals(read_table("one.parquet"))


def test_detectors(model: str, pictures: Path, tmp_path: Path) -> None:
    folder = few(pictures, 5)
    grid = np.zeros((1, 126, 85), np.float32)
    grid[0, 40] = [0.5, 0.5, 1, 2, 1, 1, *[0] * 79]
    detector = str(fixed_detector(tmp_path / "yolox_s.onnx", {"output": grid}))
    done = annotate(folder, "named.json", model=model, detector=detector)
    with OnnxDetector(detector) as opened:
        annotate(folder, "object.json", model=model, detector=opened, workers=2)
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("named", "object"))
    assert done.pictures == 5
    assert one["annotations"] == two["annotations"]
    assert main(["annotate", folder, "-o", "cli.json", "--model", model, "--detector", detector,
                 "--detector-family", "yolox"]) == 0  # fmt: skip
    assert json.loads(Path("cli.json").read_text())["annotations"] == one["annotations"]
    with pytest.raises(InvalidInputError, match="detector cannot serve in bulk; found function"):
        annotate(folder, "no.json", model=model, detector=lambda image: np.zeros((0, 4)))


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("few", "out.txt", r"cannot tell the format of out.txt by its suffix; found .txt; give .parquet"),
        ("few", "out", "found none"),
        ("few", "few", "cannot tell the format"),
        ("none", "out.json", "source not found"),
        ([], "out.json", "empty list"),
        ([0], "out.json", "found int"),
        ("http://me:word@127.0.0.1:9/a", "out.json", "a camera or stream has no files; found http://127.0"),
        ("0", "out.json", "a camera or stream has no files; found camera 0"),
        ("", "out.json", "empty name"),
    ],
)
def test_refusals(model: str, pictures: Path, source: Any, output: str, message: str) -> None:
    few(pictures, 1)
    with pytest.raises(InvalidInputError, match=message):
        annotate(source, output, model=model)
    assert not list(Path().glob("out*"))


def test_missing_pyarrow_names_the_extra(model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(edgepose.BackendUnavailableError, match=r'pip install "edgepose\[parquet\]"'):
        annotate(few(pictures, 1), "out.parquet", model=model)
    assert names() == ["few"]


def test_missing_ray_names_the_extra(model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(edgepose.BackendUnavailableError, match=r'pip install "edgepose\[ray\]"'):
        annotate(few(pictures, 1), "out.json", model=model, ray="local")
    assert names() == ["few"]


def test_wrong_options_leave_nothing_behind(model: str, pictures: Path) -> None:
    folder = few(pictures, 3)
    with pytest.raises(TypeError, match="did you mean 'flip_test'"):
        annotate(folder, "out.json", model=model, flip_tets=True)
    for workers in (1, 2):
        with pytest.raises(InvalidInputError, match="scales serves bottom-up models"):
            annotate(folder, "out.json", model=model, scales=(1, 2), workers=workers)
    with pytest.raises(InvalidInputError, match="batch"):
        annotate(folder, "out.json", model=model, batch=0)
    assert names() == ["few"]


def test_an_output_is_not_overwritten_unasked(model: str, pictures: Path) -> None:
    folder = few(pictures, 3)
    Path("out.json").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"found a file; choose another name, or overwrite"):
        annotate(folder, "out.json", model=model)
    assert Path("out.json").read_text() == "mine"
    assert not Path("out.json.parts").exists()
    Path("out.json.errors.json").write_text("of an older run")
    assert annotate(folder, "out.json", model=model, overwrite=True).pictures == 3
    assert json.loads(Path("out.json").read_text())["images"]
    assert names() == ["few", "out.json"]


def test_files_of_others_in_the_folder_of_parts_stay(model: str, pictures: Path) -> None:
    folder = few(pictures, 3)
    Path("out.json.parts").mkdir()
    Path("out.json.parts/mine.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"cannot remove out\.json\.parts"):
        annotate(folder, "out.json", model=model)
    assert names("out.json.parts") == ["mine.txt"]
    assert json.loads(Path("out.json").read_text())["images"]


def test_the_command(model: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", str(pictures), "-o", "new/out.json", "--model", model, "--json"]) == 1
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["pictures"], report["errors"]) == (COUNT, 2)
    assert report["errors_file"] == "new/out.json.errors.json"
    lines = output.err.splitlines()
    assert [Path(line.split(": ")[1]).name for line in lines[:2]] == list(BROKEN)
    assert lines[2:] == [
        f"edgepose: {COUNT} pictures, {COUNT} persons written to new/out.json",
        "edgepose: errors: 2, see new/out.json.errors.json",
    ]
    assert names("new") == ["out.json", "out.json.errors.json"]
    assert main(["annotate", few(pictures, 3), "-o", "few.json", "--model", model]) == 0


@pytest.mark.usefixtures("arrow")
def test_names_that_are_no_utf8_are_errors(model: str, pictures: Path) -> None:
    folder = few(pictures, 3)
    shutil.copy(f"{folder}/0000.png", os.fsencode(folder) + b"/caf\xe9.png")
    for output in ("out.json", "out.parquet"):
        done = annotate(folder, output, model=model)
        assert (done.pictures, done.errors) == (3, 1)
        (error,) = json.loads(Path(f"{output}.errors.json").read_text("utf-8"))
        assert error["source"] == "few/caf\\udce9.png"
        assert "rename the file" in error["reason"]


@pytest.mark.usefixtures("arrow")
def test_truncated_results_say_so(tmp_path: Path) -> None:
    people_model(tmp_path / "people.onnx")
    two = people_picture((128, 128), [[(20, 20), (20, 60)], [(90, 40), (90, 90)]])
    cv2.imwrite("two.png", two)
    annotate("two.png", "out.json", model=tmp_path / "people.onnx", max_persons=1)
    (image,) = json.loads(Path("out.json").read_text())["images"]
    assert image["truncated"] is True
    annotate("two.png", "out.parquet", model=tmp_path / "people.onnx", max_persons=1)
    assert read_table("out.parquet").column("truncated").to_pylist() == [True]


@pytest.mark.usefixtures("arrow")
def test_many_errors_are_counted(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad").mkdir()
    for number in range(outputs.TOLD + 5):
        Path(f"bad/{number}.jpg").write_bytes(b"")
    assert main(["annotate", "bad", "-o", "out.parquet", "--model", model]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum("the file is empty" in line for line in lines) == outputs.TOLD
    assert "edgepose: and 5 more" in lines
    assert read_table("out.parquet").num_rows == 0


@pytest.mark.parametrize(
    "arguments",
    [["few"], ["-o", "out.json"], ["few", "-o", "out.json", "--workers", "0"],
     ["few", "-o", "out.json", "--scales", "1,2"], ["few", "-o", "out.json", "--detector-family", "yolox"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(model: str, pictures: Path, arguments: list[str]) -> None:
    few(pictures, 1)
    with pytest.raises(SystemExit) as caught:
        main(["annotate", *arguments, "--model", model])
    assert caught.value.code == 2
    assert names() == ["few"]


def test_settings_tell_models_apart_by_content(tmp_path: Path, model: str, pictures: Path) -> None:
    same, other = tmp_path / "same.onnx", tmp_path / "other.onnx"
    shutil.copy(model, same)
    color_model(other, channels=[1, 0, 2])
    plans = [make_plan(few(pictures, 1), model, 4, 1, {})]
    plans += [make_plan("few", path, 4, 1, {}) for path in (same, other)]
    assert plans[0].digest == plans[1].digest != plans[2].digest
    assert not plans[0].differences(plans[1].to_json())
    assert "model_sha256" in plans[0].differences(plans[2].to_json())[0]
    assert parts_of("out.json") == []


@pytest.mark.parametrize("source", ["clips", "clips/*.avi", ["clips/a.avi", "clips/b.avi"]])
def test_videos_alone(model: str, source: Any) -> None:
    Path("clips").mkdir()
    for name in ("a", "b"):
        writer = cv2.VideoWriter(f"clips/{name}.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (144, 192))
        for _ in range(3):
            writer.write(np.full((192, 144, 3), 90, np.uint8))
        writer.release()
    annotate(source, "out.json", model=model)
    images = json.loads(Path("out.json").read_text())["images"]
    assert [(image["file_name"], image["frame"]) for image in images] == [
        (f"clips/{name}.avi", number) for name in ("a", "b") for number in range(3)
    ]


def test_a_video_that_cannot_be_read_leaves_the_others(model: str, pictures: Path) -> None:
    few(pictures, 2)
    Path("broken.mp4").write_bytes(b"none")
    done = annotate(["broken.mp4", "few"], "out.json", model=model)
    assert (done.pictures, done.errors) == (2, 1)
    assert done.first_errors[0].source == "broken.mp4"
