"""The pipelines whole on the GPU: pictures in, joints out, everything between as one CUDA graph."""

from edgepose.pipeline.gpu.bottomup import DeviceFrames
from edgepose.pipeline.gpu.topdown import DeviceCrops

__all__ = ["DeviceCrops", "DeviceFrames"]
