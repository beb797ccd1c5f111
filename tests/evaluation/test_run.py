"""Running a model file on annotated people."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, spots

from edgepose import Estimator, InvalidInputError
from edgepose.cli import main
from edgepose.estimator import MODELS
from edgepose.evaluation.people import People, Pictures
from edgepose.evaluation.run import find_joints

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

CENTERS = [(60.0, 50.0), (100.0, 120.0), (45.0, 140.0)]
BOX = (20.0, 20.0, 130.0, 170.0)


def people(images: Any, boxes: list[tuple[float, ...]], spec: Any) -> People:
    joints = np.zeros((len(boxes), 3, 2), np.float32)
    return People(spec.skeleton, images, joints, np.ones((len(boxes), 3)), np.array(boxes, np.float32))


def test_regions_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding stands in the boxes; people of one picture who follow each other are one call."""
    monkeypatch.setenv("EDGEPOSE_KERNELS", "numpy")
    spec = color_spec(padding=1.5)
    picture = spots((192, 144), CENTERS, radius=10)
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        cv2.imwrite(str(path), picture)
    order = [paths[0], paths[0], paths[1], paths[0]]
    outside, flat = (500.0, 20.0, 540.0, 60.0), (20.0, 95.0, 130.0, 95.0)
    crowd = people(Pictures(order), [BOX, outside, flat, BOX], spec)
    calls, steps = [], []
    with Estimator(color_model(tmp_path / "colors.onnx", spec)) as estimator:
        expected = estimator(picture, boxes=[[20, 20, 130, 170]])
        plain = Estimator.__call__

        def counted(self: Estimator, image: Any, boxes: Any = None) -> Any:
            calls.append(np.array(boxes))
            return plain(self, image, boxes=boxes)

        monkeypatch.setattr(Estimator, "__call__", counted)
        joints, scores = find_joints(estimator, crowd, steps.append)
    assert steps == [2, 1, 1]
    assert [len(boxes) for boxes in calls] == [1, 1, 1]
    sides = calls[0][0, 2:] - calls[0][0, :2]
    np.testing.assert_allclose(sides * 1.5, (112.5, 150), rtol=1e-5)  # the input is 48 wide and 64 high
    np.testing.assert_allclose((calls[0][0, 2:] + calls[0][0, :2]) / 2, (75, 95), rtol=1e-5)
    np.testing.assert_allclose(joints[0], CENTERS, atol=1)
    np.testing.assert_array_equal(joints[3], joints[0])
    np.testing.assert_allclose(joints[2], CENTERS, atol=1)  # a box without height grows to the input's aspect
    assert np.isnan(joints[1]).all()
    assert scores[1].tolist() == [0, 0, 0]
    assert not np.allclose(expected.keypoints[0], joints[0], atol=1e-6)  # that box was padded


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    with Estimator(people_model(tmp_path / "people.onnx")) as estimator:
        crowd = people([spots((192, 144), CENTERS)], [BOX], estimator.info.spec)
        with pytest.raises(InvalidInputError, match="'people' is bottom-up; score it on whole pictures"):
            find_joints(estimator, crowd)
        with pytest.raises(InvalidInputError, match=r"'people' on people of colors3; found .* pair2"):
            find_joints(estimator, people(crowd.images, [BOX], color_spec()))


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert main(["val", *arguments, "--json"]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out)["figures"]
    return found


def card(model: str, row: str) -> list[str]:
    """The cells of a row of a packaged model's card."""
    found = re.search(rf"^\| {re.escape(row)} \|(.*)\|$", (MODELS / f"{model}.md").read_text(), re.MULTILINE)
    assert found, row
    return [cell.strip() for cell in found[1].split("|")]


@pytest.mark.slow
@pytest.mark.parametrize("flip_test", [False, True])
def test_the_packaged_models_score_what_their_cards_say(
    shared: Path, tmp_path: Path, flip_test: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared / "data"
    if not (data / "lsp/joints.mat").is_file() or not (data / "coco/images").is_dir():
        pytest.skip(f"no lsp/ and coco/ in {data}")
    flags = ["--flip-test"] * flip_test
    table = figures(capsys, "lpn50-lsp", "--lsp", str(data / "lsp"), *flags)
    for name, value in table.items():
        assert f"{value:.2f}" == card("lpn50-lsp", name.replace("_", " "))[flip_test], name

    content = json.loads((data / "coco/person_keypoints_pooled.json").read_text())
    kept = {i["id"] for i in content["images"] if i["annotations_complete"] and i["split"] == "val2017"}
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    arguments = ["multi", "--coco", str(path), str(data / "coco/images"), "--score-threshold", "0.1"]
    table = figures(capsys, *arguments, *flags)
    text = (MODELS / "higherlpn50-lsp.md").read_text().partition("whole pictures of COCO")[2]
    for name in ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR"):
        found = re.search(rf"^\| {name.replace('_', ', ')} \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
        assert found, name
        assert f"{table[name]:.3f}" == found[1 + flip_test], name
