"""Runtimes that execute a model file; each is imported only when it is used."""

from __future__ import annotations

from pathlib import Path

from edgepose.backends.base import Backend
from edgepose.errors import ModelFormatError

__all__ = ["Backend", "open_backend"]


def open_backend(path: Path, *, device: str = "auto", threads: int | None = None) -> Backend:
    """Open a model file with the runtime that its suffix asks for.

    Args:
        path: the model file.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        threads: CPU threads of the network; None for all that this process may use.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is not a usable model.
        BackendUnavailableError: the runtime or the device cannot serve.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from edgepose.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, device=device, threads=threads)
    if suffix in (".pt", ".pth", ".ckpt"):
        raise ModelFormatError(
            f"cannot run {path}; it is a PyTorch checkpoint; export it: python -m training export"
        )
    raise ModelFormatError(f"cannot run {path}; found the suffix {suffix!r}; give an .onnx file")
