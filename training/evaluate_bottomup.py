"""Poses and AP of a bottom-up network, through the runtime's own pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from edgepose import kernels
from edgepose.evaluation.ap import set_ap
from edgepose.evaluation.coco import PictureSet
from edgepose.pipeline.bottomup import BottomUp, split_outputs
from edgepose.pipeline.poses import Floats, Poses
from edgepose.spec import ModelSpec

__all__ = ["evaluate_pictures", "predict_pictures"]


def predict_pictures(
    network: nn.Module,
    spec: ModelSpec,
    images: Iterable[NDArray[np.uint8]],
    *,
    flip_test: bool = False,
    scales: Sequence[float] = (1.0,),
    refine: bool | None = None,
    device: torch.device | str = "cpu",
) -> list[Poses]:
    """All persons of each BGR picture. The network is left in evaluation mode.

    Args:
        network: its outputs in HigherHRNet's layout, see `split_outputs`.
        spec: of a bottom-up model.
        images: (h, w, 3) uint8, taken one by one.
        flip_test: average with the mirrored picture.
        scales: of a multi-scale test.
        refine: fill missing joints; None: as the spec's grouping says.
        device: where the network is.
    """
    network.eval()

    @torch.no_grad()
    def run(batch: Floats) -> dict[str, Floats]:
        pictures = torch.from_numpy(batch).to(device).contiguous(memory_format=torch.channels_last)
        outputs = [output.float().cpu().contiguous().numpy() for output in network(pictures)]
        return split_outputs(outputs, len(spec.skeleton))

    pipeline = BottomUp(run, spec, kernels.get(), flip_test=flip_test, scales=scales, refine=refine)
    return [pipeline([image])[0][0] for image in tqdm(images, leave=False, disable=None)]


def evaluate_pictures(
    network: nn.Module,
    spec: ModelSpec,
    pictures: PictureSet,
    *,
    flip_test: bool = False,
    scales: Sequence[float] = (1.0,),
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """AP and its companions on annotated pictures, from 0 to 1; see `set_ap`."""
    images = (picture.image() for picture in pictures.pictures)
    found = predict_pictures(network, spec, images, flip_test=flip_test, scales=scales, device=device)
    return set_ap(pictures, found)
