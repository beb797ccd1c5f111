"""The emulated CUDA kernels in place of those for a GPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from tests.fakes import streams

__all__ = ["EMULATION", "emulate"]

EMULATION = os.environ.get("EDGEPOSE_EMULATION")
"""Folder with the module _cuda_emulated, or None."""


def emulate() -> None:
    """Put the module in place of `edgepose.kernels._cuda`, for the whole process."""
    name = "edgepose.kernels._cuda"
    if name in sys.modules:
        return
    assert EMULATION
    files = sorted(Path(EMULATION).resolve().glob("_cuda_emulated*.so"))
    assert len(files) == 1, (
        f"EDGEPOSE_EMULATION={EMULATION} must hold one _cuda_emulated module; found {files}"
    )
    spec = importlib.util.spec_from_file_location("_cuda_emulated", files[0])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    streams.forward_to(module.submit)
