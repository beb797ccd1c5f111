"""Pictures in device memory: those of the caller as they are, others copied there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.device import Device, Staging, Stream
from edgepose.errors import InvalidInputError
from edgepose.kernels import _cuda

__all__ = ["DevicePicture", "Pictures"]


@dataclass(frozen=True)
class DevicePicture:
    """A picture in device memory, which stays there and is not copied.

    Attributes:
        shape: (height, width, 3).
        pixels: address of BGR pixels (height, width, 3) uint8, or of the luma plane of NV12.
        stride: bytes from one row to the next.
        chroma: address of the plane of NV12's pairs of chroma values; 0 for BGR.
        chroma_stride: bytes from one of its rows to the next.
        owner: what keeps the memory.
    """

    shape: tuple[int, int, int]
    pixels: int
    stride: int
    chroma: int
    chroma_stride: int
    owner: Any

    @classmethod
    def of(cls, value: Any, name: str) -> DevicePicture:
        """The picture of an object with a ``__cuda_array_interface__``.

        Work on the stream that the interface names is waited for.

        Args:
            value: uint8 (H, W, 3) BGR, or (H * 3 / 2, W) NV12 with even H and W, limited range BT.601; rows
                may be strided.
            name: of the argument, for the message.

        Raises:
            InvalidInputError: it is not such an array.
        """
        interface = value.__cuda_array_interface__
        shape = tuple(interface["shape"])
        strides = interface.get("strides")
        wanted = "uint8 (H, W, 3) BGR or (H * 3 / 2, W) NV12 with even H and W, rows of packed pixels"
        found = f"{interface['typestr']} of shape {shape} with strides {strides}"
        rejected = InvalidInputError(f"{name} is not usable; found {found} in device memory; give {wanted}")
        if interface["typestr"] != "|u1" or len(shape) not in (2, 3) or min(shape, default=0) < 1:
            raise rejected
        color = len(shape) == 3
        row = shape[1] * (3 if color else 1)
        stride = strides[0] if strides else row
        if stride < row or (strides and tuple(strides[1:]) != ((3, 1) if color else (1,))):
            raise rejected
        address = interface["data"][0]
        if color:
            if shape[2] != 3:
                raise rejected
            picture = cls((shape[0], shape[1], 3), address, stride, 0, 0, value)
        else:
            height = shape[0] // 3 * 2
            if shape[0] % 3 or height % 2 or shape[1] % 2:
                raise rejected
            chroma = address + height * stride
            picture = cls((height, shape[1], 3), address, stride, chroma, stride, value)
        if interface.get("stream"):
            _cuda.synchronize(interface["stream"])
        return picture


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
            images: BGR uint8 (H, W, 3) by any number; those that are in device memory stay where they are.

        Returns:
            Where they will be once the work before on the stream is done, by the same numbers.
        """
        placed = {}
        used = 0
        for number, image in images.items():
            if isinstance(image, DevicePicture):
                placed[number] = image
                continue
            place = self._place(used, image.size)
            used += 1
            height, width = image.shape[:2]
            np.copyto(place.array[: image.size].reshape(image.shape), image)
            place.upload(self._stream, image.size)
            placed[number] = DevicePicture((height, width, 3), place.pointer, 3 * width, 0, 0, place)
        return placed

    def _place(self, index: int, size: int) -> Staging:
        """A place with room for so many bytes."""
        if index == len(self._places):
            self._places.append(self._device.staging((size,), np.uint8))
        elif self._places[index].array.size < size:
            self._places[index].free()
            self._places[index] = self._device.staging((size,), np.uint8)
        return self._places[index]

    def close(self) -> None:
        """Free the places; may be called twice."""
        while self._places:
            self._places.pop().free()
