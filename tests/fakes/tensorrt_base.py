"""What the classes of the fake TensorRT share: how strict they are, and what switches them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PLAN, CACHE = b"fake plan", b"fake timing cache"
NULL = "pybind11::init(): factory function returned nullptr"


class Misuse(AssertionError):
    """The package was used in a way that is undefined behaviour with the real one."""


class Crash(BaseException):
    """The real package would take the process down."""


@dataclass
class Control:
    """Switches of one fake module, and what was done with it.

    Attributes:
        version: of TensorRT.
        cuda: whether there is a usable GPU.
        sm: its compute capability.
        dla_cores: how many there are.
        fail: ``"Class.method"`` of calls that fail, each time.
        check_memory: called with address and bytes before a context touches them; False is `Misuse`.
        log: (severity, message) of all that was logged.
        configs: the `IBuilderConfig` of each build.
        networks: the `INetworkDefinition` of each build.
        timed: layers that builds had to time, as the timing cache did not hold them.
        deserialized: plans that became engines.
        runs: (stream, shapes by name) of each execution.
        default_stream: executions on stream 0, which the real package makes slow.
    """

    version: str
    cuda: bool = True
    sm: tuple[int, int] = (8, 7)
    dla_cores: int = 0
    fail: set[str] = field(default_factory=set)
    check_memory: Callable[[int, int], bool] | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    configs: list[Any] = field(default_factory=list)
    networks: list[Any] = field(default_factory=list)
    timed: int = 0
    deserialized: int = 0
    runs: list[tuple[int, dict[str, tuple[int, ...]]]] = field(default_factory=list)
    default_stream: int = 0
    logger: Any = None

    def numbers(self, version: str | None = None) -> tuple[int, ...]:
        """The version, or another one, to compare."""
        return tuple(int(part) for part in (version or self.version).split("."))


class Enum:
    """A value of an enum of pybind11."""

    def __init__(self, name: str, value: int) -> None:
        self.__dict__.update(name=name, value=value)

    def __int__(self) -> int:
        return int(self.__dict__["value"])

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and int(self) == int(other)  # type: ignore[call-overload]

    def __hash__(self) -> int:
        return hash((type(self).__name__, int(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.__dict__['name']}: {int(self)}>"


class Guarded:
    """A class of pybind11: it has the recorded names and no others, unless Python code inherits from it."""

    _members: frozenset[str] = frozenset()
    _control: Control
    _trt: Any

    def __getattribute__(self, name: str) -> Any:
        if (
            not name.startswith("_")
            and type(self).__dict__.get("_native")
            and name not in type(self)._members
        ):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and type(self).__dict__.get("_native"):
            known = type(self)._members
            if name not in known or callable(getattr(type(self), name, None)):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)

    def _say(self, message: str, severity: str = "ERROR") -> None:
        self._control.log.append((severity, message))
        logger = self._control.logger
        if logger is not None:
            logger.log(getattr(self._trt.ILogger.Severity, severity), message)


def check_logger(self: Any, logger: Any) -> None:
    if not isinstance(logger, self._trt.ILogger):
        raise TypeError(f"__init__(): incompatible constructor arguments: {logger!r}")
    if not logger.__dict__.get("_ready"):
        raise TypeError(f"{type(logger).__name__}.__init__() must be called when overriding __init__")
    self._control.logger = self._control.logger or logger  # TensorRT keeps to the first one


def sealed(mark: bytes, content: bytes) -> bytes:
    return mark + zlib.crc32(content).to_bytes(4, "little") + content


def opened(mark: bytes, content: bytes) -> bytes | None:
    start = len(mark) + 4
    if (
        content[: len(mark)] != mark
        or zlib.crc32(content[start:]).to_bytes(4, "little") != content[start - 4 : start]
    ):
        return None
    return content[start:]
