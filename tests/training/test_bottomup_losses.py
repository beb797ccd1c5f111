"""Targets and losses of bottom-up training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepose.errors import InvalidInputError
from training.data.targets import bottomup_targets, joint_indices
from training.losses import associative_embedding, heatmap_mse

PERSONS = [0, 1, 2, 5]


@pytest.fixture(scope="module")
def official(shared: Path) -> tuple[dict[int, dict[str, Any]], Any]:
    """Values by number of persons, and the arrays."""
    arrays = np.load(shared / "specs/parity/losses.npz")
    entries = json.loads(str(arrays["meta"]))
    return {e["persons"]: e for e in entries if e["name"] == "higherhrnet"}, arrays


@pytest.mark.parametrize("persons", PERSONS)
@pytest.mark.parametrize(("stage", "side"), [(0, 24), (1, 48)])
def test_official_targets(official: tuple[Any, Any], persons: int, stage: int, side: int) -> None:
    _, arrays = official
    keypoints = arrays[f"hh{persons}_keypoints"]
    joints, visible = keypoints[..., :2] * (side / 24), keypoints[..., 2]
    maps = bottomup_targets(joints, visible, (side, side))
    np.testing.assert_allclose(maps, arrays[f"hh{persons}_target{stage}"], atol=1e-6)
    if stage == 0:
        found = joint_indices(joints, visible, (side, side), 30)
        np.testing.assert_array_equal(found, arrays[f"hh{persons}_joints0"])


@pytest.mark.parametrize("persons", PERSONS)
@pytest.mark.parametrize("kind", ["exp", "max"])
def test_official_losses(official: tuple[Any, Any], persons: int, kind: str) -> None:
    entries, arrays = official
    entry = entries[persons]

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"hh{persons}_{name}"])

    low, high = tensor("pred0").requires_grad_(), tensor("pred1")
    for stage, predicted in enumerate((low[:, :6], high)):
        loss = heatmap_mse(predicted, tensor(f"target{stage}")[None], tensor(f"mask{stage}"))
        assert loss.item() == pytest.approx(entry["heatmap_loss"][stage], rel=1e-5)
    joints = tensor("joints0").to(torch.int64)[None]
    push, pull = associative_embedding(low[:, 6:], joints, kind)
    assert push.item() == pytest.approx(entry[kind]["push"], rel=1e-5)
    assert pull.item() == pytest.approx(entry[kind]["pull"], rel=1e-5)
    gradient = f"hh{persons}_grad_pred0"
    if kind == "exp" and gradient in arrays:
        (push + pull).backward()
        np.testing.assert_allclose(low.grad, arrays[gradient], rtol=1e-5, atol=1e-8)


def test_a_batch_is_the_mean_of_its_pictures() -> None:
    rng = np.random.default_rng(0)
    joints = rng.uniform(-3, 15, (3, 4, 5, 2))
    visible = (rng.random((3, 4, 5)) > 0.4).astype(np.float32)
    rows = torch.from_numpy(
        np.stack([joint_indices(*x, (12, 12), 7) for x in zip(joints, visible, strict=True)])
    )
    tags = torch.from_numpy(rng.standard_normal((3, 5, 12, 12)))
    whole = torch.stack(associative_embedding(tags, rows, "max"))
    single = torch.stack(
        [torch.stack(associative_embedding(tags[i : i + 1], rows[i : i + 1], "max")) for i in range(3)]
    )
    torch.testing.assert_close(whole, single.mean(0))
    order = torch.randperm(7)
    torch.testing.assert_close(torch.stack(associative_embedding(tags, rows[:, order], "max")), whole)

    predicted, target = torch.rand(2, 3, 5, 5), torch.rand(2, 3, 5, 5)
    mask = (torch.rand(2, 5, 5) > 0.5).float()
    expected = sum(((predicted[i] - target[i]) ** 2 * mask[i]).mean() for i in range(2))
    torch.testing.assert_close(heatmap_mse(predicted, target, mask), expected / 2)
    per_joint = mask[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(heatmap_mse(predicted, target, per_joint), expected / 2)


def test_one_tag_for_all_joints() -> None:
    joints = np.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [9.0, 1.0]]])
    rows = joint_indices(joints, np.ones((2, 2)), (4, 4), 3, tag_per_joint=False)
    assert rows.tolist() == [[[9, 1], [3, 1]], [[0, 1], [0, 0]], [[0, 0], [0, 0]]]
    tags = torch.arange(16.0).reshape(1, 1, 4, 4) / 10
    push, pull = associative_embedding(tags, torch.from_numpy(rows)[None])
    assert pull.item() == pytest.approx(0.3**2 / 2)  # tags 0.9 and 0.3; the other has one joint
    assert push.item() == pytest.approx(0.5 * np.exp(-(0.6**2)))


@pytest.mark.parametrize("kind", ["exp", "max"])
def test_tags_of_two_numbers(kind: str) -> None:
    rng = np.random.default_rng(1)
    joints, visible = rng.uniform(0, 12, (4, 5, 2)), np.ones((4, 5))
    rows = torch.from_numpy(joint_indices(joints, visible, (12, 12), 4))[None]
    plane = torch.from_numpy(rng.standard_normal((1, 5, 12, 12)))
    push, pull = associative_embedding(plane, rows, kind)
    for still in (
        torch.cat((plane, torch.zeros_like(plane)), 1),
        torch.cat((torch.ones_like(plane), plane), 1),
    ):
        torch.testing.assert_close(associative_embedding(still, rows, kind), (push, pull))
    turned = torch.cat((0.6 * plane, 0.8 * plane), 1)  # the same distances, along another direction
    torch.testing.assert_close(associative_embedding(turned, rows, kind), (push, pull))
    both = torch.cat((plane, torch.from_numpy(rng.standard_normal(plane.shape))), 1).requires_grad_()
    apart, spread = associative_embedding(both, rows, kind)
    assert spread > pull
    assert apart < push
    (apart + spread).backward()
    assert both.grad is not None
    assert torch.isfinite(both.grad).all()


def test_unbiased_targets_keep_the_exact_position() -> None:
    joints = np.array([[[6.9, 5.25]]])
    maps = bottomup_targets(joints, np.ones((1, 1)), (12, 16), 1.5, unbiased=True)[0]
    rows, columns = np.mgrid[:12, :16]
    expected = np.exp(-((columns - 6.4) ** 2 + (rows - 4.75) ** 2) / (2 * 1.5**2))
    shown = maps > 0
    assert shown.sum() == 11 * 11
    np.testing.assert_allclose(maps[shown], expected[shown], rtol=1e-5)


def test_targets_with_a_deviation_for_each_person() -> None:
    joints = np.array([[[6.9, 5.2]], [[20.0, 5.0]]])
    maps = bottomup_targets(joints, np.ones((2, 1)), (12, 32), np.array([1.0, 2.0]))
    assert maps[0, 5, 6] == 1
    assert maps[0, 5, 8] == pytest.approx(np.exp(-2.0))
    assert maps[0, 5, 22] == pytest.approx(np.exp(-0.5))
    assert (maps[0, 5, :20] > 0).sum() == 9 + 7 - 0  # 2..10 and 13..19


def test_refusals() -> None:
    with pytest.raises(InvalidInputError, match="found 3 for 2 rows"):
        joint_indices(np.zeros((3, 2, 2)), np.ones((3, 2)), (4, 4), 2)
    with pytest.raises(InvalidInputError, match="'huber'"):
        associative_embedding(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2, dtype=torch.int64), "huber")
