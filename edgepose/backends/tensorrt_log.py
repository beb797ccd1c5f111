"""TensorRT's package, its version and its log: it logs why a call failed, so that errors quote it."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

from edgepose.errors import BackendUnavailableError
from edgepose.optional import require

__all__ = ["import_tensorrt", "quoted", "tensorrt_logger", "version_of"]

OLDEST = (8, 6)
WRONG = (10, 2, 0)
"""Computes wrong results without a word."""

KEPT = 400
"""Lines of the log that are kept."""
QUOTED = 4
"""Lines that an error quotes, at most."""

_log = logging.getLogger("edgepose")
_loggers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_lock = threading.Lock()


def import_tensorrt(purpose: str) -> Any:
    """Import TensorRT, which touches no GPU yet.

    Raises:
        BackendUnavailableError: it is not installed, does not load, is too old, or is the one that computes
            wrong results; `purpose` is the message's subject.
    """
    trt = require("tensorrt", purpose, "edgepose[tensorrt]")
    version = version_of(trt)
    if version < OLDEST or version[:3] == WRONG:
        why = "which computes wrong results" if version >= OLDEST else "which is too old"
        raise BackendUnavailableError(
            f"{purpose} needs TensorRT 8.6 or later, but not 10.2.0; found {trt.__version__}, {why}; install "
            "another"
        )
    return trt


def version_of(trt: Any) -> tuple[int, ...]:
    """The version of the package, to compare."""
    match = re.match(r"\d+(?:\.\d+)*", str(trt.__version__))
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def tensorrt_logger(trt: Any) -> Any:
    """The one logger of this process, to give to ``trt.Builder`` and ``trt.Runtime``.

    It keeps the last `KEPT` lines and passes them on to Python's logger ``edgepose``: as `logging.INFO` what
    TensorRT calls errors and warnings, as `logging.DEBUG` the rest. Its `mark` is for `quoted`.

    Args:
        trt: the imported package.
    """
    with _lock:
        if trt not in _loggers:
            _loggers[trt] = _logger_class(trt)()
        return _loggers[trt]


def quoted(logger: Any, mark: int) -> str:
    """The last errors since a mark, in one line, for a message; else the last warnings, else ``"nothing"``.

    Args:
        logger: of `tensorrt_logger`.
        mark: what its `mark` returned before the call that failed.
    """
    lines = [(kind, text) for number, kind, text in list(logger.lines) if number >= mark]
    errors = [text for kind, text in lines if kind.endswith("ERROR")]
    found = errors or [text for kind, text in lines if kind == "WARNING"]
    return "; ".join(" ".join(text.split()) for text in found[-QUOTED:]) or "nothing"


def _logger_class(trt: Any) -> type:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[tuple[int, str, str]] = deque(maxlen=KEPT)
            self._count = 0

        def log(self, severity: Any, msg: str) -> None:
            # TensorRT calls this from threads of its own; appending is one step.
            self._count += 1
            self.lines.append((self._count, severity.name, msg))
            level = logging.DEBUG if severity.name in ("INFO", "VERBOSE") else logging.INFO
            _log.log(level, "TensorRT: %s", msg)

        def mark(self) -> int:
            """The number of the next line."""
            return self._count + 1

    return Log
