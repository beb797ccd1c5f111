"""The pipelines whole on the GPU: pictures in, joints out, everything between as one CUDA graph."""
