"""Mixed precision where a CPU's bfloat16 kernels are slower than its float32 ones."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

__all__ = ["exempt_slow_bfloat16"]


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
