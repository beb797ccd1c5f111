"""LPN, the Lightweight Pose Network (Zhang, Tang and Wu 2019, arXiv 1911.10346)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.models.layers import (
    GlobalContext,
    SqueezeExcitation,
    init_weights,
    make_stage,
    residual_downsample,
    upsample_unit,
)
from training.models.registry import register

__all__ = ["LPN", "lpn50", "lpn101", "lpn152"]

_ATTENTION = {"gc": GlobalContext, "se": SqueezeExcitation, None: None}


class LightweightBottleneck(nn.Module):
    """1x1 convolution, depthwise 3x3, 1x1, attention, shortcut (section 3.1, figure 3); expansion 1."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, attention: type[nn.Module] | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = residual_downsample(channels, width, stride)
        self.att = attention(width) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.att is not None:
            y = self.att(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class LPN(nn.Module):
    """Residual backbone of lightweight bottlenecks and two group deconvolution units; output stride 4.

    Maps pictures (n, 3, h, w), sides divisible by 16, to heatmaps (n, joints, h/4, w/4).
    State-dict keys and order equal those of the published checkpoints.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        joints: int,
        attention: str | None = "gc",
        deconv_bias: bool = False,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if attention not in _ATTENTION:
            raise InvalidInputError(f"unknown attention; found {attention!r}; use 'gc', 'se' or None")
        if len(blocks) != 4 or min(blocks) < 1 or width < 1 / 64 or (64 * width) % 1:
            raise InvalidInputError(
                f"no such LPN; found blocks {list(blocks)}, width {width}; give four numbers from 1, and a "
                "multiple of 1/64"
            )
        kind = _ATTENTION[attention]
        w = int(64 * width)
        self.conv1 = nn.Conv2d(3, w, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = make_stage(LightweightBottleneck, w, w, blocks[0], 1, attention=kind)
        self.layer2 = make_stage(LightweightBottleneck, w, 2 * w, blocks[1], 2, attention=kind)
        self.layer3 = make_stage(LightweightBottleneck, 2 * w, 4 * w, blocks[2], 2, attention=kind)
        self.layer4 = make_stage(LightweightBottleneck, 4 * w, 8 * w, blocks[3], 1, attention=kind)
        units: list[nn.Module] = []
        out = 4 * w
        for channels in (8 * w, out):
            units += upsample_unit(channels, out, kernel=4, groups=math.gcd(channels, out), bias=deconv_bias)
            units += [nn.Conv2d(out, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.deconv_layers = nn.Sequential(*units)
        self.final_layer = nn.Conv2d(out, joints, 1)
        init_weights(self, "normal")

    def features(self, x: Tensor) -> Tensor:
        """All but the final layer: (n, 256 width, h/4, w/4)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.deconv_layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.features(x))


@register
def lpn50(
    joints: int = 17,
    attention: str | None = "gc",
    deconv_bias: bool = False,
    width: float = 1.0,
    blocks: Sequence[int] = (3, 4, 6, 3),
) -> LPN:
    """LPN-50: 2.91 M parameters, 1.07 G multiply-accumulates at 256x192.

    Args:
        joints: heatmaps.
        attention: ``"gc"``, ``"se"`` or None.
        deconv_bias: a bias in the group deconvolutions.
        width: factor of all channels, a multiple of 1/64; not published.
        blocks: of the four layers.
    """
    return LPN(blocks, joints, attention, deconv_bias, width)


@register
def lpn101(joints: int = 17, attention: str | None = "gc", deconv_bias: bool = False) -> LPN:
    """LPN-101: 5.35 M parameters, 1.50 G multiply-accumulates at 256x192."""
    return LPN((3, 4, 23, 3), joints, attention, deconv_bias)


@register
def lpn152(joints: int = 17, attention: str | None = "gc", deconv_bias: bool = False) -> LPN:
    """LPN-152: 7.38 M parameters, 1.94 G multiply-accumulates at 256x192."""
    return LPN((3, 8, 36, 3), joints, attention, deconv_bias)
