"""The poses of many pictures into one file: on all cores or a cluster, and resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgepose.annotation.run import Annotated, annotate

if TYPE_CHECKING:
    from edgepose.annotation.cluster import PoseActor

__all__ = ["Annotated", "PoseActor", "annotate"]


def __getattr__(name: str) -> Any:
    if name != "PoseActor":
        raise AttributeError(f"module 'edgepose.annotation' has no attribute {name!r}")
    from edgepose.annotation.cluster import PoseActor

    return PoseActor
