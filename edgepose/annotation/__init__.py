"""The poses of many pictures into one file: on all cores or a cluster, and resumable."""

from __future__ import annotations

from edgepose.annotation.cluster import PoseActor
from edgepose.annotation.run import Annotated, annotate

__all__ = ["Annotated", "PoseActor", "annotate"]
