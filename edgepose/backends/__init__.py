"""Runtimes that execute a model file; each is imported only when it is used."""

from __future__ import annotations

from pathlib import Path

from edgepose.backends.base import Backend
from edgepose.errors import ModelFormatError
from edgepose.spec import ModelSpec

__all__ = ["Backend", "open_backend", "read_model_spec"]


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
    _check_suffix(path)
    from edgepose.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, device=device, threads=threads)


def read_model_spec(path: Path) -> ModelSpec:
    """The description that a model file carries, read without its runtime.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is not a usable model.
    """
    _check_suffix(path)
    from edgepose.backends.onnx_metadata import read_spec

    return read_spec(path)


def _check_suffix(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in (".pt", ".pth", ".ckpt"):
        raise ModelFormatError(
            f"cannot run {path}; it is a PyTorch checkpoint; export it: python -m training export"
        )
    if suffix != ".onnx":
        raise ModelFormatError(f"cannot run {path}; found the suffix {suffix!r}; give an .onnx file")
