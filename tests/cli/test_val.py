"""`edgepose val`: figures that are known, options that do not fit, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, people_picture, people_spec, spots

from edgepose import Grouping, Skeleton, coco17, crowdpose14, lsp14, mpii16
from edgepose.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

CENTERS = [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)]
PICTURE = spots((192, 144), CENTERS, radius=12)
EYES = Skeleton("eyes", ("left_eye", "right_eye"), ((0, 1),), ((0, 1),), (0.05,) * 2)
PEOPLE = [[(40.0, 50.0), (70.0, 60.0)], [(150.0, 80.0), (170.0, 100.0)]]


@pytest.fixture(autouse=True)
def in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    monkeypatch.chdir(tmp_path)


def model(skeleton: Skeleton) -> str:
    """A top-down model whose joint j is found at spot j modulo 3."""
    spec = color_spec(name=f"three-{skeleton.name}", skeleton=skeleton, padding=1.25)
    channels = [joint % 3 for joint in range(len(skeleton))]
    return str(color_model(Path(f"{skeleton.name}.onnx"), spec, channels=channels))


def places(skeleton: Skeleton) -> np.ndarray:
    return np.array([CENTERS[joint % 3] for joint in range(len(skeleton))])


@pytest.fixture
def lsp() -> str:
    """1,004 people; the first four of the test part are annotated, one of them with a wrong left ankle."""
    savemat = pytest.importorskip("scipy.io").savemat
    Path("lsp/images").mkdir(parents=True)
    joints = np.zeros((3, 14, 1004))
    for number in range(1001, 1005):
        cv2.imwrite(f"lsp/images/im{number}.jpg", PICTURE, [cv2.IMWRITE_JPEG_QUALITY, 100])
        joints[:2, :, number - 1] = places(lsp14).T
    joints[0, lsp14.index("left_ankle"), 1000] += 50
    savemat("lsp/joints.mat", {"joints": joints})
    return "lsp"


@pytest.fixture
def mpii() -> tuple[str, str]:
    """Five people, the second of whom has no centre; the right ankle of the first is wrong."""
    savemat = pytest.importorskip("scipy.io").savemat
    Path("mpii/images").mkdir(parents=True)
    cv2.imwrite("mpii/images/a.png", PICTURE)
    person = {
        "image": "a.png",
        "center": [72.5, 96.5 - 15 * 0.96],
        "scale": 0.96,
        "joints": (places(mpii16) + 1).tolist(),
        "joints_vis": [1] * 16,
    }
    people = [dict(person) for _ in range(5)]
    people[1]["center"] = [-1, -1]
    Path("mpii/valid.json").write_text(json.dumps(people))
    truth = np.repeat(places(mpii16)[:, :, None], 5, 2) + 1
    truth[mpii16.index("right_ankle"), 0, 0] += 30
    heads = np.zeros((2, 2, 5))
    heads[1] = 30  # a size of 25.5
    content = {"pos_gt_src": truth, "headboxes_src": heads, "jnt_missing": np.zeros((16, 5))}
    savemat("mpii/gt_valid.mat", content)
    return "mpii/valid.json", "mpii/images"


def coco(skeleton: Skeleton, picture: np.ndarray, people: list[np.ndarray], **fields: Any) -> tuple[str, str]:
    """Three equal pictures annotated in COCO's format; of the last one nobody is where the file says."""
    pytest.importorskip("faster_coco_eval")
    Path("images").mkdir()
    height, width = picture.shape[:2]
    images, annotations = [], []
    for number in range(3):
        cv2.imwrite(f"images/{number}.png", picture)
        images.append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width, **fields}
        )
        for joints in people:
            rows = np.concatenate([joints + 500 * (number == 2), np.full((len(joints), 1), 2)], 1)
            low, extent = joints.min(0) - 5, np.ptp(joints, axis=0) + 10
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": rows.ravel().tolist(),
                    "num_keypoints": len(skeleton),
                    "bbox": [*low.tolist(), *extent.tolist()],
                    "area": float(extent.prod()),
                }
            )
    categories = [{"id": 1, "name": "person"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path("people.json").write_text(json.dumps(content))
    return "people.json", "images"


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["val", *arguments, "--json"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["val", *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_pck(lsp: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, model(lsp14), "--lsp", lsp, "--limit", "4", "--threads", "1")
    figures = found.pop("figures")
    assert figures["ankle"] == 87.5  # one of eight is wrong
    assert figures["mean"] == pytest.approx(100 - 25 / 14)
    assert {name: value for name, value in figures.items() if name not in ("ankle", "mean")} == dict.fromkeys(
        ("knee", "hip", "wrist", "elbow", "shoulder", "neck", "head_top"), 100
    )
    assert found["headline"] == "mean"
    assert found["data"] == {"name": "lsp", "scored": "people", "count": 4}
    assert (found["settings"]["limit"], found["settings"]["flip_test"]) == (4, False)
    assert found["model"]["name"] == "three-lsp14"
    assert found["backend"]["threads"] == 1


def test_table_and_verdict(lsp: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["val", model(lsp14), "--lsp", lsp, "--limit", "4"]
    assert main([*arguments, "--at-least", "98.2"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0] == "three-lsp14 (fp32), onnxruntime on cpu"
    assert lines[1].startswith("lsp, the first 4 people, without flip test, ")
    assert lines[2].split() == ["ankle", "87.50"]
    assert lines[-1].split() == ["mean", "98.21"]
    assert output.err == ""
    assert main([*arguments, "--at-least", "98.3"]) == 1
    assert "mean is too low; found 98.2143, asked for at least 98.3" in capsys.readouterr().err


def test_pckh(mpii: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    figures = report(capsys, model(mpii16), "--mpii", *mpii)["figures"]
    wrong = {"ankle": 100 * (1 - (1 / 5 + 1 / 5) / 2 - 1 / 10), "knee": 80}  # a fifth is not looked for
    assert figures["knee"] == pytest.approx(wrong["knee"])
    assert figures["ankle"] == pytest.approx(wrong["ankle"])
    assert figures["mean"] == pytest.approx(80 - 100 / 70)
    first = report(capsys, model(mpii16), "--mpii", *mpii, "--limit", "1")["figures"]
    assert (first["ankle"], first["knee"]) == (50, 100)
    Path("mpii/gt_valid.mat").unlink()
    assert main(["val", model(mpii16), "--mpii", *mpii]) == 1
    assert "found no gt_valid.mat beside it" in capsys.readouterr().err


def test_ap_in_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    data = coco(coco17, PICTURE, [places(coco17)])
    found = report(capsys, model(coco17), "--coco", *data)
    assert found["headline"] == "AP"
    assert found["data"] == {"name": "coco", "scored": "people", "count": 3}
    assert 0.6 < found["figures"]["AP50"] < 0.7  # two of three
    assert found["figures"]["AR50"] == pytest.approx(2 / 3)
    assert found["figures"]["AP_large"] is None
    first = report(capsys, model(coco17), "--coco", *data, "--limit", "2")
    assert (first["figures"]["AP50"], first["data"]["count"]) == (1, 2)

    boxes = [{"image_id": 0, "category_id": 1, "bbox": [30, 30, 90, 130], "score": 0.9}]
    Path("boxes.json").write_text(json.dumps(boxes))
    found = report(capsys, model(coco17), "--coco", *data, "--detections", "boxes.json")
    assert found["data"]["count"] == 1
    assert found["figures"]["AR50"] == pytest.approx(1 / 3)
    assert found["settings"]["detections"] == "boxes.json"


def test_ap_of_whole_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a bottom-up model, of the joints that its skeleton and COCO's share."""
    joints = [np.zeros((17, 2)) for _ in PEOPLE]
    for rows, (left, right) in zip(joints, PEOPLE, strict=True):
        rows[:] = left
        rows[coco17.index("left_eye")], rows[coco17.index("right_eye")] = left, right
    data = coco(coco17, people_picture((130, 200), PEOPLE), joints)
    spec = people_spec(skeleton=EYES, grouping=Grouping(joint_order=(0, 1), refine=False))
    path = str(people_model(Path("eyes.onnx"), spec))
    found = report(capsys, path, "--coco", *data)
    assert found["data"] == {"name": "coco", "scored": "pictures", "count": 3}
    assert found["figures"]["AR50"] == pytest.approx(2 / 3)
    nobody = report(capsys, path, "--coco", *data, "--score-threshold", "0.95")
    assert nobody["figures"]["AR50"] == 0

    eyes = color_spec(skeleton=EYES, padding=1.25)
    top_down = str(color_model(Path("top.onnx"), eyes, channels=[0, 1]))
    found = report(capsys, top_down, "--coco", *data, "--detector", path)
    assert found["data"]["scored"] == "pictures"
    assert found["settings"]["detector"] == path
    error = usage_error(capsys, path, "--coco", *data, "--detector", path)
    assert "--detector serves top-down models; 'people' is bottom-up" in error
    assert "--detections serves top-down" in usage_error(capsys, path, "--coco", *data, "--detections", "a")
    assert "'people' is bottom-up; give --coco" in usage_error(capsys, path, "--lsp", "lsp")


def test_crowdpose(capsys: pytest.CaptureFixture[str]) -> None:
    data = coco(crowdpose14, PICTURE, [places(crowdpose14)], crowdIndex=0.5)
    figures = report(capsys, model(crowdpose14), "--crowdpose", *data)["figures"]
    assert figures["AP_medium"] == pytest.approx(figures["AP"], abs=1e-4)
    assert figures["AP_easy"] is None
    assert figures["AR50"] == pytest.approx(2 / 3)


def test_wrong_usage(lsp: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(lsp14)
    assert "one of the arguments" in usage_error(capsys, path)
    assert "not allowed with" in usage_error(capsys, path, "--lsp", lsp, "--coco", "a", "b")
    assert "--detector serves --coco" in usage_error(capsys, path, "--lsp", lsp, "--detector", "multi")
    assert "--scales serves bottom-up" in usage_error(capsys, path, "--lsp", lsp, "--scales", "0.5,1")
    assert "--no-refine serves bottom-up" in usage_error(capsys, path, "--lsp", lsp, "--no-refine")
    assert "from 0 to 1" in usage_error(capsys, path, "--lsp", lsp, "--score-threshold", "2")
    assert "at least 1" in usage_error(capsys, path, "--lsp", lsp, "--limit", "0")


def test_what_ran_and_failed(lsp: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(lsp14)
    assert main(["val", path, "--lsp", "nowhere"]) == 1
    assert "found no joints.mat; give the folder" in capsys.readouterr().err
    assert main(["val", path, "--lsp", lsp]) == 1
    assert "pictures 1001 to 2000 are not in the data set" in capsys.readouterr().err
    assert main(["val", model(coco17), "--lsp", lsp, "--limit", "1"]) == 1
    assert "its skeleton is coco17; give a model or data of the same" in capsys.readouterr().err
    assert main(["val", path, "--coco", "none.json", "."]) == 1
    assert "no annotations; found no file none.json" in capsys.readouterr().err
    Path("empty.json").write_text('{"images": [], "annotations": []}')
    assert main(["val", path, "--coco", "empty.json", "."]) == 1
    assert "nothing to score" in capsys.readouterr().err


def test_ap_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco(coco17, PICTURE, [places(coco17)])
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(["val", model(coco17), "--coco", *data]) == 1
    assert 'pip install "edgepose[eval]"' in capsys.readouterr().err
