"""Accuracy of a network on annotated people, through the runtime's own decoding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edgepose import kernels
from edgepose.evaluation.people import People
from edgepose.evaluation.scorers import Scorer
from edgepose.pipeline.geometry import apply_affine, crop_affine
from edgepose.spec import ModelSpec
from training.data.crops import Crops
from training.data.loading import single_thread
from training.models.outputs import final_heatmaps

__all__ = ["decode", "evaluate", "normalizer", "predict"]


def normalizer(spec: ModelSpec, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Function from uint8 BGR crops (n, h, w, 3) to the network's input (n, 3, h, w)."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))

    def normalize(crops: Tensor) -> Tensor:
        crops = crops.flip(-1) if spec.color == "rgb" else crops
        return (crops.permute(0, 3, 1, 2).float() / 255 - mean) / std

    return normalize


@torch.no_grad()
def predict(
    network: nn.Module,
    spec: ModelSpec,
    people: People,
    *,
    flip_test: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints (n, k, 2) in pixels of each person's picture, and scores (n, k).

    The network is left in evaluation mode. Each person's region is used as it is: padding is part of it.

    Args:
        network: on the device.
        spec: how its input and output are to be read.
        people: whose joints are not looked at.
        flip_test: average with the mirrored crops.
        batch_size: crops at a time.
        workers: processes that read pictures.
        device: where the network is.
    """
    device = torch.device(device)
    heatmap_size = (spec.input_size[0] // 4, spec.input_size[1] // 4)
    crops = Crops(people, spec.input_size, heatmap_size, spec.coordinates)
    normalize = normalizer(spec, device)
    network.eval()
    coords, scores = [], []
    for batch in DataLoader(crops, batch_size, num_workers=workers, worker_init_fn=single_thread):
        images = normalize(batch["image"].to(device)).contiguous(memory_format=torch.channels_last)
        maps = _maps(network, images)
        if flip_test:
            mirrored = _maps(network, images.flip(-1))
            maps = kernels.flip_average(
                maps, mirrored, spec.skeleton.flip_permutation, spec.coordinates == "legacy"
            )
        found = decode(maps, spec)
        coords.append(found[0])
        scores.append(found[1])
    matrices = crop_affine(crops.centers, crops.extents, heatmap_size, spec.coordinates)
    joints = apply_affine(matrices, np.concatenate(coords)) - spec.decoder.bias
    return joints.astype(np.float32), np.concatenate(scores)


def _maps(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    return final_heatmaps(network, network(images)).float().cpu().numpy()


def decode(maps: NDArray[np.float32], spec: ModelSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints (n, k, 2) in pixels of the heatmaps (n, k, h, w), and scores (n, k), by the model's decoder."""
    if spec.decoder.name == "argmax":
        return kernels.argmax_offset(maps, refine=spec.decoder.refine)
    coords, scores, _ = kernels.soft_argmax(maps, beta=spec.decoder.beta)
    if spec.decoder.refine == "quarter":
        coords = kernels.quarter_offset(maps, coords)
    return coords, scores


def evaluate(
    network: nn.Module,
    spec: ModelSpec,
    scorer: Scorer,
    *,
    flip_test: bool = False,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The scorer's table of figures of a network; see `predict`."""
    found = predict(network, spec, scorer.people, flip_test=flip_test, workers=workers, device=device)
    return scorer.table(*found)
