"""Building blocks that several networks share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from edgepose.errors import InvalidInputError

__all__ = [
    "GlobalContext",
    "SqueezeExcitation",
    "count_macs",
    "init_weights",
    "make_stage",
    "residual_downsample",
    "upsample_unit",
]

DECONV_PADDING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}
"""Padding and output padding of a stride-2 deconvolution by kernel size."""


class _Flatten(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        return x.flatten(2)

    @staticmethod
    def symbolic(graph: Any, x: Any) -> Any:
        return graph.op("Reshape", x, graph.op("Constant", value_t=torch.tensor([0, 0, -1])))


def _flatten(x: Tensor) -> Tensor:
    """Maps (n, c, h, w) as (n, c, h w), exported as one Reshape to constants whatever is free.

    The exporter's own form computes the shape, with six more nodes.
    """
    return _Flatten.apply(x) if torch.onnx.is_in_onnx_export() else x.flatten(2)


class GlobalContext(nn.Module):
    """GC block with attention pooling and channel-add fusion (Cao et al. 2019; LPN section 3.2).

    Maps (n, channels, h, w) to the same shape: every position receives the same learned vector.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 16)
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.softmax = nn.Softmax(dim=2)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = self.softmax(_flatten(self.conv_mask(x)))
        context = torch.matmul(_flatten(x), mask.transpose(1, 2))
        return x + self.channel_add_conv(context.unsqueeze(3))


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018), LPN's alternative to the GC block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 16)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def residual_downsample(channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Projection shortcut (1x1 convolution and batch norm), or None where the identity fits."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def upsample_unit(
    channels: int, out_channels: int, *, kernel: int, groups: int, bias: bool
) -> list[nn.Module]:
    """Stride-2 deconvolution, batch norm, ReLU.

    Raises:
        InvalidInputError: the kernel size is not 2, 3 or 4.
    """
    if kernel not in DECONV_PADDING:
        raise InvalidInputError(f"unknown deconvolution kernel; found {kernel}; use 2, 3 or 4")
    padding, output_padding = DECONV_PADDING[kernel]
    return [
        nn.ConvTranspose2d(
            channels, out_channels, kernel, 2, padding, output_padding, groups=groups, bias=bias
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def make_stage(
    block: type[nn.Module], channels: int, width: int, blocks: int, stride: int, **options: object
) -> nn.Sequential:
    """Residual stage: `blocks` blocks of a width, the first of which carries the stride."""
    out_channels = width * block.expansion
    layers = [block(channels, width, stride, **options)]
    layers += [block(out_channels, width, 1, **options) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def init_weights(network: nn.Module, scheme: str) -> None:
    """Initialise convolutions in place.

    Args:
        network: batch norms become identity, biases zero.
        scheme: ``"normal"``, the published initialisation of SimpleBaseline and LPN (standard
            deviation 0.001), or ``"kaiming"`` (fan-out), with which nets learn from scratch in
            fewer epochs; then GC blocks start as in their paper: attention by fan-in, and an
            identity because their last convolution is zero. The last layers, ``final_layer`` or
            ``final_layers``, have a standard deviation of 0.001 in both. ``"default"`` leaves the
            network as it was built, which is as it was published: hourglasses and MobilePose with
            PyTorch's own values, HigherLPN with ``"kaiming"``, the others with ``"normal"``.

    Raises:
        InvalidInputError: the scheme is unknown.
    """
    if scheme == "default":
        return
    if scheme not in ("normal", "kaiming"):
        raise InvalidInputError(
            f"unknown initialisation; found {scheme!r}; use 'normal', 'kaiming' or 'default'"
        )
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if scheme == "normal":
                nn.init.normal_(module.weight, std=0.001)
            else:
                fan = (
                    module.out_channels
                    * math.prod(module.kernel_size)
                    / (module.groups * math.prod(module.stride) if module.transposed else module.groups)
                )
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if scheme == "kaiming":
        for module in network.modules():
            if isinstance(module, GlobalContext):
                nn.init.kaiming_normal_(module.conv_mask.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.channel_add_conv[3].weight)
        for module in network.modules():
            for head in (getattr(module, "final_layer", None), *getattr(module, "final_layers", ())):
                if isinstance(head, nn.Conv2d):
                    nn.init.normal_(head.weight, std=0.001)


@torch.no_grad()
def count_macs(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one picture of (height, width).

    A transposed convolution counts each weight once per input position, which is what it computes.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += module.weight.numel()
            return
        positions = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        total += module.weight.numel() * math.prod(positions.shape[2:])

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    training = network.training
    try:
        network.eval()(torch.zeros(1, 3, *size, device=next(network.parameters()).device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return total
