"""Poses, boxes, identities, certainty and heatmaps drawn on pictures."""

from edgepose.drawing.colors import Palette
from edgepose.drawing.heatmaps import draw_heatmaps
from edgepose.drawing.poses import draw_pose

__all__ = ["Palette", "draw_heatmaps", "draw_pose"]
