"""Mixed precision without the slow kernels; the values stay the same but for rounding."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

__all__ = ["avoid_slow_kernels", "exempt_slow_bfloat16", "fill_grouped_deconvolutions"]


def avoid_slow_kernels(network: nn.Module, device: torch.device) -> nn.Module:
    """What pays in mixed precision on a device, in place."""
    if device.type == "cpu":
        return exempt_slow_bfloat16(network)
    return fill_grouped_deconvolutions(network) if device.type == "cuda" else network


def exempt_slow_bfloat16(network: nn.Module) -> nn.Module:
    """Run strided depthwise and grouped transposed convolutions outside of autocast, in place.

    On a CPU with AMX their bfloat16 kernels took 10 to 25 times as long backwards as the float32
    ones, against a gain of 2 to 5 times in every other convolution (PyTorch 2.13).
    """
    for module in network.modules():
        strided = isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.stride) > 1
        if strided or (isinstance(module, nn.ConvTranspose2d) and module.groups > 1):
            module.forward = functools.partial(_in_float32, module.forward)  # type: ignore[method-assign]
    return network


def _in_float32(forward: functools.partial[Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())


def fill_grouped_deconvolutions(network: nn.Module) -> nn.Module:
    """Run grouped transposed convolutions as whole ones, with zeros between the groups, in place.

    On an H200 cuDNN's kernels for groups of one and two channels took 15 of the 51 ms of a step of LPN-50
    (128 crops of 256x256), in part by one launch a group. Multiplying by zeros costs tensor cores little.
    """
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d) and module.groups > 1:
            module.forward = functools.partial(_as_whole, module)  # type: ignore[method-assign]
    return network


def _as_whole(module: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    groups = torch.arange(module.groups, device=x.device)
    own = groups.repeat_interleave(module.in_channels // module.groups)[:, None] == groups
    weight = (module.weight[:, None] * own[:, :, None, None, None]).flatten(1, 2)
    stride, padding, extra = module.stride, module.padding, module.output_padding
    return conv_transpose2d(x, weight, module.bias, stride, padding, extra, 1, module.dilation)  # type: ignore[arg-type]
