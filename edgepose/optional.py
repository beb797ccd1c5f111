"""Optional packages, imported where they are needed."""

from __future__ import annotations

import importlib
import os
from typing import Any

from edgepose.errors import BackendUnavailableError

__all__ = ["first_line", "require", "require_cv2"]


def require(module: str, purpose: str, install: str) -> Any:
    """Import an optional package.

    Args:
        module: its import name.
        purpose: what it is needed for, as the subject of the message.
        install: arguments of ``pip install`` that bring it.

    Raises:
        BackendUnavailableError: it is not installed or does not load; the message says what to install.
    """
    if module.partition(".")[0] == "onnxruntime":
        # From 1.29 on it reports sessions, with names and hashes of models, to its makers unless told not to.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken binary can raise anything
        raise BackendUnavailableError(
            f'{purpose} needs {module}; found {error}; install it: pip install "{install}"'
        ) from error


def require_cv2(purpose: str) -> Any:
    """Import OpenCV, of any distribution that provides `cv2`.

    Raises:
        BackendUnavailableError: there is none.
    """
    return require("cv2", purpose, "edgepose[cpu]")


def first_line(error: Exception) -> str:
    """What an error of another package says, in one line; its type where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
