"""Pictures that the caller has in device memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgepose.errors import InvalidInputError

__all__ = ["DevicePicture"]


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
        stream: handle of the stream on which the picture is being made; 0: the default stream, as of
            libraries that name none.
    """

    shape: tuple[int, int, int]
    pixels: int
    stride: int
    chroma: int = 0
    chroma_stride: int = 0
    owner: Any = None
    stream: int = 0

    @classmethod
    def of(cls, value: Any, name: str) -> DevicePicture:
        """The picture of an object with a ``__cuda_array_interface__``.

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
        address, stream = interface["data"][0], interface.get("stream") or 0
        if color:
            if shape[2] != 3:
                raise rejected
            return cls((shape[0], shape[1], 3), address, stride, owner=value, stream=stream)
        height = shape[0] // 3 * 2
        if shape[0] % 3 or height % 2 or shape[1] % 2:
            raise rejected
        chroma = address + height * stride
        return cls((height, shape[1], 3), address, stride, chroma, stride, value, stream)
