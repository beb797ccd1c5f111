from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]
_Maps = NDArray[np.float32] | NDArray[np.float16]

def isas() -> list[str]: ...
def isa() -> str: ...
def use_isa(name: str) -> bool: ...
def crop_normalize(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    swap_rb: bool,
    fill: float | Sequence[float],
    out: _Array | None,
) -> _Array: ...
def soft_argmax(
    heatmaps: _Maps, beta: float, out: tuple[_Array, _Array, _Array] | None
) -> tuple[_Array, _Array, _Array]: ...
def argmax_offset(
    heatmaps: _Maps, refine: str | None, out: tuple[_Array, _Array] | None
) -> tuple[_Array, _Array]: ...
def quarter_offset(heatmaps: _Maps, coords: _Array, out: _Array | None) -> _Array: ...
def flip_average(
    heatmaps: _Maps, flipped: _Maps, order: NDArray[np.int64], shift: bool, out: _Array | None
) -> _Array: ...
