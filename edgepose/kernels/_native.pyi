from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]
_Maps = NDArray[np.float32] | NDArray[np.float16]
_Passes = Sequence[tuple[tuple[_Maps, ...], tuple[_Maps, ...], bool]]

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
def crop_pixels(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    rgb: bool,
    out: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]: ...
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
def aggregate_nms_topk(
    passes: _Passes,
    size: tuple[int, int],
    flip_permutation: NDArray[np.int64],
    window: int,
    top: int,
    threshold: float,
) -> tuple[NDArray[np.int32], _Array, _Array, NDArray[np.int32]]: ...
def group(
    xy: NDArray[np.int32],
    scores: _Array,
    tags: _Array,
    count: NDArray[np.int32],
    joint_order: NDArray[np.int64],
    tag_threshold: float,
    use_detection_val: bool,
    ignore_too_much: bool,
    max_persons: int,
    official: bool,
) -> tuple[_Array, bool]: ...
def adjust(
    passes: _Passes, size: tuple[int, int], flip_permutation: NDArray[np.int64], persons: _Array
) -> _Array: ...
def refine(
    passes: _Passes, size: tuple[int, int], flip_permutation: NDArray[np.int64], persons: _Array
) -> _Array: ...
