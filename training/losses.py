"""Losses on heatmaps, tags and coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from edgepose.errors import InvalidInputError

__all__ = ["associative_embedding", "dsnt_loss", "heatmap_mse", "joints_mse", "joints_ohkm", "to_unit"]

EPSILON = 1e-24
"""Added to a probability before its logarithm is taken."""


def joints_mse(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Joint-weighted mean squared error of SimpleBaseline, HRNet, LPN and FPD (``JointsMSELoss``).

    For a joint, half the mean over batch and pixels of ``(w * predicted - w * target) ** 2``;
    the loss is the mean over the joints.

    Args:
        predicted, target: heatmaps (n, k, h, w).
        weights: (n, k), 0 for joints that do not count.
    """
    return 0.5 * ((predicted.float() - target) * weights[:, :, None, None]).square().mean()


def joints_ohkm(predicted: Tensor, target: Tensor, weights: Tensor, hard_joints: int = 8) -> Tensor:
    """`joints_mse` with online hard keypoint mining (``JointsOHKMMSELoss``; Chen et al. 2018, CPN).

    Of each person only the `hard_joints` joints with the largest error count.

    Args:
        predicted, target: heatmaps (n, k, h, w).
        weights: (n, k), 0 for joints that do not count; their error is 0.
        hard_joints: from 1 to k.

    Raises:
        InvalidInputError: there are fewer joints.
    """
    if not 1 <= hard_joints <= weights.shape[1]:
        raise InvalidInputError(
            f"cannot choose {hard_joints} hard joints; found {weights.shape[1]} joints; choose among them"
        )
    errors = 0.5 * ((predicted.float() - target) * weights[:, :, None, None]).square().mean((2, 3))
    return errors.topk(hard_joints, dim=1).values.mean()


def heatmap_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Masked mean squared error of bottom-up heatmaps (HigherHRNet, section 3.3).

    The mean over pictures, joints and pixels of ``mask * (predicted - target) ** 2``; pixels that are
    masked out still count in the mean.

    Args:
        predicted, target: heatmaps (n, k, h, w).
        mask: (n, h, w) or (n, k, h, w), 0 where nothing is learnt.
    """
    if mask.ndim == 3:
        mask = mask[:, None]
    return ((predicted.float() - target).square() * mask).mean()


def associative_embedding(tags: Tensor, joints: Tensor, kind: str = "exp") -> tuple[Tensor, Tensor]:
    """Grouping loss on tags (Newell, Huang and Deng 2017, as HigherHRNet trains it).

    Pull: the variance of a person's tags, its mean over the persons. Push: half the mean over ordered
    pairs of persons of ``exp(-d ** 2)`` ("exp") or ``max(0, 1 - d)`` ("max"), d being the distance
    of their mean tags; 0 for fewer than two persons. Persons without a valid joint do not count.

    Args:
        tags: (n, k, h, w), or (n, 1, h, w) of a network with one tag for all joints. Tags of d numbers
            have d times as many channels, all joints' first ones first; their variance is summed.
        joints: (n, p, k, 2) int64: index into a picture's flattened tags, and 1 where it is valid;
            see `training.data.targets.joint_indices`.
        kind: ``"exp"`` or ``"max"``.

    Returns:
        push and pull, each a mean over the pictures.

    Raises:
        InvalidInputError: the kind is unknown.
    """
    if kind not in ("exp", "max"):
        raise InvalidInputError(f"unknown grouping loss; found {kind!r}; give 'exp' or 'max'")
    index, valid = joints[..., 0], joints[..., 1].to(torch.float32)
    maps = index.shape[-1] if tags.shape[1] % index.shape[-1] == 0 else 1
    numbers = tags.float().unflatten(1, (-1, maps)).flatten(2)  # (n, d, maps h w)
    chosen = (index * joints[..., 1]).flatten(1)[:, None].expand(-1, numbers.shape[1], -1)
    values = numbers.gather(2, chosen).unflatten(2, index.shape[1:])  # (n, d, p, k)
    count = valid.sum(-1)
    mean = (values * valid[:, None]).sum(-1) / count.clamp(min=1)[:, None]
    squared = (values - mean[..., None]).square().sum(1)
    spread = (squared * valid).sum(-1) / count.clamp(min=1)
    present = (count > 0).to(torch.float32)
    persons = present.sum(-1)
    pull = spread.sum(-1) / persons.clamp(min=1)

    difference = mean[..., :, None] - mean[..., None, :]
    if kind == "exp":
        near = torch.exp(-difference.square().sum(1))
    else:
        near = torch.relu(1 - torch.linalg.vector_norm(difference, dim=1))
    pairs = present[:, :, None] * present[:, None, :]
    pairs = pairs * (1 - torch.eye(pairs.shape[-1], device=pairs.device))
    push = 0.5 * (near * pairs).sum((1, 2)) / (persons * (persons - 1)).clamp(min=1)
    return push.mean(), pull.mean()


def to_unit(pixels: Tensor, length: int | Tensor) -> Tensor:
    """Positions along an axis of `length` pixels, from -1 to 1 between its outer edges (DSNT)."""
    return (2 * pixels - (length - 1)) / length


def dsnt_loss(
    coords: Tensor, heatmaps: Tensor, target: Tensor, weights: Tensor, sigma: float = 1.0
) -> Tensor:
    """Loss of coordinates and their heatmaps of DSNT (Nibali et al. 2018, arXiv 1801.07372) and MobilePose.

    For a joint, the Euclidean distance of the coordinates and the Jensen-Shannon divergence of the heatmap
    and a normalised Gaussian about the target; the loss is the weighted mean over batch and joints.

    Args:
        coords: (n, k, 2) as (x, y), in the units of `to_unit`.
        heatmaps: (n, k, h, w), each summing up to 1.
        target: (n, k, 2), as `coords`.
        weights: (n, k), 0 for joints that do not count.
        sigma: standard deviation of the Gaussian in pixels.
    """
    heatmaps = heatmaps.float()
    profiles = []
    for axis, length in enumerate((heatmaps.shape[3], heatmaps.shape[2])):
        positions = to_unit(torch.arange(length, device=heatmaps.device), length)
        offset = (positions - target[..., axis, None]) * (length / 2)
        profiles.append(torch.exp(-offset.square() / (2 * sigma**2)))
    gaussian = profiles[1][..., :, None] * profiles[0][..., None, :]
    gaussian = gaussian / (gaussian.sum((2, 3), keepdim=True) + EPSILON)
    middle = (heatmaps + gaussian) / 2
    divergence = (_divergence(heatmaps, middle) + _divergence(gaussian, middle)) / 2
    distance = torch.linalg.vector_norm(coords.float() - target, dim=-1)
    return ((distance + divergence) * weights).sum() / weights.sum().clamp(min=1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of maps (n, k, h, w) of probabilities, (n, k)."""
    return (p * ((p + EPSILON).log() - (q + EPSILON).log())).sum((2, 3))
