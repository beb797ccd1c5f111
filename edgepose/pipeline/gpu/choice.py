"""Whether the steps around a network on the GPU run there, too. What needs CUDA kernels is imported late."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from edgepose import kernels as kernel_ops
from edgepose.backends.base import DeviceNetwork
from edgepose.errors import BackendUnavailableError
from edgepose.pipeline.bottomup import FrameRunner
from edgepose.pipeline.topdown import CropRunner
from edgepose.spec import ModelSpec

__all__ = ["device_crops", "device_frames", "lacking"]

_log = logging.getLogger("edgepose")


def lacking(kernels: str) -> str:
    """Why the steps around a network on the GPU run on the CPU; empty where they run there, too.

    Args:
        kernels: as `edgepose.kernels.get` takes it; ``"auto"`` is the GPU where its kernels serve.

    Raises:
        BackendUnavailableError: they were asked for there and cannot.
    """
    wanted = (kernels == "auto" and os.environ.get("EDGEPOSE_KERNELS")) or kernels
    if wanted not in ("auto", "cuda"):
        return f"crops and decoding on the CPU, as kernels {wanted!r} were asked for"
    try:
        kernel_ops.get("cuda")
    except BackendUnavailableError as error:
        if wanted == "cuda":
            raise
        _log.warning("crops and decoding run on the CPU, slower: %s", error)
        return f"crops and decoding on the CPU: {error}"
    return ""


def device_crops(network: DeviceNetwork, spec: ModelSpec, flip_test: bool) -> CropRunner:
    """Crops, network and decoder of a top-down model on the GPU."""
    from edgepose.pipeline.gpu.topdown import DeviceCrops

    return DeviceCrops(network, spec, flip_test=flip_test)


def device_frames(network: DeviceNetwork, spec: ModelSpec, options: Mapping[str, Any]) -> FrameRunner:
    """Regions, network and grouping of a bottom-up model on the GPU, by an estimator's options."""
    from edgepose.pipeline.gpu.bottomup import DeviceFrames

    return DeviceFrames(
        network,
        spec,
        scales=options["scales"],
        flip_test=options["flip_test"],
        refine=options["refine"],
        official=options["official_grouping"],
        max_persons=options["max_persons"],
    )
