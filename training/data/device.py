"""Pictures in the memory of the device, which are cropped and recoloured there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepose.errors import InvalidInputError
from edgepose.evaluation.people import Pictures, read_picture

__all__ = ["DevicePictures"]

SHARE = 0.75
"""Of the free memory that pictures may take; the network needs the rest."""
BLOCK = 256
"""Files that are read before their bytes are counted."""


class DevicePictures:
    """Pictures of different sizes in one tensor, and crops of them.

    A picture that stands in `images` several times, the same array or the same file, is kept once. Files
    are all read at once, and pass through the memory of the host.

    Args:
        images: BGR uint8 (h, w, 3).
        device: where they are kept.
        room: bytes that they may take; None: three quarters of what is free.

    Raises:
        InvalidInputError: they do not fit, or a file cannot be read.
    """

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], device: torch.device, *, room: int | None = None
    ) -> None:
        sources = images.sources if isinstance(images, Pictures) else images
        keys = [source if isinstance(source, Path) else id(source) for source in sources]
        pictures = _read(dict(zip(keys, sources, strict=True)), device, room)
        sizes = torch.tensor([picture.shape[:2] for picture in pictures.values()])
        ends = sizes.prod(1).cumsum(0)
        places = {key: place for place, key in enumerate(pictures)}
        which = torch.tensor([places[key] for key in keys])

        self._pixels = torch.empty(int(ends[-1]), 3, dtype=torch.uint8, device=device)
        starts = ends - sizes.prod(1)
        for picture, start, end in zip(pictures.values(), starts.tolist(), ends.tolist(), strict=True):
            self._pixels[start:end] = torch.from_numpy(picture.reshape(-1, 3))
        self._starts = starts[which].to(device)
        self._heights, self._widths = sizes[which].to(device).unbind(1)

    @property
    def nbytes(self) -> int:
        """Bytes of the pictures on the device."""
        return self._pixels.nbytes

    def crops(
        self, index: Tensor, matrix: Tensor, size: tuple[int, int], gain: Tensor | None = None
    ) -> Tensor:
        """What `training.data.transforms.warp` and `scale_colors` cut out, rounded once.

        All tensors are on the device.

        Args:
            index: (n,) int64, numbers of the pictures.
            matrix: (n, 2, 3), affine maps from the pixels of the crops to those of the pictures.
            size: (h, w) of the crops.
            gain: (n, 3), factors of the colour channels; None: colours stay.

        Returns:
            (n, h, w, 3) uint8 BGR; black outside of the pictures.
        """
        rows = torch.arange(size[0], device=matrix.device, dtype=torch.float32)[:, None]
        columns = torch.arange(size[1], device=matrix.device, dtype=torch.float32)
        factors = matrix.float()[..., None, None]
        x = factors[:, 0, 0] * columns + factors[:, 0, 1] * rows + factors[:, 0, 2]
        y = factors[:, 1, 0] * columns + factors[:, 1, 1] * rows + factors[:, 1, 2]
        heights, widths, starts = (
            values[index, None, None] for values in (self._heights, self._widths, self._starts)
        )
        total = torch.zeros(*x.shape, 3, device=x.device)
        for row, row_weight in _neighbours(y, heights):
            for column, column_weight in _neighbours(x, widths):
                pixels = self._pixels[starts + row * widths + column]
                total.addcmul_(pixels.float(), (row_weight * column_weight)[..., None])
        crops = total.round_().to(torch.uint8)
        return crops if gain is None else _scale_colors(crops, gain)


def _neighbours(places: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The pixels before and after places along an axis, and their weights, 0 outside of the picture."""
    first = places.floor()
    after = places - first
    index = first.long()
    found = []
    for near, weight in ((index, 1 - after), (index + 1, after)):
        inside = near.clamp(min=0).minimum(length - 1)
        found.append((inside, weight * (inside == near)))
    return found


def _scale_colors(crops: Tensor, gain: Tensor) -> Tensor:
    """`training.data.transforms.scale_colors` of a batch, by the same table."""
    levels = torch.arange(256, device=crops.device, dtype=torch.float64)
    tables = (levels[:, None] * gain.double()[:, None]).clamp(0, 255).to(torch.uint8)
    return tables.gather(1, crops.flatten(1, 2).long()).view_as(crops)


def _read(
    sources: dict[Any, NDArray[np.uint8] | Path], device: torch.device, room: int | None
) -> dict[Any, NDArray[np.uint8]]:
    """The pictures of all sources, as long as they fit."""
    read = {key: source for key, source in sources.items() if not isinstance(source, Path)}
    files = [source for source in sources.values() if isinstance(source, Path)]
    if room is None:
        free = [_free(device), *([_free(torch.device("cpu"))] if files else [])]
        room = min((int(SHARE * bytes_) for bytes_ in free if bytes_ is not None), default=None)

    def check() -> None:
        needed = sum(picture.nbytes for picture in read.values())
        if room is not None and needed > room:
            raise InvalidInputError(
                f"pictures do not fit into the memory of {device}; found {needed} bytes in {len(read)} of "
                f"{len(sources)} pictures, and room for {room}; set data.device: false, or data.limit"
            )

    check()
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), BLOCK):
            block = files[start : start + BLOCK]
            read |= zip(block, pool.map(read_picture, block), strict=True)
            check()
    return read


def _free(device: torch.device) -> int | None:
    """Bytes of free memory; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []:
        if device.type == "cpu" and line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None
