"""Online Knowledge Distillation for Human Pose (Li et al. 2021, arXiv 2108.02092)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from edgepose.errors import ModelFormatError
from training.checkpoints import read_checkpoint
from training.config import DistillConfig, TrainConfig
from training.losses import joints_mse
from training.models import create
from training.models.okdhp import Branched

__all__ = ["branch_of", "deployable", "okdhp_loss", "pixel_kl", "ramp_up", "student_config"]


def pixel_kl(predicted: Tensor, ensemble: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of a joint's map, as a distribution over pixels, from the ensemble's.

    Both maps are multiplied by the joint's weight and turned into distributions by a softmax over all
    pixels; the divergence is summed over pixels and joints and divided by the number of pictures and of
    pixels (section 3.3, as released). A temperature divides the maps and its square multiplies the result,
    which keeps the gradient's size.

    Args:
        predicted, ensemble: heatmaps (n, k, h, w); the gradient reaches both.
        weights: (n, k), 0 for joints that do not count, whose divergence is 0.
    """
    other = _log_probabilities(ensemble, weights, temperature)
    return _divergence(_log_probabilities(predicted, weights, temperature), other) * temperature**2


def _log_probabilities(maps: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Logarithm of weighted heatmaps as distributions over pixels, (n, k, h w)."""
    return log_softmax(maps.float().flatten(2) * (weights[:, :, None] / temperature), 2)


def _divergence(own: Tensor, other: Tensor) -> Tensor:
    """Of distributions given by their logarithms, (n, k, h w), a picture and a pixel."""
    return (other.exp() * (other - own)).sum() / (own.shape[0] * own.shape[2])


def ramp_up(epoch: int, length: int) -> float:
    """Share of the divergence's weight in an epoch, counted from 0: from 0.0067 up to 1 at `length`.

    ``exp(-5 * (1 - epoch / length) ** 2)`` (Laine and Aila 2017); 1 for a length of 0.
    """
    if length == 0:
        return 1.0
    return math.exp(-5 * (1 - min(max(epoch, 0), length) / length) ** 2)


def okdhp_loss(
    outputs: Sequence[Tensor],
    ensemble: Tensor,
    target: Tensor,
    weights: Tensor,
    *,
    kd_weight: float = 2.0,
    ensemble_weight: float = 1.0,
    temperature: float = 1.0,
    detach: bool = False,
) -> Tensor:
    """Error of all outputs, of the ensemble, and the divergence of all outputs from the ensemble.

    Args:
        outputs: heatmaps (n, k, h, w) of all stacks, shared ones included.
        ensemble: heatmaps (n, k, h, w).
        target: heatmaps (n, k, h, w) of the annotation.
        weights: (n, k), 0 for joints that are not labelled.
        kd_weight: weight of the divergence, multiplied by `ramp_up` already; released: 2 x ramp-up.
        ensemble_weight: weight of the ensemble's error; released: 1.
        temperature: see `pixel_kl`.
        detach: the divergence does not draw the ensemble to the outputs. Released: it does.
    """
    total = ensemble_weight * joints_mse(ensemble, target, weights)
    for output in outputs:
        total = total + joints_mse(output, target, weights)
    if kd_weight > 0:
        other = _log_probabilities(ensemble.detach() if detach else ensemble, weights, temperature)
        for output in outputs:
            own = _log_probabilities(output, weights, temperature)
            total = total + kd_weight * temperature**2 * _divergence(own, other)
    return total


def student_config(config: TrainConfig, network: Branched, branch: int) -> TrainConfig:
    """Configuration of the network that a branch of a trained one makes."""
    options = {**network.students[branch], "joints": config.options["joints"]}
    return replace(config, model=network.base, options=options, distill=DistillConfig())


def deployable(config: TrainConfig, weights: str | PathLike[str] | None = None) -> tuple[TrainConfig, Path]:
    """Configuration and weights of the student that an OKDHP run has made.

    Args:
        config: of the run.
        weights: a ``student.pt``; None: the run's own.

    Raises:
        ModelNotFoundError: the run has none yet.
        ModelFormatError: the file is not such a student.
    """
    path = Path(weights or config.folder / "student.pt")
    branch = branch_of(path)
    if branch is None:
        raise ModelFormatError(f"no student in {path}; found no 'branch'; train the configuration anew")
    with torch.device("meta"):
        network = create(config.model, **config.options)
    assert isinstance(network, Branched)
    return student_config(config, network, branch), path


def branch_of(path: str | PathLike[str]) -> int | None:
    """Number of the branch that a checkpoint's student was, from 0; None where it is no ``student.pt``."""
    content = read_checkpoint(path)
    return content.get("branch") if isinstance(content, dict) else None
