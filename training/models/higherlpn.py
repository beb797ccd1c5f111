"""HigherLPN: a small bottom-up network of our own, LPN's body under HigherHRNet's head.

Not a published network: LPN (Zhang, Tang and Wu 2019) gives the features, HigherHRNet (Cheng et al.
2020) the multi-resolution outputs and the tags; the head is thinner than HigherHRNet's.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.higher_head import HigherHead
from training.models.layers import init_weights
from training.models.lpn import LPN, LightweightBottleneck
from training.models.registry import register

__all__ = ["HigherLPN", "higherlpn50"]


class HigherLPN(nn.Module):
    """LPN without its final layer, a 1x1 projection, and a head of one deconvolution.

    Maps pictures (n, 3, h, w), sides divisible by 32, to two outputs: heatmaps and tags
    (n, 2 joints, h/4, w/4), heatmaps (n, joints, h/2, w/2).
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], joints: int, attention: str | None, width: int
    ) -> None:
        super().__init__()
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
        )
        init_weights(self, "kaiming")

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.head(self.project(self.body.features(x)))


@register
def higherlpn50(joints: int = 17, attention: str | None = "gc", width: int = 32) -> HigherLPN:
    """HigherLPN-50, for CPUs and small GPUs."""
    return HigherLPN((3, 4, 6, 3), joints, attention, width)
