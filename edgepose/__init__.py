"""edgepose: 2D human pose estimation on the edge.

>>> import edgepose
>>> estimator = edgepose.Estimator()
>>> result = estimator("photo.jpg")
>>> result[0]["left_wrist"].x
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepose.annotation.run import Annotated, annotate
    from edgepose.detectors import OnnxDetector
    from edgepose.drawing import Palette, draw_heatmaps, draw_pose
    from edgepose.errors import (
        BackendUnavailableError,
        BuildError,
        CalibrationError,
        EdgePoseError,
        EngineMismatchError,
        InvalidInputError,
        ModelFormatError,
        ModelNotFoundError,
        ParityError,
    )
    from edgepose.estimator import Estimator, EstimatorInfo
    from edgepose.result import Joint, Person, PoseResult, Source, Timings
    from edgepose.skeleton import Skeleton, coco17, crowdpose14, lsp14, mpii16
    from edgepose.smoothing import OneEuro
    from edgepose.sources import Frame, FrameSource, Skip, open_source, read_image
    from edgepose.spec import Decoder, Grouping, ModelSpec
    from edgepose.streams.stream import PoseStream, SourceStatus
    from edgepose.tracking import Tracker

__version__ = "0.1.0"

_MODULES = {
    "annotation.run": ("Annotated", "annotate"),
    "detectors": ("OnnxDetector",),
    "drawing": ("Palette", "draw_heatmaps", "draw_pose"),
    "errors": (
        "BackendUnavailableError",
        "BuildError",
        "CalibrationError",
        "EdgePoseError",
        "EngineMismatchError",
        "InvalidInputError",
        "ModelFormatError",
        "ModelNotFoundError",
        "ParityError",
    ),
    "estimator": ("Estimator", "EstimatorInfo"),
    "result": ("Joint", "Person", "PoseResult", "Source", "Timings"),
    "skeleton": ("Skeleton", "coco17", "crowdpose14", "lsp14", "mpii16"),
    "smoothing": ("OneEuro",),
    "sources": ("Frame", "FrameSource", "Skip", "open_source", "read_image"),
    "spec": ("Decoder", "Grouping", "ModelSpec"),
    "streams.stream": ("PoseStream", "SourceStatus"),
    "tracking": ("Tracker",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Annotated",
    "BackendUnavailableError",
    "BuildError",
    "CalibrationError",
    "Decoder",
    "EdgePoseError",
    "EngineMismatchError",
    "Estimator",
    "EstimatorInfo",
    "Frame",
    "FrameSource",
    "Grouping",
    "InvalidInputError",
    "Joint",
    "ModelFormatError",
    "ModelNotFoundError",
    "ModelSpec",
    "OneEuro",
    "OnnxDetector",
    "Palette",
    "ParityError",
    "Person",
    "PoseResult",
    "PoseStream",
    "Skeleton",
    "Skip",
    "Source",
    "SourceStatus",
    "Timings",
    "Tracker",
    "__version__",
    "annotate",
    "coco17",
    "crowdpose14",
    "draw_heatmaps",
    "draw_pose",
    "kernels",
    "lsp14",
    "mpii16",
    "open_source",
    "read_image",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name in ("kernels", "serve"):
        return importlib.import_module(f"edgepose.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgepose' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgepose.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
