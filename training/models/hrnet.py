"""HRNet (Sun, Xiao, Liu and Wang 2019, "Deep High-Resolution Representation Learning", arXiv 1902.09212)."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.layers import init_weights, make_stage, residual_downsample
from training.models.registry import register
from training.models.simplebaseline import Bottleneck

__all__ = ["BasicBlock", "HRNet", "HRNetBody", "hrnet_w32", "hrnet_w48"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016); keeps channels and size unless told otherwise."""

    expansion = 1

    def __init__(self, channels: int, width: int | None = None, stride: int = 1) -> None:
        super().__init__()
        width = channels if width is None else width
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = residual_downsample(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _conv3x3(channels: int, out_channels: int, stride: int, relu: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class HighResolutionModule(nn.Module):
    """Parallel branches, each of half the size and twice the width of the one before, and their fusion.

    Maps one tensor a branch, (n, width, h, w), (n, 2 width, h/2, w/2), ..., to the same shapes, or to
    the first of them where `outputs` is 1: every output is the sum over all branches, brought to its
    size (section 3, "repeated multi-scale fusion").
    """

    def __init__(self, width: int, branches: int, outputs: int) -> None:
        super().__init__()
        widths = [width << i for i in range(branches)]
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(4))) for c in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(branches))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def _path(widths: list[int], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            return nn.Sequential(
                nn.Conv2d(widths[source], widths[target], 1, bias=False),
                nn.BatchNorm2d(widths[target]),
                nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
            )
        halvings = [_conv3x3(widths[source], widths[source], 2) for _ in range(target - source - 1)]
        return nn.Sequential(*halvings, _conv3x3(widths[source], widths[target], 2, relu=False))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        inputs = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        outputs = []
        for paths in self.fuse_layers:
            first, *others = (path(x) for path, x in zip(paths, inputs, strict=True))
            for other in others:
                first = first + other  # in this order: sums of floats depend on it
            outputs.append(self.relu(first))
        return outputs


class HRNetBody(nn.Module):
    """HRNet up to its highest-resolution output: the backbone of HigherHRNet too.

    Args:
        width: channels of the highest resolution; each lower one has twice those of the one above.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(Bottleneck, 64, 64, 4, 1)
        # A transition keeps the branches that there are and makes one more from the lowest.
        self.transition1 = nn.ModuleList(
            [_conv3x3(256, width, 1), nn.Sequential(_conv3x3(256, 2 * width, 2))]
        )
        self.stage2 = self._stage(width, branches=2, modules=1)
        self.transition2 = self._transition(width, branches=2)
        self.stage3 = self._stage(width, branches=3, modules=4)
        self.transition3 = self._transition(width, branches=3)
        self.stage4 = self._stage(width, branches=4, modules=3, last=1)

    @staticmethod
    def _stage(width: int, branches: int, modules: int, last: int | None = None) -> nn.Sequential:
        outputs = [branches] * (modules - 1) + [last or branches]
        return nn.Sequential(*(HighResolutionModule(width, branches, count) for count in outputs))

    @staticmethod
    def _transition(width: int, branches: int) -> nn.ModuleList:
        lowest = width << (branches - 1)
        kept = [nn.Identity() for _ in range(branches)]
        return nn.ModuleList([*kept, nn.Sequential(_conv3x3(lowest, 2 * lowest, 2))])

    def features(self, x: Tensor) -> Tensor:
        """(n, width, h/4, w/4) of pictures (n, 3, h, w), sides divisible by 32."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        branches = self.stage2([path(x) for path in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])
        return self.stage4([*branches, self.transition3[-1](branches[-1])])[0]


class HRNet(HRNetBody):
    """HRNet for one person (section 3, figure 1); output stride 4.

    Maps pictures (n, 3, h, w), sides divisible by 32, to heatmaps (n, joints, h/4, w/4).
    State-dict keys and order equal those of the published checkpoints.
    """

    def __init__(self, width: int, joints: int) -> None:
        super().__init__(width)
        self.final_layer = nn.Conv2d(width, joints, 1)
        init_weights(self, "normal")

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(self.features(x))


@register
def hrnet_w32(joints: int = 17) -> HRNet:
    """HRNet-W32: 28.5 M parameters, 7.65 G multiply-accumulates at 256x192."""
    return HRNet(32, joints)


@register
def hrnet_w48(joints: int = 17) -> HRNet:
    """HRNet-W48: 63.6 M parameters, 15.7 G multiply-accumulates at 256x192."""
    return HRNet(48, joints)
