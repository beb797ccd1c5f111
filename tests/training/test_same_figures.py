"""`edgepose val` on an exported file tells what `python -m training evaluate` tells of its network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from edgepose.cli import main as edgepose
from edgepose.evaluation.coco import load_coco
from edgepose.skeleton import lsp14
from training.__main__ import main as training
from training.config import load_config
from training.data.sets import load_test
from training.evaluate import predict
from training.evaluate_bottomup import predict_pictures
from training.export import export, model_spec
from training.models import create

pytest.importorskip("onnxruntime")

Write = Callable[..., Path]
FAR = 1000
"""Pixels by which joints of the truth are moved that shall count as wrong."""
COCO = {
    "people": "coco",
    "train_annotations": "coco/people.json",
    "train_images": "coco/images",
    "validation_annotations": "coco/people.json",
    "validation_images": "coco/images",
}
MPII = {
    "people": "mpii",
    "train_annotations": "mpii/annot/train.json",
    "train_images": "mpii/images",
    "validation_annotations": "mpii/annot/valid.json",
    "validation_images": "mpii/images",
}


@pytest.fixture
def root(small_data: Path, tmp_path: Path) -> Path:
    """A copy of the small data that may be changed."""
    return Path(shutil.copytree(small_data, tmp_path / "copy"))


class Case:
    """A network with random weights, its configuration and its file."""

    def __init__(self, config: Path, folder: Path, model: str, joints: int) -> None:
        torch.manual_seed(1)
        self.network = create(model, joints=joints).eval()
        last = ("final_layer", "low.final_layer", "high")
        with torch.no_grad():  # scores between 0 and 1, as those of trained networks
            for name, layer in self.network.named_modules():
                if name in last:
                    layer.weight.mul_(0.3)
                    layer.bias.fill_(0.4)
        self.config = load_config(str(config), [])
        self.spec = model_spec(self.config)
        self.file, self._weights = folder / "model.onnx", folder / "weights.pt"
        torch.save(self.network.state_dict(), self._weights)
        export(self.network, self.spec, self.file)
        self._path = str(config)

    def joints(self, *, flip_test: bool = False) -> np.ndarray:
        """What the network finds for the people that it is scored on."""
        people = load_test(self.config).people
        return predict(self.network, self.spec, people, flip_test=flip_test)[0].astype(float)

    def compare(self, capsys: pytest.CaptureFixture[str], data: Sequence[str], *options: str) -> dict:
        """The figures by both ways, which must be equal."""
        change = [option for option in options if "=" in option]
        flags = [option for option in options if "=" not in option]
        assert training(["evaluate", self._path, "--weights", str(self._weights), "--json", *options]) == 0
        expected = json.loads(capsys.readouterr().out)
        detections = ["--detections", change[0].partition("=")[2]] if change else []
        assert edgepose(["val", str(self.file), *data, *detections, *flags, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        figures = {name: value for name, value in report["figures"].items() if value is not None}
        assert figures == pytest.approx(expected, rel=1e-9)
        assert report["headline"] in figures
        return figures


def spoiled(joints: np.ndarray) -> np.ndarray:
    """Some of the joints far from where they were."""
    moved = np.random.default_rng(0).uniform(size=joints.shape[:2]) < 0.25
    return joints + FAR * moved[..., None]


@pytest.mark.parametrize("coordinates", ["udp", "legacy"])
def test_pck(
    write_config: Write,
    lsp_test_set: Path,
    tmp_path: Path,
    coordinates: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(coordinates=coordinates, data={"root": str(lsp_test_set)})
    case = Case(config, tmp_path, "plain", 14)
    truth = spoiled(case.joints())
    truth[:, lsp14.index("left_shoulder")] += FAR  # a long torso: what is near is right
    joints = np.zeros((3, 14, 2000))
    joints[:2, :, 1000:] = truth.transpose(2, 1, 0)
    savemat(lsp_test_set / "lsp/joints.mat", {"joints": joints})
    figures = case.compare(capsys, ["--lsp", str(lsp_test_set / "lsp")])
    assert 60 < figures["mean"] < 80
    assert figures["shoulder"] < 50


def test_pckh(write_config: Write, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(skeleton="mpii16", padding=1.25, data={"root": str(root), **MPII})
    case = Case(config, tmp_path, "plain", 16)
    path = root / "mpii/annot/gt_valid.mat"
    content = {name: value for name, value in loadmat(path).items() if not name.startswith("_")}
    data = ["--mpii", str(root / "mpii/annot/valid.json"), str(root / "mpii/images")]
    for flip_test, options in ((False, ()), (True, ("--flip-test",))):
        content["pos_gt_src"] = spoiled(case.joints(flip_test=flip_test)).transpose(1, 2, 0) + 1
        savemat(path, content)
        assert 60 < case.compare(capsys, data, *options)["mean"] < 90


def test_ap_of_people_in_boxes(
    write_config: Write, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(skeleton="coco17", padding=1.25, data={"root": str(root), **COCO})
    case = Case(config, tmp_path, "plain", 17)
    path = root / "coco/people.json"
    content = json.loads(path.read_text())
    for annotation, joints in zip(content["annotations"], spoiled(case.joints()), strict=True):
        annotation["keypoints"] = np.concatenate([joints, np.full((17, 1), 2)], 1).ravel().tolist()
    path.write_text(json.dumps(content))
    data = ["--coco", str(path), str(root / "coco/images")]
    assert 0.2 < case.compare(capsys, data)["AP"] < 0.9

    detections = tmp_path / "detections.json"
    rng = np.random.default_rng(2)
    entries = []
    for annotation in content["annotations"][2:]:
        x, y, w, h = annotation["bbox"]
        box = [x, y, w - 1, h - 1]  # as annotated boxes are cleaned
        score = rng.uniform(0.2, 1)
        entries.append({"image_id": annotation["image_id"], "category_id": 1, "bbox": box, "score": score})
    entries.append({"image_id": 5, "category_id": 1, "bbox": [10, 20, 40, 0], "score": 0.1})  # without height
    entries.append({"image_id": 5, "category_id": 1, "bbox": [500, 20, 40, 30], "score": 0.1})  # outside
    detections.write_text(json.dumps(entries))
    assert 0.1 < case.compare(capsys, data, f"data.detections={detections}")["AP"] < 0.8


def test_ap_of_whole_pictures(
    write_bottom_up: Write, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_bottom_up(pictures=True, data={"root": str(root)})
    case = Case(config, tmp_path, "plain_stages", 17)
    path = root / "coco/people.json"
    content = json.loads(path.read_text())
    pictures = load_coco(path, root / "coco/images").pictures
    found = predict_pictures(case.network, case.spec, [picture.image() for picture in pictures])
    assert min(len(poses) for poses in found) >= 2
    for annotation, place in zip(content["annotations"], range(12), strict=True):
        joints = np.nan_to_num(found[place // 2].keypoints[place % 2])
        rows = np.concatenate([spoiled(joints[None])[0], np.full((17, 1), 2)], 1)
        annotation["keypoints"] = rows.ravel().tolist()
    path.write_text(json.dumps(content))
    data = ["--coco", str(path), str(root / "coco/images")]
    assert 0.05 < case.compare(capsys, data)["AP"] < 0.9
