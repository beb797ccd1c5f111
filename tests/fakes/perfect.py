"""A network that knows the answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgepose.evaluation.people import People
from edgepose.spec import ModelSpec
from training.data.crops import Crops
from training.data.targets import gaussian_targets

__all__ = ["Perfect"]


class Perfect(nn.Module):
    """Gives the targets of people in their order, whatever it sees; for a mirrored batch likewise."""

    def __init__(self, people: People, spec: ModelSpec) -> None:
        super().__init__()
        size = (spec.input_size[0] // 4, spec.input_size[1] // 4)
        joints = torch.stack(
            [item["joints"] for item in Crops(people, spec.input_size, size, spec.coordinates)]
        )
        self.maps, _ = gaussian_targets(joints, torch.ones(joints.shape[:2]), size, 2.0, unbiased=True)
        mirrored = self.maps.flip(-1)[:, spec.skeleton.flip_permutation.copy()]
        if spec.coordinates == "legacy":  # what was at j is at w - j, one pixel to the right
            mirrored = mirrored.roll(1, -1)
        self.mirrored = mirrored
        self.seen: Tensor | None = None
        self.start = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.seen is not None and torch.equal(images.flip(-1), self.seen):
            maps, self.seen = self.mirrored, None
            return maps[self.start - len(images) : self.start]
        self.seen = images.clone()
        self.start += len(images)
        return self.maps[self.start - len(images) : self.start]
