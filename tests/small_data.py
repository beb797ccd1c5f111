"""Small data sets in the form of the public ones, and the reference outputs of the official decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

__all__ = ["decoding", "draw_people", "small_data", "write_mpii"]


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
    savemat = pytest.importorskip("scipy.io").savemat
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
    write_mpii(root / "mpii", savemat)
    return root


def write_mpii(root: Path, savemat: Any) -> None:
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
