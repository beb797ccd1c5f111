"""What every runtime offers, and how many CPU threads it may use."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import InvalidInputError
from edgepose.spec import ModelSpec

if TYPE_CHECKING:
    from edgepose.backends.device import Device, Stream

__all__ = [
    "HEATMAPS",
    "INPUT",
    "TAGS",
    "Backend",
    "Batch",
    "Binding",
    "DeviceArray",
    "DeviceNetwork",
    "cache_folder",
    "channels_fit",
    "check_device",
    "default_threads",
    "device_network",
    "in_order",
    "input_port",
    "padded_batch",
    "sides_of",
    "usual_size",
    "wanted_outputs",
]

Batch = NDArray[np.float32 | np.uint8]
"""Input of a network, in the form of `ModelSpec.input_format`."""

INPUT = "image"
HEATMAPS = "heatmaps"
TAGS = "tags"


class Backend(Protocol):
    """A loaded model. Not thread-safe: one call at a time.

    Attributes:
        spec: the description that the file carries.
        name: the runtime, for instance ``"onnxruntime"``.
        device: where it runs: ``"cpu"`` or ``"cuda:0"``.
        input_size: (height, width) that the network takes, None where they are free.
    """

    spec: ModelSpec
    name: str
    device: str
    input_size: tuple[int, int] | None

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Run the network.

        Args:
            batch: (n, 3, h, w) float32, normalised, or (n, h, w, 3) uint8, as `ModelSpec.input_format`
                says; C-contiguous, any n ≥ 1, and of `input_size` where that is fixed.

        Returns:
            Arrays by output name, in the order of the file, which the caller may keep. Top-down:
            ``"heatmaps"`` (n, k, h', w'). Bottom-up: those whose names begin with ``"heatmaps"``, (n, k, h',
            w') by rising size, and with ``"tags"``, (n, 1 or a multiple of k, h', w').
        """

    def describe(self) -> dict[str, Any]:
        """What serves and why, ready for JSON.

        Returns:
            ``name``, ``version``, ``device``; ``reason``, in one sentence why this runtime and device serve;
            ``threads``, but of TensorRT; and of ONNX Runtime ``providers``, and on CUDA ``device_memory``:
            ``"pycuda"`` or why `device_network` gives None; of OpenVINO ``precision``, that of layers in
            floating point; of TensorRT ``gpu``, ``compute_capability``, ``precision``, ``typing`` and
            ``batch_sizes``.
        """

    def close(self) -> None:
        """Release the model. `run` must not be called again."""


@dataclass(frozen=True)
class DeviceArray:
    """An array in a device's memory, C-contiguous.

    Attributes:
        pointer: its address there.
        shape: as of a numpy array.
        dtype: of its elements.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; whoever reads it sees to the order of streams."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }


class Binding(Protocol):
    """Buffers on the device and all that a network needs to run on them, for one shape of its input.

    Attributes:
        input: written before `enqueue`.
        outputs: by name, as `Backend.run` returns them, float32 or float16; written by `enqueue`.
    """

    @property
    def input(self) -> DeviceArray: ...
    @property
    def outputs(self) -> Mapping[str, DeviceArray]: ...

    def enqueue(self, stream: int) -> None:
        """Put one run of the network on a stream, by its handle; nothing is waited for.

        Raises:
            BackendUnavailableError: the run is refused, or this is closed.
        """

    def close(self) -> None:
        """Release the buffers, once work on them has ended. May be called twice, from any thread."""


class DeviceNetwork(Protocol):
    """A network that reads and writes a CUDA device's memory. See `device_network`.

    Attributes:
        cuda: its device.
        capturable: whether `Binding.enqueue` may be captured into a CUDA graph, after one run without.
        batch_sizes: the least and the greatest n that it takes.
        stream: the one stream that it runs on, which others can only wait for; None: any.
    """

    capturable: bool

    @property
    def cuda(self) -> Device: ...
    @property
    def batch_sizes(self) -> tuple[int, int]: ...
    @property
    def stream(self) -> Stream | None: ...

    def bind(self, shape: tuple[int, ...]) -> Binding:
        """Buffers and a context of their own for an input of this shape, so that both can be kept.

        Args:
            shape: (n, 3, h, w) or (n, h, w, 3), as `Backend.run`'s batch.

        Raises:
            BackendUnavailableError: the network does not take the shape, or there is no memory for it.
        """


def device_network(backend: Backend) -> DeviceNetwork | None:
    """The same backend as a network on a CUDA device, None where it is none."""
    return cast("DeviceNetwork", backend) if getattr(backend, "cuda", None) is not None else None


def padded_batch(count: int, least: int, most: int) -> int:
    """Pictures of a run for `count`, at most `most`: a power of two within bounds, so that few are in use."""
    return min(max(least, 1 << (count - 1).bit_length()), most)


def in_order(outputs: Mapping[str, DeviceArray]) -> dict[str, DeviceArray]:
    """Outputs in the order that pipelines expect: heatmaps, then tags, each by rising size.

    Runtimes that do not keep the order of the file give them through this.
    """
    rank = {name: (name.startswith(TAGS), math.prod(item.shape[2:]), name) for name, item in outputs.items()}
    return {name: outputs[name] for name in sorted(outputs, key=lambda name: rank[name])}


def wanted_outputs(spec: ModelSpec, names: Sequence[str]) -> list[str]:
    """Those of a network's outputs that its task needs, in their order; empty where one is lacking."""
    if spec.task == "topdown":
        return [HEATMAPS] if HEATMAPS in names else []
    wanted = [name for name in names if name.startswith((HEATMAPS, TAGS))]
    complete = all(any(name.startswith(kind) for name in wanted) for kind in (HEATMAPS, TAGS))
    return wanted if complete else []


def sides_of(spec: ModelSpec) -> slice:
    """Where height and width stand in the shape of a network's input."""
    return slice(1, 3) if spec.input_format == "uint8_nhwc" else slice(2, 4)


def usual_size(spec: ModelSpec) -> tuple[int, int]:
    """(height, width) of pictures that a model is made for; of an engine, of those it is fastest with."""
    engine = spec.provenance.get("engine")
    profile = engine.get("profile") if isinstance(engine, dict) else None
    if spec.task == "bottomup" and isinstance(profile, dict):
        height, width = profile["opt"][sides_of(spec)]
        return height, width
    return spec.input_size


def input_port(spec: ModelSpec, batch: Any, sides: Sequence[Any]) -> tuple[str, list[Any]]:
    """Type and shape that a network's input has by its spec, given those of its axes that vary."""
    if spec.input_format == "uint8_nhwc":
        return "tensor(uint8)", [batch, *sides, 3]
    return "tensor(float)", [batch, 3, *sides]


def channels_fit(output: str, channels: int, joints: int) -> bool:
    """Whether an output may have so many channels: heatmaps one per joint, tags also 1 or a multiple."""
    if output.startswith(TAGS):
        return channels == 1 or (channels > 0 and channels % joints == 0)
    return channels == joints


def check_device(device: str) -> str | None:
    """The number of the CUDA device that a device's name asks for, "0" where it gives none; else None.

    Raises:
        InvalidInputError: it is none of ``"auto"``, ``"cpu"``, ``"cuda"`` and ``"cuda:N"``.
    """
    match = re.fullmatch(r"(?:auto|cpu|cuda(?::(\d+))?)", device) if isinstance(device, str) else None
    if match is None:
        raise InvalidInputError(
            f"unknown device {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:1' (another number)"
        )
    return match[1] or "0" if device.startswith("cuda") else None


def cache_folder() -> Path:
    """Where edgepose keeps what takes long to make; it need not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgepose"


def default_threads() -> int:
    """CPU cores that this process may use: its affinity, limited by its control group's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _quota()))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs that the control group (version 2 or 1) allows, rounded up."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else _UNLIMITED
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or "max": no limit
        return _UNLIMITED


_UNLIMITED = 1 << 16
