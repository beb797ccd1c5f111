"""Steps that both pipelines put on a stream; nothing is checked, and nothing waits."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import DeviceArray, sides_of
from edgepose.kernels import _cuda
from edgepose.pipeline.gpu.device_picture import DevicePicture
from edgepose.spec import ModelSpec

__all__ = ["capture", "fill_sources", "put_crops", "put_mirrored"]


def capture(stream: int, steps: Callable[[], None]) -> _cuda.Graph:
    """The steps as a CUDA graph; they are not done.

    Raises:
        RuntimeError: they cannot be captured.
    """
    collects = gc.isenabled()
    gc.disable()  # what it frees on the device would end the capture
    try:
        _cuda.begin_capture(stream)
        try:
            steps()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the failed step has ended it
                _cuda.end_capture(stream).close()
            raise
        return _cuda.end_capture(stream)
    finally:
        if collects:
            gc.enable()


def fill_sources(
    sources: NDArray[Any], pictures: Sequence[DevicePicture], affine: NDArray[np.float64]
) -> None:
    """Say where each crop comes from; crops beyond those that are wanted repeat the first."""
    for index in range(len(sources)):
        row = index if index < len(pictures) else 0
        picture = pictures[row]
        sources[index] = (
            picture.pixels,
            picture.chroma,
            picture.stride,
            picture.chroma_stride,
            picture.shape[0],
            picture.shape[1],
            affine[row].ravel(),
        )


def put_crops(spec: ModelSpec, sources: int, batch: DeviceArray, stream: int) -> None:
    """Cut a batch's crops and bring them into the form that the network takes.

    Args:
        spec: of the network.
        sources: address of a `edgepose.kernels.cuda.CROP_SOURCE` for each crop.
        batch: the network's input.
        stream: handle.
    """
    count, (height, width) = batch.shape[0], batch.shape[sides_of(spec)]
    rgb = spec.color == "rgb"
    if spec.input_format == "uint8_nhwc":
        _cuda.crop_pixels(sources, count, height, width, rgb, batch.pointer, stream)
        return
    black = (0.0, 0.0, 0.0)
    _cuda.crop_normalize(
        sources, count, height, width, spec.mean, spec.std, black, rgb, batch.pointer, stream
    )


def put_mirrored(spec: ModelSpec, batch: DeviceArray, out: DeviceArray, stream: int) -> None:
    """Mirror a batch of the network's input along its width."""
    if spec.input_format == "uint8_nhwc":
        count, height, width, _ = batch.shape
        _cuda.mirror_pixels(batch.pointer, count * height, width, out.pointer, stream)
    else:
        count, channels, height, width = batch.shape
        _cuda.mirror_planes(batch.pointer, count * channels * height, width, out.pointer, stream)
