"""Pictures in device memory: those of the caller as they are, others copied there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.device import Device, Staging, Stream
from edgepose.kernels import _cuda
from edgepose.pipeline.gpu.device_picture import DevicePicture

__all__ = ["Pictures"]


class Pictures:
    """Places for pictures in device memory, used again by later ones.

    Args:
        device: where they lie.
        stream: on which they are copied.
    """

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device = device
        self._stream = stream
        self._places: list[Staging] = []

    def put(self, images: Mapping[int, NDArray[np.uint8] | DevicePicture]) -> dict[int, DevicePicture]:
        """Copy pictures to the device, in place of those of the call before.

        Args:
            images: BGR uint8 (H, W, 3) by any number; those that are in device memory stay where they are,
                and the stream that makes them is waited for.

        Returns:
            Where they will be once the work before on the stream is done, by the same numbers.
        """
        placed = {}
        used = 0
        for number, image in images.items():
            if isinstance(image, DevicePicture):
                _cuda.synchronize(image.stream)
                placed[number] = image
                continue
            place = self._place(used, image.size)
            used += 1
            height, width = image.shape[:2]
            np.copyto(place.array[: image.size].reshape(image.shape), image)
            place.upload(self._stream, image.size)
            placed[number] = DevicePicture((height, width, 3), place.pointer, 3 * width, owner=place)
        return placed

    def _place(self, index: int, size: int) -> Staging:
        """A place with room for so many bytes."""
        if index < len(self._places) and self._places[index].array.size < size:
            self._places.pop(index).close()  # at once: both may not fit
        if index == len(self._places) or self._places[index].array.size < size:
            self._places.insert(index, self._device.staging((size,), np.uint8))
        return self._places[index]

    def close(self) -> None:
        """Free the places; may be called twice."""
        while self._places:
            self._places.pop().free()
