"""Fixtures of the training tests: one thread, a small data set, the reference outputs."""

from __future__ import annotations

import importlib.util
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

from tests.small_data import decoding, small_data
from training.models.registry import register

__all__ = ["decoding", "small_data"]

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
