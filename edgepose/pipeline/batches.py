"""From pictures to the batch that a network takes, in the form that its spec says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import Batch, input_port
from edgepose.kernels import Kernels
from edgepose.spec import ModelSpec

__all__ = ["BatchMaker"]


class BatchMaker:
    """Makes batches for one network.

    Args:
        spec: of the model.
        kernels: from `edgepose.kernels.get`.

    Attributes:
        dtype: of the batches.
    """

    def __init__(self, spec: ModelSpec, kernels: Kernels) -> None:
        self._spec = spec
        self._kernels = kernels
        self._bytes = spec.input_format == "uint8_nhwc"
        self.dtype: type[np.uint8] | type[np.float32] = np.uint8 if self._bytes else np.float32

    def shape(self, count: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of a batch of so many crops of this (height, width)."""
        return tuple(input_port(self._spec, count, size)[1])

    def crop(
        self,
        image: NDArray[np.uint8],
        affine: NDArray[np.float64],
        size: tuple[int, int],
        out: Batch,
    ) -> None:
        """Cut regions out of a BGR picture (H, W, 3), by affines (n, 2, 3) to it, into `out`."""
        spec = self._spec
        rgb = spec.color == "rgb"
        if self._bytes:
            self._kernels.crop_pixels(image, affine, size, rgb, out=out)  # type: ignore[arg-type]
        else:
            self._kernels.crop_normalize(
                image,
                affine,
                size,
                spec.mean,
                spec.std,
                rgb,
                out=out,  # type: ignore[arg-type]
            )

    def mirror(self, batch: Batch, out: Batch) -> None:
        """Write the mirror images of a batch into `out`."""
        np.copyto(out, batch[:, :, ::-1] if self._bytes else batch[..., ::-1])
