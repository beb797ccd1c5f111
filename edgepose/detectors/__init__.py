"""Boxes of persons for top-down models: from a function, a bottom-up model, or an ONNX detector."""

from edgepose.detectors.families import FAMILIES
from edgepose.detectors.finder import MARGIN, Detector, PersonFinder, detect, person_boxes
from edgepose.detectors.nms import nms
from edgepose.detectors.onnx import OnnxDetector

__all__ = [
    "FAMILIES",
    "MARGIN",
    "Detector",
    "OnnxDetector",
    "PersonFinder",
    "detect",
    "nms",
    "person_boxes",
]
