"""Kernels between image and network and between network and joints.

Each op exists as C++ (``"native"``), numba, numpy and CUDA, with one contract that
`edgepose.kernels.reference` specifies: read there what each op does, for every input.

``"auto"`` never picks ``"cuda"``: it serves arrays that lie on the device, or tests; for others the way
to the device and back costs more than the work there saves.

The functions of this module use what `use` says, else what the environment variable
``EDGEPOSE_KERNELS`` names, else the fastest implementation that is there. Code that should not
depend on that global choice holds a `Kernels` of its own, from `get`:

    kernels = edgepose.kernels.get("native")
    coords, scores, covariance = kernels.soft_argmax(heatmaps)
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import BackendUnavailableError, InvalidInputError
from edgepose.kernels import reference
from edgepose.kernels._checks import Maps
from edgepose.kernels.pose_maps import Groups, MapPass, Peaks, PoseMaps

__all__ = [
    "AUTOMATIC",
    "IMPLEMENTATIONS",
    "OPS",
    "Groups",
    "Kernels",
    "MapPass",
    "Peaks",
    "PoseMaps",
    "adjust",
    "aggregate_nms_topk",
    "argmax_offset",
    "crop_normalize",
    "crop_pixels",
    "flip_average",
    "get",
    "group",
    "quarter_offset",
    "refine",
    "soft_argmax",
    "status",
    "use",
]

Array = NDArray[np.float32]

OPS = (
    "crop_normalize",
    "crop_pixels",
    "soft_argmax",
    "argmax_offset",
    "quarter_offset",
    "flip_average",
    "aggregate_nms_topk",
    "group",
    "adjust",
    "refine",
)
"""Names of the ops."""
IMPLEMENTATIONS = ("native", "numba", "numpy", "cuda")
"""Names of the implementations: those on the processor, the fastest first, and the one on the device."""

AUTOMATIC = ("native", "numba", "numpy")
"""Those on the processor, of which ``"auto"`` takes the first that is there."""

_MODULES = {"native": "native", "numba": "jit", "numpy": "reference", "cuda": "cuda"}
_REMEDIES = {
    "native": (
        "install a C++17 compiler and run `EDGEPOSE_NATIVE=on pip install -v .` in the source tree, "
        "or set EDGEPOSE_KERNELS=numba or numpy to do without"
    ),
    "numba": 'install it: pip install "edgepose[numba]"',
    "cuda": (
        "it needs an NVIDIA GPU with its driver, and edgepose built from source where the CUDA toolkit is: "
        "`EDGEPOSE_CUDA=on pip install -v .`"
    ),
}
_EXTENSIONS = {"native": "_native", "cuda": "_cuda"}
_HERE = Path(__file__).parent


class Kernels:
    """The ops, each bound to an implementation. Immutable; threads may share it.

    Made by `get`. The ops are its methods; `edgepose.kernels.reference` specifies them.

    Attributes:
        requested: the name that `get` was given.
    """

    def __init__(self, requested: str, modules: Mapping[str, ModuleType], reasons: Mapping[str, str]) -> None:
        self.requested = requested
        self._reasons = dict(reasons)
        self._names: dict[str, str] = {}
        self._ops: dict[str, Callable[..., Any]] = {}
        for op in OPS:
            name, module = next((n, m) for n, m in modules.items() if hasattr(m, op))
            self._names[op], self._ops[op] = name, getattr(module, op)

    def __repr__(self) -> str:
        serving = ", ".join(f"{op}={name}" for op, name in self._names.items())
        return f"Kernels({self.requested!r}: {serving})"

    def status(self) -> dict[str, dict[str, str | None]]:
        """Per op: ``implementation``, its ``isa`` (native only, else None), and ``reason``.

        ``reason`` says why a faster implementation does not serve; None where the fastest does.
        """
        result: dict[str, dict[str, str | None]] = {}
        for op, name in self._names.items():
            faster = IMPLEMENTATIONS[: IMPLEMENTATIONS.index(name)]
            if self.requested != "auto" and faster:
                reason = f"{self.requested} was asked for"
            else:
                reason = "; ".join(f"{n}: {self._reasons[n]}" for n in faster if n in self._reasons)
            isa = _load("native").isa() if name == "native" else None
            result[op] = {"implementation": name, "isa": isa, "reason": reason or None}
        return result

    def crop_normalize(
        self,
        image: NDArray[np.uint8],
        affine: NDArray[np.float64],
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        swap_rb: bool,
        fill: float | Sequence[float] = 0,
        out: Array | None = None,
    ) -> Array:
        """Cut n regions out of an image, bilinearly, and normalise them: (n, 3, h, w) float32."""
        result: Array = self._ops["crop_normalize"](image, affine, size, mean, std, swap_rb, fill, out)
        return result

    def crop_pixels(
        self,
        image: NDArray[np.uint8],
        affine: NDArray[np.float64],
        size: tuple[int, int],
        rgb: bool,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Cut n regions out of an image, bilinearly, as whole grey levels: (n, h, w, 3) uint8."""
        result: NDArray[np.uint8] = self._ops["crop_pixels"](image, affine, size, rgb, out=out)
        return result

    def soft_argmax(
        self, heatmaps: Maps, beta: float = 160.0, out: tuple[Array, Array, Array] | None = None
    ) -> tuple[Array, Array, Array]:
        """Beta-Soft-Argmax: coords (n, k, 2), scores (n, k) and covariance (n, k, 2, 2)."""
        result: tuple[Array, Array, Array] = self._ops["soft_argmax"](heatmaps, beta, out)
        return result

    def argmax_offset(
        self,
        heatmaps: Maps,
        refine: Literal["quarter", "taylor"] | None = "quarter",
        out: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Peak with an optional sub-pixel step: coords (n, k, 2) and scores (n, k)."""
        result: tuple[Array, Array] = self._ops["argmax_offset"](heatmaps, refine, out)
        return result

    def quarter_offset(self, heatmaps: Maps, coords: Array, out: Array | None = None) -> Array:
        """Move coordinates (n, k, 2) a quarter pixel towards the larger neighbour."""
        result: Array = self._ops["quarter_offset"](heatmaps, coords, out)
        return result

    def flip_average(
        self, heatmaps: Maps, flipped: Maps, flip_pairs: Any, shift: bool, out: Array | None = None
    ) -> Array:
        """Average the maps of an image with those of its mirror image: (n, k, h, w) float32."""
        result: Array = self._ops["flip_average"](heatmaps, flipped, flip_pairs, shift, out)
        return result

    def aggregate_nms_topk(
        self, maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1
    ) -> Peaks:
        """The best peaks of each joint's final heatmap, with their tags."""
        result: Peaks = self._ops["aggregate_nms_topk"](maps, window, top, threshold)
        return result

    def group(
        self,
        peaks: Peaks,
        joint_order: Sequence[int] | NDArray[np.int64],
        tag_threshold: float = 1.0,
        use_detection_val: bool = True,
        ignore_too_much: bool = False,
        max_persons: int = 30,
        official: bool = False,
    ) -> Groups:
        """Put peaks with similar tags together to persons: (p, k, 3 + t) float32."""
        options = (tag_threshold, use_detection_val, ignore_too_much, max_persons, official)
        result: Groups = self._ops["group"](peaks, joint_order, *options)
        return result

    def adjust(self, maps: PoseMaps, persons: Array) -> Array:
        """Move the joints of new persons towards the larger neighbour: (p, k, 3 + t) float32."""
        result: Array = self._ops["adjust"](maps, persons)
        return result

    def refine(self, maps: PoseMaps, persons: Array) -> Array:
        """Fill the missing joints of persons where the final map fits them best: (p, k, 3 + t) float32."""
        result: Array = self._ops["refine"](maps, persons)
        return result


def get(kernels: str = "auto") -> Kernels:
    """The ops of one implementation, or of the fastest that is there.

    Args:
        kernels: ``"native"``, ``"numba"``, ``"numpy"``, ``"cuda"``, or ``"auto"``: what the environment
            variable ``EDGEPOSE_KERNELS`` names, else the fastest that is there but ``"cuda"``, with one
            warning per process where that is not the native one.

    Raises:
        InvalidInputError: no such name.
        BackendUnavailableError: the implementation that was asked for cannot serve.
    """
    asked = f"kernels={kernels!r}"
    if kernels == "auto" and (wanted := os.environ.get("EDGEPOSE_KERNELS")):
        kernels, asked = wanted, f"EDGEPOSE_KERNELS={wanted}"
    if kernels == "auto":
        return _automatic()
    if kernels not in IMPLEMENTATIONS:
        raise InvalidInputError(f"no such kernels; found {asked}; use auto, {', '.join(IMPLEMENTATIONS)}")
    try:
        module = _load(kernels)
    except ImportError as error:
        raise BackendUnavailableError(
            f"the {kernels} kernels cannot serve; {_reason(kernels, error)}; {_REMEDIES[kernels]}"
        ) from error
    return Kernels(kernels, {kernels: module}, {})


def use(kernels: str = "auto") -> None:
    """Choose the implementation behind this module's functions, for the whole process.

    Takes the names of `get` and raises what it raises.
    """
    global _current
    _current = get(kernels)


def status() -> dict[str, dict[str, str | None]]:
    """`Kernels.status` of the implementation behind this module's functions."""
    return _serving().status()


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{_MODULES[name]}")


def _reason(name: str, error: ImportError) -> str:
    """Why an implementation cannot be imported, as far as is known."""
    extension = _EXTENSIONS.get(name)
    if extension and importlib.util.find_spec(f"{__name__}.{extension}") is None:
        note = _HERE / f"{extension}_skipped.txt"
        if note.is_file():
            return f"the extension was not built: {note.read_text('utf-8').strip()}"
        return "the extension was not built"
    if name == "numba" and importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    return f"{type(error).__name__}: {error}"


_warned = False


def _automatic() -> Kernels:
    global _warned
    reasons: dict[str, str] = {}
    for name in AUTOMATIC:
        try:
            modules = {name: _load(name)}
        except ImportError as error:
            reasons[name] = _reason(name, error)
            continue
        break
    if "native" in reasons and not _warned:
        _warned = True
        warnings.warn(
            f"the native kernels cannot serve ({reasons['native']}); {name} serves instead, slower; "
            f"{_REMEDIES['native']}",
            RuntimeWarning,
            stacklevel=3,
        )
    return Kernels("auto", modules, reasons)


_current: Kernels | None = None


def _serving() -> Kernels:
    global _current
    if _current is None:
        _current = get()
    return _current


def crop_normalize(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    swap_rb: bool,
    fill: float | Sequence[float] = 0,
    out: Array | None = None,
) -> Array:
    """Cut n regions out of an image, bilinearly, and normalise them: (n, 3, h, w) float32.

    Specified by `edgepose.kernels.reference.crop_normalize`.
    """
    return _serving().crop_normalize(image, affine, size, mean, std, swap_rb, fill, out)


def crop_pixels(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    size: tuple[int, int],
    rgb: bool,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Cut n regions out of an image, bilinearly, as whole grey levels: (n, h, w, 3) uint8.

    Specified by `edgepose.kernels.reference.crop_pixels`.
    """
    return _serving().crop_pixels(image, affine, size, rgb, out=out)


def soft_argmax(
    heatmaps: Maps, beta: float = 160.0, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Beta-Soft-Argmax: coords (n, k, 2), scores (n, k) and covariance (n, k, 2, 2).

    Specified by `edgepose.kernels.reference.soft_argmax`.
    """
    return _serving().soft_argmax(heatmaps, beta, out)


def argmax_offset(
    heatmaps: Maps,
    refine: Literal["quarter", "taylor"] | None = "quarter",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Peak with an optional sub-pixel step: coords (n, k, 2) and scores (n, k).

    Specified by `edgepose.kernels.reference.argmax_offset`.
    """
    return _serving().argmax_offset(heatmaps, refine, out)


def quarter_offset(heatmaps: Maps, coords: Array, out: Array | None = None) -> Array:
    """Move coordinates (n, k, 2) a quarter pixel towards the larger neighbour.

    Specified by `edgepose.kernels.reference.quarter_offset`.
    """
    return _serving().quarter_offset(heatmaps, coords, out)


def flip_average(
    heatmaps: Maps, flipped: Maps, flip_pairs: Any, shift: bool, out: Array | None = None
) -> Array:
    """Average the maps of an image with those of its mirror image: (n, k, h, w) float32.

    Specified by `edgepose.kernels.reference.flip_average`.
    """
    return _serving().flip_average(heatmaps, flipped, flip_pairs, shift, out)


def aggregate_nms_topk(maps: PoseMaps, window: int = 5, top: int = 30, threshold: float = 0.1) -> Peaks:
    """The best peaks of each joint's final heatmap, with their tags.

    Specified by `edgepose.kernels.reference.aggregate_nms_topk`.
    """
    return _serving().aggregate_nms_topk(maps, window, top, threshold)


def group(
    peaks: Peaks,
    joint_order: Sequence[int] | NDArray[np.int64],
    tag_threshold: float = 1.0,
    use_detection_val: bool = True,
    ignore_too_much: bool = False,
    max_persons: int = 30,
    official: bool = False,
) -> Groups:
    """Put peaks with similar tags together to persons: (p, k, 3 + t) float32.

    Specified by `edgepose.kernels.reference.group`.
    """
    options = (tag_threshold, use_detection_val, ignore_too_much, max_persons, official)
    return _serving().group(peaks, joint_order, *options)


def adjust(maps: PoseMaps, persons: Array) -> Array:
    """Move the joints of new persons towards the larger neighbour: (p, k, 3 + t) float32.

    Specified by `edgepose.kernels.reference.adjust`.
    """
    return _serving().adjust(maps, persons)


def refine(maps: PoseMaps, persons: Array) -> Array:
    """Fill the missing joints of persons where the final map fits them best: (p, k, 3 + t) float32.

    Specified by `edgepose.kernels.reference.refine`.
    """
    return _serving().refine(maps, persons)


for _op in OPS:  # help() shows the whole specification
    globals()[_op].__doc__ = getattr(Kernels, _op).__doc__ = getattr(reference, _op).__doc__
