"""A network's heatmaps laid over the picture that they belong to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgepose._inputs import check_number, name_nearest
from edgepose.drawing.canvas import Image, to_canvas
from edgepose.drawing.colors import Palette, to_palette
from edgepose.errors import InvalidInputError
from edgepose.optional import require_cv2
from edgepose.pipeline.geometry import apply_affine
from edgepose.skeleton import Skeleton

__all__ = ["draw_heatmaps"]

_BAND = 1 << 20  # pixels that are blended at a time, so that a large picture takes little memory


@name_nearest
def draw_heatmaps(
    image: Image,
    heatmaps: ArrayLike,
    skeleton: Skeleton,
    *,
    affine: ArrayLike | None = None,
    palette: str | Palette = "auto",
    opacity: float = 0.7,
    peak: float = 1.0,
    inplace: bool = False,
) -> Image:
    """Lay heatmaps over a copy of a picture.

    Each pixel takes the colour of the joint that is strongest there, orange for the person's left side, blue
    for the right, white for none, and covers the picture the more the higher the map is.

    Args:
        image: BGR uint8 (H, W, 3), the picture that the maps belong to.
        heatmaps: (k, h, w), or (n, k, h, w) for n regions of the picture; values up to 0 are transparent,
            those from `peak` on as opaque as `opacity` says.
        skeleton: the k joints.
        affine: (2, 3) or (n, 2, 3), from the pixels of each region's maps to those of the picture: what
            `edgepose.pipeline.geometry.crop_affine` gives. None: each map spans the whole picture.
        palette: as for `draw_pose`.
        opacity: share of the picture, 0 to 1, that a map of `peak` covers.
        peak: lower it where the maps are low; ``maps.max()`` shows the highest one fully.
        inplace: draw on `image` itself.

    Returns:
        A new picture, or `image` with `inplace`.

    Raises:
        InvalidInputError: an argument is not usable; the message names it.
        BackendUnavailableError: OpenCV is not installed.
    """
    check_number("opacity", opacity, 0, 1)
    colors = np.array(to_palette(palette).of_joints(skeleton), np.float32)
    check_number("peak", peak, 1e-6, None)
    maps = _floats(heatmaps)
    if maps.ndim == 3:
        maps = maps[None]
    if maps.ndim != 4 or maps.shape[1] != len(skeleton) or not all(maps.shape[2:]) or maps.dtype.kind != "f":
        raise InvalidInputError(
            f"heatmaps have the wrong shape or type; found {maps.shape}, {maps.dtype}; give "
            f"floats (k, h, w) or (n, k, h, w) with k = {len(skeleton)} joints"
        )
    canvas = to_canvas(image, inplace)
    matrices = _matrices(affine, maps, canvas)
    for region, matrix in zip(maps, matrices, strict=True):
        strongest = region.argmax(axis=0)
        weight = opacity * np.clip(np.nan_to_num(region.max(axis=0).astype(np.float32)) / peak, 0, 1)
        layer = np.concatenate([colors[strongest] * weight[:, :, None], weight[:, :, None]], axis=2)
        _lay(canvas, np.ascontiguousarray(layer, np.float32), matrix)
    return canvas


def _matrices(affine: ArrayLike | None, maps: NDArray[np.floating], canvas: Image) -> NDArray[np.float64]:
    """(n, 2, 3) from map to picture."""
    count, _, height, width = maps.shape
    if affine is None:
        # Maps and picture share their outer edges, half a pixel from the outermost centres.
        factors = np.array([canvas.shape[1] / width, canvas.shape[0] / height])
        matrix = np.column_stack([np.diag(factors), (factors - 1) / 2])
        return np.repeat(matrix[None], count, axis=0)
    matrices = _floats(affine)
    if matrices.ndim == 2:
        matrices = matrices[None]
    if matrices.shape != (count, 2, 3) or not np.isfinite(matrices).all():
        raise InvalidInputError(
            f"affine does not fit the heatmaps; found shape {matrices.shape}; give finite numbers of shape "
            f"({count}, 2, 3)"
        )
    return matrices.astype(np.float64)


def _floats(values: ArrayLike) -> NDArray[Any]:
    """An array as it is; of what is none, or holds no numbers, an empty one, which fits nowhere."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return np.zeros(0)
    return array if array.dtype.kind in "fiu" else np.zeros(0)


def _lay(canvas: Image, layer: NDArray[np.float32], matrix: NDArray[np.float64]) -> None:
    """Blend a layer (h, w, 4) of weighted colours and weights, where it reaches into the picture."""
    cv2 = require_cv2("drawing")
    height, width = layer.shape[:2]
    ends = np.array([[-1, -1], [width, -1], [-1, height], [width, height]])
    corners = apply_affine(matrix[None], ends[None])[0]
    limits = canvas.shape[1], canvas.shape[0]
    left, top = (max(0, math.floor(v)) for v in corners.min(axis=0))
    right, bottom = (min(end, math.ceil(v) + 1) for end, v in zip(limits, corners.max(axis=0), strict=True))
    if left >= right:
        return
    step = max(1, _BAND // (right - left))
    for start in range(top, bottom, step):
        region = canvas[start : min(start + step, bottom), left:right]
        moved = matrix.copy()
        moved[:, 2] -= left, start
        size = region.shape[1], region.shape[0]
        over = cv2.warpAffine(layer, moved, size, flags=cv2.INTER_LINEAR)
        region[:] = np.rint(region * (1 - over[:, :, 3:]) + over[:, :, :3])
