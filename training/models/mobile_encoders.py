"""The four light backbones of MobilePose, without their classifiers.

ResNet-18 (He et al. 2016), MobileNetV2 (Sandler et al. 2018), ShuffleNetV2 (Ma et al. 2018), all of width 1,
and SqueezeNet 1.1 (Iandola et al. 2016). State-dict keys and their order equal those of the published
MobilePose checkpoints, from the number of a layer on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.hrnet import BasicBlock
from training.models.layers import make_stage

__all__ = ["ENCODERS", "mobilenetv2", "resnet18", "shufflenetv2", "squeezenet"]


def _unit(
    channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> list[nn.Module]:
    """Convolution without bias that keeps the size but for its stride, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return layers if activation is None else [*layers, activation(inplace=True)]


def resnet18() -> nn.Sequential:
    """ResNet-18: pictures (n, 3, h, w) to (n, 512, h/32, w/32)."""
    layers = [*_unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width in (64, 128, 256, 512):
        layers.append(make_stage(BasicBlock, channels, width, 2, 1 if width == 64 else 2))
        channels = width
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1; a shortcut where the shape stays (MobileNetV2, section 3)."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        expand = [] if expansion == 1 else _unit(channels, width, activation=nn.ReLU6)
        self.conv = nn.Sequential(
            *expand,
            *_unit(width, width, 3, stride, groups=width, activation=nn.ReLU6),
            *_unit(width, out_channels, activation=None),
        )
        self.shortcut = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def mobilenetv2() -> nn.Sequential:
    """MobileNetV2: pictures (n, 3, h, w) to (n, 1280, h/32, w/32)."""
    layers: list[nn.Module] = [nn.Sequential(*_unit(3, 32, 3, 2, activation=nn.ReLU6))]
    channels = 32
    for expansion, width, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(count):
            layers.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion))
            channels = width
    layers.append(nn.Sequential(*_unit(channels, 1280, activation=nn.ReLU6)))
    return nn.Sequential(nn.Sequential(*layers))


class ShuffleUnit(nn.Module):
    """Two branches whose channels are shuffled together (ShuffleNetV2, figure 3c, with stride 2 figure 3d).

    With stride 1 the first half of the channels passes unchanged, in place of the first branch.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.split = stride == 1
        if not self.split:
            self.banch1 = nn.Sequential(
                *_unit(channels, channels, 3, stride, groups=channels, activation=None),
                *_unit(channels, half),
            )
        self.banch2 = nn.Sequential(
            *_unit(half if self.split else channels, half),
            *_unit(half, half, 3, stride, groups=half, activation=None),
            *_unit(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            first, second = x.split(x.shape[1] // 2, 1)
        else:
            first, second = self.banch1(x), x
        return _shuffle(torch.cat((first, self.banch2(second)), 1))


def _shuffle(x: Tensor) -> Tensor:
    """Channels of the two halves of (n, c, h, w) in turn."""
    channels, height, width = map(
        int, x.shape[1:]
    )  # plain numbers, which the exported graph need not compute
    pairs = x.reshape(-1, 2, channels // 2, height * width).transpose(1, 2)
    return pairs.reshape(-1, channels, height, width)


def shufflenetv2() -> nn.Sequential:
    """ShuffleNetV2: pictures (n, 3, h, w) to (n, 1024, h/32, w/32)."""
    units = []
    channels = 24
    for width, count in ((116, 4), (232, 8), (464, 4)):
        for i in range(count):
            units.append(ShuffleUnit(channels, width, 2 if i == 0 else 1))
            channels = width
    return nn.Sequential(
        nn.Sequential(*_unit(3, 24, 3, 2)),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(*units),
        nn.Sequential(*_unit(channels, 1024)),
    )


class Fire(nn.Module):
    """1x1 convolution, then a 1x1 and a 3x3 one side by side (SqueezeNet, section 3.2)."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return self.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


def squeezenet() -> nn.Sequential:
    """SqueezeNet 1.1: pictures (n, 3, h, w) to (n, 512, (h-1)/16, (w-1)/16), rounded down.

    Its first convolution pads nothing: sides of 224 become 13, those of 225 become 14.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(inplace=True)]
    channels = 64
    for stage in (((16, 64),) * 2, ((32, 128),) * 2, ((48, 192), (48, 192), (64, 256), (64, 256))):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for squeezed, expanded in stage:
            layers.append(Fire(channels, squeezed, expanded))
            channels = 2 * expanded
    return nn.Sequential(*layers)


ENCODERS = {
    "resnet18": (resnet18, 512),
    "mobilenetv2": (mobilenetv2, 1280),
    "shufflenetv2": (shufflenetv2, 1024),
    "squeezenet": (squeezenet, 512),
}
"""By backbone: what builds it, and how many channels it has in the end."""
