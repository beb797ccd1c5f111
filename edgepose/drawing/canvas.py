"""The picture that is drawn on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose._inputs import check_switch
from edgepose.errors import InvalidInputError
from edgepose.sources import check_image

__all__ = ["Image", "to_canvas"]

Image = NDArray[np.uint8]


def to_canvas(image: Image, inplace: bool) -> Image:
    """The picture itself or a copy of it, as OpenCV can draw on it.

    Raises:
        InvalidInputError: `image` is no BGR uint8 picture, or cannot be drawn on in place.
    """
    check_switch("inplace", inplace)
    check_image(image)
    if not inplace:
        return np.array(image, order="C")
    if not image.flags.writeable:
        raise InvalidInputError(
            "image cannot be drawn on in place; found an array that is read-only; give a copy, or "
            "inplace=False"
        )
    width = image.shape[1]
    if image.strides[1:] != (3, 1) or image.strides[0] < 3 * width:
        raise InvalidInputError(
            f"image cannot be drawn on in place; found strides {image.strides}, whose rows are not "
            "contiguous; give numpy.ascontiguousarray(image), or inplace=False"
        )
    return image
