"""The kernels in CUDA (``csrc/cuda``): the same contract as `edgepose.kernels.reference`.

Arrays may lie in device memory, as any object with ``__cuda_array_interface__`` (CuPy, PyTorch, numba, a
`DeviceArray`), packed. Where all arrays are numpy's, they are copied to the device and the results back;
that is for tests and for convenience, as the copies cost more than the kernels save. Where an array
argument lies on the device, results are `DeviceArray` objects. ``out=`` takes either kind. Affines and
options always lie with the host.

Every function waits: for the stream that an argument's interface names, and for its own work, so that no
work is pending on what it returns. Code that must not wait launches the kernels of ``_cuda`` by pointer,
on a stream of its own, with nothing checked.

Importing this raises `ImportError` where no device can run the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.kernels import _checks, _cuda
from edgepose.kernels._device_memory import STREAM, Call, DeviceArray, device_view
from edgepose.kernels._device_view import DeviceView
from edgepose.kernels.cuda_bottomup import adjust, aggregate_nms_topk, group, refine

__all__ = [
    "CROP_SOURCE",
    "DeviceArray",
    "adjust",
    "aggregate_nms_topk",
    "argmax_offset",
    "crop_normalize",
    "crop_pixels",
    "flip_average",
    "group",
    "mirror",
    "quarter_offset",
    "refine",
    "soft_argmax",
]

CROP_SOURCE = np.dtype(
    [
        ("pixels", np.uint64),
        ("chroma", np.uint64),
        ("stride", np.int64),
        ("chroma_stride", np.int64),
        ("height", np.int32),
        ("width", np.int32),
        ("affine", np.float64, (6,)),
    ]
)
"""Where a crop comes from, one for each crop, in device memory, so that a CUDA graph stays valid while
pictures change. `pixels` and `chroma` are device addresses, strides are bytes from row to row. With
`chroma` 0 the picture is packed BGR. Else it is NV12, for the device alone: `pixels` is the luma plane
and `chroma` the one of U and V in turn; `height` and `width` are even. The crop is then that of
`edgepose.kernels.reference.bgr_of_nv12`. `affine` goes from output to picture pixels, row by row."""


def _probe() -> None:
    """Run a kernel on the device.

    Raises:
        ImportError: there is no device, no driver, or no code for this device.
    """
    try:
        _cuda.use_device(0)
        pixel, result = DeviceArray.of(np.ones(1, np.float32)), DeviceArray((1,))
        _cuda.mirror_planes(pixel.pointer, 1, 1, result.pointer, STREAM)
        found = result.numpy()
    except RuntimeError as error:
        raise ImportError(str(error)) from error
    if found[0] != 1:
        raise ImportError(f"a first kernel returned {found[0]} in place of 1")


_probe()


def crop_normalize(
    image: Any,
    affine: NDArray[np.float64],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    swap_rb: bool,
    fill: float | Sequence[float] = 0,
    out: Any = None,
) -> Any:
    """See `edgepose.kernels.reference.crop_normalize`."""
    pixels = _checks.check_image("image", device_view("image", image))
    matrices = _checks.affine_matrices("affine", affine)
    height, width = _checks.output_size("size", size)
    options = (
        tuple(_checks.numbers("mean", mean).tolist()),
        tuple(_checks.numbers("std", std, positive=True).tolist()),
    )
    swap = _checks.switch("swap_rb", swap_rb)
    border = tuple(_checks.numbers("fill", fill, scalar=True).tolist())
    shape = (len(matrices), 3, height, width)
    _check_out("out", out, np.float32, shape, [pixels, affine])
    with Call() as call:
        sources = _sources(call, pixels, matrices)
        to = call.result(out, shape)
        _cuda.crop_normalize(sources, len(matrices), height, width, *options, border, swap, to, STREAM)
        return call.finish()[0]


def crop_pixels(
    image: Any, affine: NDArray[np.float64], size: tuple[int, int], rgb: bool, *, out: Any = None
) -> Any:
    """See `edgepose.kernels.reference.crop_pixels`."""
    pixels = _checks.check_image("image", device_view("image", image))
    matrices = _checks.affine_matrices("affine", affine)
    height, width = _checks.output_size("size", size)
    swap = _checks.switch("rgb", rgb)
    shape = (len(matrices), height, width, 3)
    _check_out("out", out, np.uint8, shape, [pixels, affine])
    with Call() as call:
        sources = _sources(call, pixels, matrices)
        to = call.result(out, shape, np.uint8)
        _cuda.crop_pixels(sources, len(matrices), height, width, swap, to, STREAM)
        return call.finish()[0]


def soft_argmax(heatmaps: Any, beta: float = 160.0, out: tuple[Any, Any, Any] | None = None) -> Any:
    """See `edgepose.kernels.reference.soft_argmax`."""
    maps = _checks.check_maps("heatmaps", device_view("heatmaps", heatmaps))
    beta = _checks.temperature("beta", beta)
    n, k = maps.shape[:2]
    shapes = {"coords": (n, k, 2), "scores": (n, k), "covariance": (n, k, 2, 2)}
    _check_outs(out, shapes, [maps])
    with Call() as call:
        stack = _stack(call, maps)
        to_coords, to_scores, to_covariance = _results(call, out, shapes)
        _cuda.soft_argmax(*stack, beta, to_coords, to_scores, to_covariance, STREAM)
        return call.finish()


def argmax_offset(
    heatmaps: Any,
    refine: Literal["quarter", "taylor"] | None = "quarter",
    out: tuple[Any, Any] | None = None,
) -> Any:
    """See `edgepose.kernels.reference.argmax_offset`."""
    maps = _checks.check_maps("heatmaps", device_view("heatmaps", heatmaps))
    step = _checks.refine_name(refine)
    n, k = maps.shape[:2]
    shapes = {"coords": (n, k, 2), "scores": (n, k)}
    _check_outs(out, shapes, [maps])
    with Call() as call:
        stack = _stack(call, maps)
        to_coords, to_scores = _results(call, out, shapes)
        _cuda.argmax_offset(*stack, step, to_coords, to_scores, STREAM)
        return call.finish()


def quarter_offset(heatmaps: Any, coords: Any, out: Any = None) -> Any:
    """See `edgepose.kernels.reference.quarter_offset`."""
    maps = _checks.check_maps("heatmaps", device_view("heatmaps", heatmaps))
    shape = (*maps.shape[:2], 2)
    points = _checks.check_coordinates("coords", device_view("coords", coords), shape)
    _check_out("out", out, np.float32, shape, [maps] if out is coords else [maps, points])
    with Call() as call:
        stack, start = _stack(call, maps), call.put(points)
        to = call.result(out, shape)
        _cuda.quarter_offset(*stack, start, to, STREAM)
        return call.finish()[0]


def flip_average(heatmaps: Any, flipped: Any, flip_pairs: Any, shift: bool, out: Any = None) -> Any:
    """See `edgepose.kernels.reference.flip_average`."""
    maps = _checks.check_maps("heatmaps", device_view("heatmaps", heatmaps))
    other = _checks.check_maps("flipped", device_view("flipped", flipped), maps)
    order = _checks.flip_permutation(flip_pairs, maps.shape[1])
    move = _checks.switch("shift", shift)
    _check_out("out", out, np.float32, maps.shape, [other] if out is heatmaps else [maps, other])
    with Call() as call:
        (stack, half, count, height, width), back = _stack(call, maps), call.put(other)
        joints = call.put_host(order)
        to = call.result(out, maps.shape)
        _cuda.flip_average(stack, back, half, count, height, width, joints, len(order), move, to, STREAM)
        return call.finish()[0]


def mirror(images: Any, out: Any = None) -> Any:
    """Mirror a batch along its width, for the flip test.

    Args:
        images: (n, c, h, w) float32, or (n, h, w, 3) uint8.
        out: of the same shape and dtype.

    Returns:
        Like `images`.
    """
    batch = device_view("images", images)
    known = isinstance(batch, (np.ndarray, DeviceView)) and batch.ndim == 4
    planes = known and batch.dtype == np.float32
    if not planes and not (known and batch.dtype == np.uint8 and batch.shape[3] == 3):
        raise _checks.rejected("images", batch, "a float32 array (n, c, h, w) or a uint8 array (n, h, w, 3)")
    shape = batch.shape
    _check_out("out", out, np.float32 if planes else np.uint8, shape, [batch])
    with Call() as call:
        source = call.put(batch)
        to = call.result(out, shape, batch.dtype)
        if planes:
            _cuda.mirror_planes(source, shape[0] * shape[1] * shape[2], shape[3], to, STREAM)
        else:
            _cuda.mirror_pixels(source, shape[0] * shape[1], shape[2], to, STREAM)
        return call.finish()[0]


def _check_out(
    name: str, out: Any, kind: type[np.generic], shape: tuple[int, ...], inputs: Sequence[Any]
) -> Any:
    """Check an `out=` array, if there is one; return it as the checks see it."""
    if out is None:
        return None
    return _checks.own(name, device_view(name, out), kind, shape, inputs)


def _check_outs(out: Any, shapes: dict[str, tuple[int, ...]], inputs: list[Any]) -> None:
    if out is None:
        return
    if not isinstance(out, (tuple, list)) or len(out) != len(shapes):
        raise _checks.rejected("out", out, f"({', '.join(shapes)})")
    for (name, shape), item in zip(shapes.items(), out, strict=True):
        if item is None:
            raise _checks.rejected(f"out ({name})", item, f"a float32 array of shape {shape}")
        inputs = [*inputs, _check_out(f"out ({name})", item, np.float32, shape, inputs)]


def _results(call: Call, out: Any, shapes: dict[str, tuple[int, ...]]) -> list[int]:
    outs = [None] * len(shapes) if out is None else out
    return [call.result(item, shape) for item, shape in zip(outs, shapes.values(), strict=True)]


def _stack(call: Call, maps: Any) -> tuple[int, bool, int, int, int]:
    """Maps as the launches take them: address, half precision, count, height, width."""
    n, k, height, width = maps.shape
    if height * width >= 1 << 31 or n * k >= 1 << 31:
        raise _checks.rejected("heatmaps", maps, "less than 2^31 maps, of less than 2^31 pixels each")
    return call.put(maps), maps.dtype == np.float16, n * k, height, width


def _sources(call: Call, pixels: Any, matrices: NDArray[np.float64]) -> int:
    """A `CROP_SOURCE` for each crop out of one packed BGR picture."""
    sources = np.zeros(len(matrices), CROP_SOURCE)
    sources["pixels"] = call.put(pixels)
    sources["height"], sources["width"] = pixels.shape[:2]
    sources["stride"] = 3 * pixels.shape[1]
    sources["affine"] = matrices.reshape(-1, 6)
    return call.put_host(sources)
