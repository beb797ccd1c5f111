"""How numba compiles the kernels. Importing this module imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile without the interpreter's lock, cached on disk where there is a place for it.

    The cache notices a change of the function's own file only. So functions that call one another stand in
    one file, however long; after a change of a constant that another file defines, run ``make clean``, or
    delete ``edgepose/kernels/__pycache__``.
    """
    try:
        result: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba found no place to cache in
        result = numba.njit(nogil=True)(function)
    return result  # type: ignore[no-any-return]
