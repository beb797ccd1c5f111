"""Stacked hourglass (Newell, Yang and Deng 2016) in the form of FPD and OKDHP: one 1x1 head per stack."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from edgepose.errors import InvalidInputError
from training.models.registry import register

__all__ = ["Hourglass", "HourglassModule", "Stem", "hourglass"]


class Residual(nn.Module):
    """Pre-activation bottleneck of expansion 2; its projection shortcut has no norm.

    ``mobile`` makes the 3x3 convolution depthwise, as FPD's unofficial student has it.
    """

    def __init__(self, channels: int, width: int, mobile: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width if mobile else 1)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 1)
        self.relu = nn.ReLU(inplace=True)
        same = channels == 2 * width
        self.downsample = None if same else nn.Sequential(nn.Conv2d(channels, 2 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        y = self.conv3(self.relu(self.bn3(y)))
        return y + (x if self.downsample is None else self.downsample(x))


def residuals(channels: int, width: int, blocks: int, mobile: bool) -> nn.Sequential:
    """Residual units in a row, the first of which has ``channels`` in, all of them twice ``width`` out."""
    units = [Residual(channels, width, mobile)]
    units += [Residual(2 * width, width, mobile) for _ in range(blocks - 1)]
    return nn.Sequential(*units)


class HourglassModule(nn.Module):
    """Residual units at falling and rising resolution, with a shortcut at each (section 3.1).

    Maps (n, channels, h, w) to the same shape, h and w divisible by ``2 ** depth``. ``hg[0]`` is the
    innermost level, the only one with a fourth part.
    """

    def __init__(self, channels: int, blocks: int, mobile: bool, depth: int) -> None:
        super().__init__()
        self.hg = nn.ModuleList(
            nn.ModuleList(
                residuals(channels, channels // 2, blocks, mobile) for _ in range(4 if level == 0 else 3)
            )
            for level in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._level(len(self.hg) - 1, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        parts = self.hg[level]
        up = parts[0](x)
        low = parts[1](max_pool2d(x, 2))
        low = parts[3](low) if level == 0 else self._level(level - 1, low)
        return up + interpolate(parts[2](low), scale_factor=2.0, mode="nearest")


class Stem(nn.Module):
    """What stands before the first stack: (n, 3, h, w) to (n, channels, h/4, w/4)."""

    def __init__(self, channels: int, mobile: bool) -> None:
        super().__init__()
        if channels < 4 or channels % 4:
            raise InvalidInputError(f"no such hourglass; found {channels} channels; give a multiple of 4")
        self.conv1 = nn.Conv2d(3, channels // 4, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(channels // 4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = residuals(channels // 4, channels // 4, 1, mobile)
        self.layer2 = residuals(channels // 2, channels // 2, 1, mobile)
        self.layer3 = residuals(channels, channels // 2, 1, mobile)

    def stem(self, x: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(max_pool2d(x, 2)))


def stack_head(channels: int) -> nn.Sequential:
    """1x1 convolution, norm and ReLU behind a stack's residual units."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Hourglass(Stem):
    """Stacked hourglass network; output stride 4.

    Maps pictures (n, 3, h, w), sides divisible by ``4 * 2 ** depth``, to a list of heatmaps
    (n, joints, h/4, w/4), one of each stack; the last is the prediction. State-dict keys and order
    equal those of FPD's checkpoints.
    """

    def __init__(
        self, stacks: int, channels: int, blocks: int, mobile: bool, depth: int, joints: int
    ) -> None:
        super().__init__(channels, mobile)
        if min(stacks, blocks, depth) < 1:
            raise InvalidInputError(
                f"no such hourglass; found {stacks} stacks, {blocks} blocks, depth {depth}; give one at least"
            )
        half = channels // 2
        every, inner = range(stacks), range(stacks - 1)
        self.hg = nn.ModuleList(HourglassModule(channels, blocks, mobile, depth) for _ in every)
        self.res = nn.ModuleList(residuals(channels, half, blocks, mobile) for _ in every)
        self.fc = nn.ModuleList(stack_head(channels) for _ in every)
        self.score = nn.ModuleList(nn.Conv2d(channels, joints, 1) for _ in every)
        self.fc_ = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in inner)
        self.score_ = nn.ModuleList(nn.Conv2d(joints, channels, 1) for _ in inner)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for i, score in enumerate(self.score):
            y = self.fc[i](self.res[i](self.hg[i](x)))
            maps = score(y)
            outputs.append(maps)
            if i < len(self.fc_):
                x = x + self.fc_[i](y) + self.score_[i](maps)
        return outputs

    def heatmaps(self, outputs: Sequence[Tensor]) -> Tensor:
        """The prediction (n, joints, h/4, w/4): the last stack's."""
        return outputs[-1]


@register
def hourglass(
    stacks: int = 4,
    channels: int = 128,
    blocks: int = 1,
    mobile: bool = False,
    depth: int = 4,
    joints: int = 16,
) -> Hourglass:
    """Stacked hourglass of FPD and OKDHP.

    4 stacks of 128 channels, FPD's student: 3.29 M parameters, 3.91 G multiply-accumulates at 256x256;
    8 of 256, its teacher: 25.6 M, 28.1 G.

    Args:
        stacks: hourglasses in a row.
        channels: width of a stack (the specification's N; twice the width within a residual unit).
        blocks: residual units at each place of a stack.
        mobile: depthwise 3x3 convolutions, as FPD's unofficial student.
        depth: halvings within an hourglass; published: 4. Less suits small inputs.
        joints: heatmaps.
    """
    return Hourglass(stacks, channels, blocks, mobile, depth, joints)
