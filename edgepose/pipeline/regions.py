"""How a picture lies in the input of a bottom-up network.

Resize rule: the shorter side of the picture becomes `ModelSpec.input_size`, and both are rounded up to
multiples of 64; the picture is not stretched, so that a black border fills the rest. A picture
longer than `MAX_ASPECT` times its width is taken with a border along its sides.

Source: HigherHRNet (Cheng et al. 2020), its official test code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepose.pipeline.geometry import crop_affine

__all__ = ["MAX_ASPECT", "Region", "fitted_region", "input_region"]

MAX_ASPECT = 10
"""Longer pictures get a border along their sides, which bounds the size of the network's input."""


@dataclass(frozen=True)
class Region:
    """How a picture lies in the network's input.

    Attributes:
        size: (height, width) of the input in pixels.
        center: (x, y) of the region's centre in picture pixels.
        extent: (width, height) of the region in picture pixels; beyond the picture it is black.
    """

    size: tuple[int, int]
    center: tuple[float, float]
    extent: tuple[float, float]

    def affine(self, size: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """(1, 2, 3) float64 from pixels of the input, or of maps of this size, to picture pixels."""
        return crop_affine(np.array([self.center]), np.array([self.extent]), size or self.size, "legacy")


def input_region(
    height: int, width: int, input_size: int, scale: float = 1.0, smallest: float = 1.0
) -> Region:
    """The region of a network with a free input size, by HigherHRNet's rule.

    Args:
        height, width: of the picture.
        input_size: what the shorter side becomes at scale 1, rounded up to a multiple of 64.
        scale: of this run, relative to `input_size`.
        smallest: the smallest scale of the call, at which sizes are rounded to multiples of 64.
    """
    center = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    height, width = max(height, -(-width // MAX_ASPECT)), max(width, -(-height // MAX_ASPECT))
    least = int((smallest * input_size + 63) // 64 * 64)
    if width < height:
        columns = _whole(least * scale / smallest)
        rows = _whole(int((least / width * height + 63) // 64 * 64) * scale / smallest)
        extent = (float(width), rows / columns * width)
    else:
        rows = _whole(least * scale / smallest)
        columns = _whole(int((least / height * width + 63) // 64 * 64) * scale / smallest)
        extent = (columns / rows * height, float(height))
    return Region((rows, columns), center, extent)


def _whole(size: float) -> int:
    """A size cut to a whole number, unless it lies below one by rounding alone."""
    return int(size + 1e-6)


def fitted_region(height: int, width: int, size: tuple[int, int]) -> Region:
    """The region of a network with a fixed input size: the whole picture, centred, not stretched."""
    factor = max(width / size[1], height / size[0])
    center = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    return Region(size, center, (size[1] * factor, size[0] * factor))
