"""Losses and target heatmaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepose.kernels import reference
from training.data.targets import gaussian_targets
from training.losses import dsnt_loss, joints_mse
from training.models.mobilepose import locate


@pytest.mark.parametrize("weighted", [True, False])
def test_joints_mse_equals_the_official_one(shared: Path, weighted: bool) -> None:
    arrays = np.load(shared / "specs/parity/losses.npz")
    entries = json.loads(str(arrays["meta"]))
    expected = next(e for e in entries if e["name"] == "joints_mse" and e["use_target_weight"] == weighted)
    predicted = torch.from_numpy(arrays["pred"]).requires_grad_()
    weights = torch.from_numpy(arrays["target_weight"])[..., 0]
    loss = joints_mse(
        predicted, torch.from_numpy(arrays["target"]), weights if weighted else torch.ones(3, 5)
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected["value"], rel=1e-5)
    np.testing.assert_allclose(predicted.grad, arrays[expected["grads"][0]], rtol=1e-5, atol=1e-9)


def test_joints_mse_of_one_person() -> None:
    predicted = torch.tensor([[[[1.0, 0.0]], [[5.0, 5.0]]]])
    loss = joints_mse(predicted, torch.zeros(1, 2, 1, 2), torch.tensor([[1.0, 0.0]]))
    assert float(loss) == pytest.approx(0.5 * (0.5 + 0) / 2)


def test_dsnt_loss_equals_the_official_one(shared: Path) -> None:
    arrays = np.load(shared / "specs/parity/losses.npz")
    expected = next(e for e in json.loads(str(arrays["meta"])) if e["name"] == "dsnt")
    raw = torch.from_numpy(arrays["dsnt_logits"]).requires_grad_()
    target = torch.from_numpy(arrays["dsnt_target"])
    coords, heatmaps, _ = locate(raw)
    np.testing.assert_allclose(coords.detach(), arrays["dsnt_coords"], atol=1e-6)
    loss = dsnt_loss(coords, heatmaps, target, torch.ones(2, 4))
    loss.backward()
    assert loss.item() == pytest.approx(expected["value"], rel=1e-5)
    np.testing.assert_allclose(raw.grad, arrays["dsnt_grad"], rtol=1e-5, atol=1e-7)
    divergence = dsnt_loss(target, heatmaps, target, torch.ones(2, 4))
    assert divergence.item() == pytest.approx(expected["js"], rel=1e-5)
    assert (loss - divergence).item() == pytest.approx(expected["euclidean"], rel=1e-5)


def test_dsnt_loss_is_a_weighted_mean() -> None:
    torch.manual_seed(0)
    coords, heatmaps, _ = locate(torch.randn(2, 3, 6, 8))
    target = torch.rand(2, 3, 2) - 0.5
    weights = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])

    def alone(i: int, j: int) -> torch.Tensor:
        one = (slice(i, i + 1), slice(j, j + 1))
        return dsnt_loss(coords[one], heatmaps[one], target[one], torch.ones(1, 1))

    expected = (alone(0, 0) + alone(0, 2) + alone(1, 1)) / 3
    torch.testing.assert_close(dsnt_loss(coords, heatmaps, target, weights), expected)
    assert dsnt_loss(coords, heatmaps, coords, weights, sigma=3) < dsnt_loss(
        coords, heatmaps, coords, weights
    )


def test_dsnt_loss_of_a_hit_has_a_gradient() -> None:
    """The distance of two equal points, where its slope has no direction, is no NaN."""
    raw = torch.zeros(1, 1, 5, 5, requires_grad=True)
    coords, heatmaps, _ = locate(raw)
    dsnt_loss(coords, heatmaps, torch.zeros(1, 1, 2), torch.ones(1, 1)).backward()
    assert torch.isfinite(raw.grad).all()
    assert raw.grad[0, 0, 2, 2] < 0


@pytest.mark.parametrize("case", [0, 1])
def test_official_targets(decoding: tuple[dict[str, Any], Any], case: int) -> None:
    meta, arrays = decoding
    entry = meta["targets"][case]
    (width, height), (map_width, map_height) = entry["size"], entry["heatmap"]
    stride = torch.tensor([width / map_width, height / map_height], dtype=torch.float64)
    joints = torch.tensor(entry["joints"], dtype=torch.float64)[None, :, :2] / stride
    visible = torch.tensor(entry["vis"])[None, :, 0]
    found, weights = gaussian_targets(
        joints, visible, (map_height, map_width), entry["sigma"], unbiased=False
    )
    np.testing.assert_allclose(found[0], arrays[entry["target"]["array"]], atol=1e-6)
    assert weights[0].tolist() == [row[0] for row in entry["weight"]]


@pytest.mark.parametrize("sigma", [1.5, 2.0])
def test_unbiased_targets_decode_to_where_they_came_from(sigma: float) -> None:
    rng = np.random.default_rng(0)
    joints = rng.uniform([8, 8], [39, 55], (5, 7, 2)).astype(np.float32)
    maps, _ = gaussian_targets(torch.from_numpy(joints), torch.ones(5, 7), (64, 48), sigma, unbiased=True)
    taylor, scores = reference.argmax_offset(maps.numpy(), "taylor")
    assert np.abs(taylor - joints).max() < 0.02
    assert scores.min() > 0.85
    soft, _, _ = reference.soft_argmax(maps.numpy(), 15.0)
    assert np.abs(soft - joints).max() < 0.15
    # At 160 a soft arg-max of so sharp a peak is its nearest pixel, which is where official targets sit.
    rounded, _ = gaussian_targets(torch.from_numpy(joints), torch.ones(5, 7), (64, 48), sigma, unbiased=False)
    for heatmaps in (maps, rounded):
        coarse, _, _ = reference.soft_argmax(heatmaps.numpy(), 160.0)
        assert np.abs(coarse - joints).max() > 0.35


def test_unbiased_target_is_a_gaussian_about_the_exact_position() -> None:
    joints = torch.tensor([[[5.3, 2.6]]])
    maps, _ = gaussian_targets(joints, torch.ones(1, 1), (8, 12), 1.5, unbiased=True)
    y, x = np.mgrid[:8, :12]
    expected = np.exp(-((x - 5.3) ** 2 + (y - 2.6) ** 2) / (2 * 1.5**2))
    np.testing.assert_allclose(maps[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
def test_joints_outside_and_unlabelled_do_not_count(unbiased: bool) -> None:
    joints = torch.tensor([[[-8.0, 5.0], [-3.0, 5.0], [20.0, 5.0], [6.0, 6.0], [5.0, 30.0], [13.0, 13.0]]])
    weights = torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0, 1.0]])
    maps, found = gaussian_targets(joints, weights, (12, 12), 1.0, unbiased=unbiased)
    assert found.tolist() == [[0, 1, 0, 0, 0, 1]]
    assert not maps[0, [0, 2, 3, 4]].any()
    assert maps[0, 1].argmax() == 5 * 12  # its window reaches the border
    assert maps[0, 5].argmax() == 11 * 12 + 11
