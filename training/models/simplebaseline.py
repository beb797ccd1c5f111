"""SimpleBaseline (Xiao, Wu and Wei 2018, "Simple Baselines for Human Pose Estimation and Tracking")."""

from __future__ import annotations

from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.models.layers import init_weights, make_stage, residual_downsample, upsample_unit
from training.models.registry import register

__all__ = ["SimpleBaseline", "simplebaseline50", "simplebaseline101", "simplebaseline152"]


class Bottleneck(nn.Module):
    """ResNet bottleneck; the stride sits on the 3x3 convolution, or on the first 1x1 (``caffe``)."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, caffe: bool = False) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, stride if caffe else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1 if caffe else stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = residual_downsample(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class SimpleBaseline(nn.Module):
    """ResNet and three deconvolutions (section 2, figure 1); output stride 4.

    Maps pictures (n, 3, h, w), sides divisible by 32, to heatmaps (n, joints, h/4, w/4).
    State-dict keys and order equal those of the published checkpoints.
    """

    def __init__(self, blocks: tuple[int, int, int, int], joints: int, style: str) -> None:
        super().__init__()
        if style not in ("pytorch", "caffe"):
            raise InvalidInputError(f"unknown style; found {style!r}; use 'pytorch' or 'caffe'")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
            stride = 1 if i == 1 else 2
            stage = make_stage(Bottleneck, channels, width, count, stride, caffe=style == "caffe")
            setattr(self, f"layer{i}", stage)
            channels = width * Bottleneck.expansion
        units: list[nn.Module] = []
        for _ in range(3):
            units += upsample_unit(channels, 256, kernel=4, groups=1, bias=False)
            channels = 256
        self.deconv_layers = nn.Sequential(*units)
        self.final_layer = nn.Conv2d(256, joints, 1)
        init_weights(self, "normal")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.final_layer(self.deconv_layers(x))


@register
def simplebaseline50(joints: int = 17, style: str = "pytorch") -> SimpleBaseline:
    """SimpleBaseline on ResNet-50: 34.0 M parameters, 5.43 G multiply-accumulates at 256x192."""
    return SimpleBaseline((3, 4, 6, 3), joints, style)


@register
def simplebaseline101(joints: int = 17, style: str = "pytorch") -> SimpleBaseline:
    """SimpleBaseline on ResNet-101: 53.0 M parameters, 9.06 G multiply-accumulates at 256x192."""
    return SimpleBaseline((3, 4, 23, 3), joints, style)


@register
def simplebaseline152(joints: int = 17, style: str = "pytorch") -> SimpleBaseline:
    """SimpleBaseline on ResNet-152: 68.6 M parameters, 12.70 G multiply-accumulates at 256x192."""
    return SimpleBaseline((3, 8, 36, 3), joints, style)
