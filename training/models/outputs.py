"""What a network's outputs say, where it has more than one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["final_heatmaps"]


def final_heatmaps(network: nn.Module, outputs: Any) -> Tensor:
    """The heatmaps (n, joints, h, w) that are decoded and deployed.

    Networks with several outputs have a method ``heatmaps`` for it; the output of the others is just that.
    """
    select = getattr(network, "heatmaps", None)
    return outputs if select is None else select(outputs)
