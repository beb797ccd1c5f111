"""Networks learn a few pictures by heart: losses, targets, grouping and evaluation fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor

from training.__main__ import main
from training.models.higher_head import HigherHead
from training.models.higherlpn import HigherLPN
from training.models.lpn import LightweightBottleneck
from training.models.registry import register

CONFIG = Path(__file__).resolve().parents[2] / "training/configs/higherlpn/coco_overfit.yaml"


class TagNumbers(HigherLPN):
    """HigherLPN with HigherHRNet's tags: one number for each joint, without the pixel's position."""

    def __init__(self, joints: int) -> None:
        super().__init__((3, 4, 6, 3), joints, "gc", 32)
        self.head = HigherHead(
            64,
            joints,
            lambda channels: LightweightBottleneck(channels, channels, 1, None),
            widths=(32,),
            blocks=2,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.head(self.project(self.body.features(x)))


@register
def higherlpn50_numbers(joints: int = 17) -> TagNumbers:
    """HigherLPN-50 with tags of one number."""
    return TagNumbers(joints)


OFFICIAL = ["losses.heatmap=1", "losses.push=1e-3", "losses.pull=1e-3"]
"""The published factors."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("points", []),
        (
            "numbers",
            [
                "model=higherlpn50_numbers",
                "data.ids=[40083,231125,293625,488673]",
                "data.repeat=30",
                *OFFICIAL,
            ],
        ),
    ],
)
def test_ap_of_pictures_learnt_by_heart(
    name: str, changes: list[str], shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HigherLPN, whose tags are points, as configured; the same with tags and factors of HigherHRNet."""
    if not (shared / "data/coco").is_dir():
        pytest.skip(f"no COCO pictures in {shared / 'data/coco'}")
    data = {"root": shared / "data"}
    for part in ("train", "validation"):
        data |= {f"{part}_annotations": "coco/person_keypoints_pooled.json", f"{part}_images": "coco/images"}
    fields = [f"data.{key}={value}" for key, value in data.items()]
    fields += [f"name={name}", f"output={tmp_path}", *changes]
    assert main(["train", str(CONFIG), *fields]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(CONFIG), *fields, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["AP"] > 0.9, figures
