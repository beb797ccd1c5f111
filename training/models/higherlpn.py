"""HigherLPN: a small bottom-up network of our own, LPN's body under HigherHRNet's head.

Not a published network: LPN (Zhang, Tang and Wu 2019) gives the features, HigherHRNet (Cheng et al.
2020) the multi-resolution outputs and the grouping by tags; the head is thinner than HigherHRNet's, and
tags are points: a learnt offset is added to the pixel's own position, so that persons who stand apart
have different tags from the start, and training has to pull the joints of each together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.higher_head import HigherHead
from training.models.layers import init_weights
from training.models.lpn import LPN, LightweightBottleneck
from training.models.registry import register

__all__ = ["HigherLPN", "higherlpn50"]

TAG_UNIT = 24
"""Input pixels of a distance of 1 between tags."""
STRIDE = 4


class HigherLPN(nn.Module):
    """LPN without its final layer, a 1x1 projection, and a head of one deconvolution.

    Maps pictures (n, 3, h, w), sides divisible by 32, to two outputs: heatmaps, tags x and tags y
    (n, 3 joints, h/4, w/4), heatmaps (n, joints, h/2, w/2).
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], joints: int, attention: str | None, width: int
    ) -> None:
        super().__init__()
        self.joints = joints
        self.body = LPN(blocks, joints, attention, deconv_bias=False)
        del self.body.final_layer
        self.project = nn.Sequential(
            nn.Conv2d(256, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True)
        )
        self.head = HigherHead(
            2 * width,
            joints,
            lambda channels: LightweightBottleneck(channels, channels, 1, None),
            widths=(width,),
            blocks=2,
            tag_dimensions=2,
        )
        init_weights(self, "kaiming")

    def forward(self, x: Tensor) -> list[Tensor]:
        low, high = self.head(self.project(self.body.features(x)))
        heatmaps, tags_x, tags_y = low.split(self.joints, 1)
        columns = torch.arange(low.shape[3], dtype=torch.float32, device=low.device) * (STRIDE / TAG_UNIT)
        rows = torch.arange(low.shape[2], dtype=torch.float32, device=low.device) * (STRIDE / TAG_UNIT)
        return [torch.cat((heatmaps, tags_x + columns, tags_y + rows[:, None]), 1), high]


@register
def higherlpn50(joints: int = 17, attention: str | None = "gc", width: int = 32) -> HigherLPN:
    """HigherLPN-50, for CPUs and small GPUs."""
    return HigherLPN((3, 4, 6, 3), joints, attention, width)
