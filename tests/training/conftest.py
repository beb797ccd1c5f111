"""Fixtures of the training tests: one thread, a small data set, the reference outputs."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason='training needs PyTorch: pip install "edgepose[training]"')
pytest.importorskip("omegaconf", reason='training needs OmegaConf: pip install "edgepose[training]"')

import torch
import yaml
from scipy.io import savemat
from torch import Tensor, nn

from training.models.registry import register

torch.set_num_threads(1)
cv2.setNumThreads(1)


class Plain(nn.Module):
    """Three convolutions to a quarter of the input, without batch norm: any split of a batch is equal."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.final_layer = nn.Conv2d(8, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(torch.relu(self.body(torch.relu(self.stem(x)))))


@register
def plain(joints: int = 14) -> Plain:
    """A small network for tests."""
    return Plain(joints)


class PlainStages(nn.Module):
    """`Plain` as a bottom-up network: heatmaps and tags at a quarter, heatmaps at half of the input."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.low = Plain(2 * joints)
        self.high = nn.ConvTranspose2d(2 * joints, joints, 2, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        low = self.low(x)
        return [low, self.high(low)]


@register
def plain_stages(joints: int = 14) -> PlainStages:
    """A small bottom-up network for tests."""
    return PlainStages(joints)


@pytest.fixture(scope="session")
def fill(shared: Path) -> ModuleType:
    """The functions that fill networks and inputs with known values."""
    spec = importlib.util.spec_from_file_location("parity_fill", shared / "specs/parity/fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keep
    return module


@pytest.fixture(scope="session")
def decoding(shared: Path) -> tuple[dict[str, Any], Any]:
    """Meta data and arrays of the official decoding."""
    arrays = np.load(shared / "specs/parity/decode.npz")
    return json.loads(str(arrays["meta"])), arrays


def draw_people(count: int, seed: int, skeleton: int = 14) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures (64, 48, 3) with a bright spot per joint, and joints (count, skeleton, 3), all labelled."""
    rng = np.random.default_rng(seed)
    joints = np.ones((count, skeleton, 3))
    joints[..., :2] = rng.uniform([6, 6], [42, 58], (count, skeleton, 2))
    images = []
    for person in joints:
        image = rng.integers(0, 60, (64, 48, 3), np.uint8)
        for x, y, _ in person:
            cv2.circle(image, (round(x), round(y)), 2, (40, 220, 250), -1)
        images.append(image)
    return images, joints


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: 10 people as LSP, 24 as LSPet, 12 as MPII, and 12 as 6 pictures of two as COCO."""
    root = tmp_path_factory.mktemp("data")
    for name, count, digits in (("lsp", 10, 4), ("lspet", 24, 5)):
        images, joints = draw_people(count, seed=count)
        (root / name / "images").mkdir(parents=True)
        for i, image in enumerate(images, 1):
            cv2.imwrite(str(root / name / "images" / f"im{i:0{digits}d}.jpg"), image)
        if name == "lsp":
            joints[..., 2] = 0  # occluded: no
            savemat(root / name / "joints.mat", {"joints": joints.transpose(2, 1, 0)})
        else:
            np.savez(root / name / "joints.npz", joints=joints.astype(np.float32))
    images, joints = draw_people(12, seed=3, skeleton=17)
    (root / "coco/images").mkdir(parents=True)
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": [{"id": 1}]}
    for i in range(6):
        entry = {"id": i, "file_name": f"{i}.png", "height": 64, "width": 96}
        content["images"].append(entry)
        cv2.imwrite(str(root / "coco/images" / entry["file_name"]), np.hstack(images[2 * i : 2 * i + 2]))
        for side in range(2):
            rows = joints[2 * i + side] + (48 * side, 0, 1)
            content["annotations"].append(
                {
                    "id": 2 * i + side + 1,
                    "image_id": i,
                    "category_id": 1,
                    "keypoints": rows.ravel().tolist(),
                    "num_keypoints": 17,
                    "bbox": [48 * side, 0, 48, 64],
                    "area": 48 * 64 * 0.53,
                }
            )
    (root / "coco/people.json").write_text(json.dumps(content))
    write_mpii(root / "mpii")
    return root


def write_mpii(root: Path) -> None:
    """Eight people to train on and four to validate, with the evaluation's own file of these."""
    images, joints = draw_people(12, seed=4, skeleton=16)
    (root / "annot").mkdir(parents=True)
    (root / "images").mkdir()
    people = []
    for i, (image, rows) in enumerate(zip(images, joints, strict=True)):
        cv2.imwrite(str(root / "images" / f"{i}.png"), image)
        people.append(
            {
                "image": f"{i}.png",
                "center": [25.0, 29.0],  # lowered by 15 per scale it is the picture's
                "scale": 64 / 200 / 1.25,
                "joints": (rows[:, :2] + 1).tolist(),
                "joints_vis": rows[:, 2].tolist(),
            }
        )
    (root / "annot/train.json").write_text(json.dumps(people[:8]))
    (root / "annot/valid.json").write_text(json.dumps(people[8:]))
    truth = joints[8:, :, :2].transpose(1, 2, 0) + 1
    heads = np.zeros((2, 2, 4))
    heads[1] = [[18], [24]]  # a diagonal of 30: a head size of 18
    missing = np.zeros((16, 4))
    content = {"pos_gt_src": truth, "headboxes_src": heads, "jnt_missing": missing}
    savemat(root / "annot/gt_valid.mat", content)


@pytest.fixture
def lsp_test_set(tmp_path: Path) -> Path:
    """Two thousand entries of which the last thousand have the same picture."""
    root = tmp_path / "data/lsp"
    (root / "images").mkdir(parents=True)
    joints = np.random.default_rng(0).uniform(2, 30, (3, 14, 2000))
    savemat(root / "joints.mat", {"joints": joints})
    first = root / "images/im1001.jpg"
    cv2.imwrite(str(first), np.full((32, 32, 3), 90, np.uint8))
    for i in range(1002, 2001):
        os.link(first, root / "images" / f"im{i}.jpg")
    return root.parent


@pytest.fixture
def write_config(small_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the YAML of a run of a few seconds on the small data; keywords change fields."""

    def write(**changes: Any) -> Path:
        fields: dict[str, Any] = {
            "name": "tiny",
            "model": "plain",
            "init": "kaiming",
            "input_size": [32, 32],
            "data": {"root": str(small_data), "lsp": False, "validation": 8},
            "optimizer": {"name": "adam", "lr": 0.01},
            "epochs": 3,
            "batch_size": 4,
            "output": str(tmp_path / "runs"),
        }
        fields["data"].update(changes.pop("data", {}))
        fields.update(changes)
        path = tmp_path / f"{fields['name']}.yaml"
        path.write_text(yaml.safe_dump(fields))
        return path

    return write


@pytest.fixture
def write_bottom_up(write_config: Callable[..., Path]) -> Callable[..., Path]:
    """Write the YAML of a bottom-up run of a few seconds; keywords change fields.

    Args:
        pictures: train on those in COCO's format.
        mosaics: train on mosaics of LSPet.
    """

    def write(*, pictures: bool = False, mosaics: bool = False, **changes: Any) -> Path:
        data: dict[str, Any] = {"skeleton": "coco17" if mosaics else None}
        if pictures:
            data |= {"train_annotations": "coco/people.json", "train_images": "coco/images", "repeat": 2}
        if mosaics:
            data["mosaics"] = [0.5, 0.5]
        else:
            data |= {"validation_annotations": "coco/people.json", "validation_images": "coco/images"}
        fields: dict[str, Any] = {
            "model": "plain_stages",
            "task": "bottomup",
            "skeleton": "lsp14" if mosaics else "coco17",
            "coordinates": "legacy",
            "input_size": [64, 64],
            "data": data | changes.pop("data", {}),
        }
        return write_config(**(fields | changes))

    return write
