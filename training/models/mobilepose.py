"""MobilePose (github.com/YuliangXiu/MobilePose-pytorch): a light backbone, pixel-shuffle decoder, DSNT.

Its coordinates are those of the differentiable spatial-to-numerical transform (Nibali et al. 2018,
arXiv 1801.07372); the same network with plain heatmaps is the second architecture of OKDHP (Li et al. 2021,
arXiv 2108.02092).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError
from training.losses import dsnt_loss, to_unit
from training.models.mobile_encoders import ENCODERS
from training.models.registry import register

__all__ = [
    "CoordinateMobilePose",
    "CoordinateOutputs",
    "Decoder",
    "MobilePose",
    "decoder",
    "encoder",
    "locate",
    "mobilepose",
    "whole_names",
]

COMPRESSED = 256
"""Channels that a decoder starts with."""


class UpsamplingConvolution(nn.Module):
    """Dense upsampling convolution (DUC, Wang et al. 2018): twice the size, a quarter of `planes`."""

    def __init__(self, channels: int, planes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, planes, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.pixel_shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pixel_shuffle(self.relu(self.bn(self.conv(x))))


class Decoder(nn.Sequential):
    """From a backbone's features to raw heatmaps: 1x1 convolution, upsampling, 1x1 convolution.

    Maps (n, channels, h, w) to (n, joints, h 2^m, w 2^m) with m upsamplings.
    """

    def __init__(self, channels: int, upsamplings: int, joints: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(channels, COMPRESSED, 1, bias=False)]
        width = COMPRESSED
        for planes in (512, 256, 128)[:upsamplings]:
            layers.append(UpsamplingConvolution(width, planes))
            width = planes // 4
        super().__init__(*layers, nn.Conv2d(width, joints, 1, bias=False))

    @property
    def final_layer(self) -> nn.Module:
        """The last convolution, which `init_weights` starts near zero."""
        return self[-1]


def encoder(backbone: str) -> nn.Sequential:
    """A backbone of its own: pictures (n, 3, h, w) to features, see `training.models.mobile_encoders`.

    Raises:
        InvalidInputError: the backbone is unknown.
    """
    return _known(backbone)[0]()


def decoder(backbone: str, joints: int = 16) -> Decoder:
    """A decoder of its own for the features of a backbone, so that several can share one.

    `whole_names` says where its layers stand in a whole network.

    Raises:
        InvalidInputError: the backbone is unknown.
    """
    return Decoder(_known(backbone)[1], 2 if backbone == "squeezenet" else 3, joints)


def whole_names(backbone: str) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the layers of an `encoder` and of a `decoder` to their names in a whole `MobilePose`.

    A tensor ``f"{layer}.{rest}"`` of a part is ``f"{names[layer]}.{rest}"`` in the whole network.

    Raises:
        InvalidInputError: the backbone is unknown.
    """
    with torch.device("meta"):
        first, second = len(encoder(backbone)), len(decoder(backbone)) - 1
    parts = ("resnet.features", "resnet.classifier") if backbone == "squeezenet" else ("resnet", "resnet")
    start = 0 if backbone == "squeezenet" else first
    inside = {str(i): f"{parts[1]}.{start + i}" for i in range(second)}
    return {str(i): f"{parts[0]}.{i}" for i in range(first)}, {**inside, str(second): "hm_conv"}


def _known(backbone: str) -> tuple[Callable[[], nn.Sequential], int]:
    if backbone not in ENCODERS:
        raise InvalidInputError(f"unknown backbone; found {backbone!r}; use one of {', '.join(ENCODERS)}")
    return ENCODERS[backbone]


class MobilePose(nn.Module):
    """MobilePose up to its heatmaps, trained on them as other networks are; output stride 4.

    Maps pictures (n, 3, h, w), sides divisible by 32, to heatmaps (n, joints, h/4, w/4). SqueezeNet's are
    a quarter of sides of a multiple of 16 and one pixel more, such as 225; 224 gives 52, as published, which
    `training.export` does not take. Weights start as PyTorch's layers do. State-dict keys and order equal
    those of the published checkpoints.

    Attributes:
        feature_channels: of what `encode` returns.
        sides: which sides of a picture give heatmaps of a quarter.
    """

    def __init__(self, backbone: str, joints: int) -> None:
        super().__init__()
        whole = backbone == "squeezenet"
        self.feature_channels = _known(backbone)[1]
        self.sides = self.sides_of(backbone)
        first = encoder(backbone)
        *second, last = decoder(backbone, joints)
        if whole:
            parts = OrderedDict(features=first, classifier=nn.Sequential(*second))
            self.resnet, self._encoder_depth = nn.Sequential(parts), 1
        else:
            self.resnet, self._encoder_depth = nn.Sequential(*first, *second), len(first)
        self.hm_conv = last

    @staticmethod
    def sides_of(backbone: str) -> str:
        """Which sides of a picture give heatmaps of a quarter."""
        return "a multiple of 16, and one more," if backbone == "squeezenet" else "a multiple of 32"

    @property
    def final_layer(self) -> nn.Module:
        """The last convolution, which `init_weights` starts near zero."""
        return self.hm_conv

    def encode(self, x: Tensor) -> Tensor:
        """Features (n, feature_channels, h/32, w/32) of pictures (n, 3, h, w); SqueezeNet's are h/16."""
        return self.resnet[: self._encoder_depth](x)

    def decode(self, features: Tensor) -> Tensor:
        """Raw heatmaps (n, joints, h, w) of features, as a `decoder` of the same weights gives them."""
        return self.hm_conv(self.resnet[self._encoder_depth :](features))

    def forward(self, x: Tensor) -> Tensor:
        return self.hm_conv(self.resnet(x))


class CoordinateOutputs(NamedTuple):
    """What `CoordinateMobilePose` returns; the first two are the published network's outputs.

    Attributes:
        coords: (n, k, 2) as (x, y), from -1 to 1 between the outer edges of the outermost pixels.
        heatmaps: (n, k, h, w), the probability of each pixel.
        log_heatmaps: its logarithm, exact where the probability itself is rounded to zero.
    """

    coords: Tensor
    heatmaps: Tensor
    log_heatmaps: Tensor


class CoordinateMobilePose(MobilePose):
    """MobilePose as published: a softmax over each heatmap, and its mean position (DSNT)."""

    def forward(self, x: Tensor) -> CoordinateOutputs:
        return locate(super().forward(x))

    def heatmaps(self, outputs: CoordinateOutputs) -> Tensor:
        """What is deployed: ``1 + log(p) / log(h w)`` of the probabilities, (n, k, h, w).

        1 where one pixel has it all, 0 where all have the same. The decoder ``soft_argmax`` with a beta of
        ``log(h w)`` (8.0507 for 56 x 56) makes the probabilities of it again, so that it returns `coords`.
        """
        height, width = outputs.log_heatmaps.shape[-2:]
        return 1 + outputs.log_heatmaps / math.log(int(height) * int(width))

    def loss(self, outputs: CoordinateOutputs, joints: Tensor, weights: Tensor) -> Tensor:
        """`dsnt_loss` with the published width of 1 pixel.

        Args:
            outputs: of `forward`.
            joints: (n, k, 2) in pixels of the heatmaps; those outside of the map do not count.
            weights: (n, k), 0 for joints that do not count.
        """
        height, width = outputs.heatmaps.shape[-2:]
        target = to_unit(joints.float(), torch.tensor([width, height], device=joints.device))
        inside = (target.abs() <= 1).all(-1)
        return dsnt_loss(outputs.coords, outputs.heatmaps, target, weights * inside)


def locate(raw: Tensor) -> CoordinateOutputs:
    """Softmax and mean position of raw heatmaps (n, k, h, w)."""
    # Step by step: no reshaping to one axis in the exported graph, and nothing that overflows float16.
    raw = raw.float()
    shifted = raw - raw.detach().amax((2, 3), keepdim=True)
    log_heatmaps = shifted - shifted.exp().sum((2, 3), keepdim=True).log()
    heatmaps = log_heatmaps.exp()
    return CoordinateOutputs(_mean_position(heatmaps), heatmaps, log_heatmaps)


def _mean_position(heatmaps: Tensor) -> Tensor:
    """(n, k, 2) as (x, y) from -1 to 1, of probabilities (n, k, h, w)."""
    means = []
    for along, across in ((3, 2), (2, 3)):
        length = heatmaps.shape[along]
        positions = to_unit(torch.arange(length, device=heatmaps.device), length)
        means.append((heatmaps.sum(across) * positions).sum(-1))
    return torch.stack(means, -1)


@register
def mobilepose(backbone: str = "resnet18", joints: int = 16, head: str = "coordinates") -> MobilePose:
    """MobilePose: 2.3 to 12.9 M parameters, 0.33 to 2.0 G multiply-accumulates at 224x224.

    Args:
        backbone: ``"resnet18"``, ``"mobilenetv2"``, ``"shufflenetv2"`` or ``"squeezenet"``.
        joints: heatmaps.
        head: ``"coordinates"``, as published, or ``"heatmap"``; the weights have the same names.

    Raises:
        InvalidInputError: the backbone or head is unknown.
    """
    heads = {"coordinates": CoordinateMobilePose, "heatmap": MobilePose}
    if head not in heads:
        raise InvalidInputError(f"unknown head; found {head!r}; use 'coordinates' or 'heatmap'")
    return heads[head](backbone, joints)
