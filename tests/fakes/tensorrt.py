"""A stand-in for TensorRT's Python package, which needs no GPU and is as strict as the documentation.

`make` gives a module of one version. Names, arguments and enum values are those recorded in
``tensorrt_names.json``; anything else raises AttributeError or TypeError, as the real package would. A call
that fails returns None, False or -1 and logs, which is TensorRT's way. Plans hold the ONNX model, and
contexts run it with ONNX Runtime on host memory at the addresses they are given, on `tests.fakes.streams`.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes import tensorrt_build, tensorrt_run
from tests.fakes.tensorrt_base import NULL, Control, Crash, Enum, Guarded, Misuse
from tests.fakes.tensorrt_run import nptype

__all__ = ["VERSIONS", "Control", "Crash", "Misuse", "control", "install", "make"]

RECORD = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
VERSIONS: tuple[str, ...] = tuple(RECORD["versions"])

SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


def control(module: Any) -> Control:
    """The switches of a module that `make` gave."""
    switches: Control = module.__dict__["_control"]
    return switches


def make(version: str, **switches: Any) -> Any:
    """A module of one version of TensorRT.

    Args:
        version: of `VERSIONS`.
        switches: fields of `Control`.
    """
    return _Maker(version, Control(version, **switches)).module()


def install(monkeypatch: Any, version: str = "10.3.0", **switches: Any) -> Any:
    """Put a fake module in the place of the package for one test."""
    module = make(version, **switches)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


_FAILED = {"bool": False, "int": -1, "object": None}


class _Maker:
    """Makes the classes of one version."""

    def __init__(self, version: str, switches: Control) -> None:
        self._place = VERSIONS.index(version)
        self._control = switches
        self._module = types.ModuleType("tensorrt")

    def module(self) -> Any:
        module = self._module
        module.__dict__.update(__version__=self._control.version, _control=self._control, nptype=nptype)
        module.__dict__.update(init_libnvinfer_plugins=lambda logger, namespace: True)
        for name, record in RECORD["classes"].items():
            if self._place in record["in"]:
                setattr(module, name, self._enum(name, record) if "values" in record else None)
        for name, record in RECORD["classes"].items():
            if self._place in record["in"] and "values" not in record:
                setattr(module, name, self._class(name, record))
        severity = type("Severity", (Enum,), {})
        for value, name in enumerate(SEVERITIES):
            setattr(severity, name, severity(name, value))
        for owner in (module.ILogger, module.Logger):
            owner.Severity = severity
            for name in SEVERITIES:
                setattr(owner, name, getattr(severity, name))
        return module

    def _enum(self, name: str, record: dict[str, Any]) -> type:
        names = [n for n, (places, *_) in record["members"].items() if self._place in places]
        names = [n for n in names if n not in ("name", "value", "itemsize")]
        values = record["values"].get(str(self._place), {})  # of few enums unknown: any numbers serve
        kind = type(name, (Enum,), {"_names": names})
        for place, member in enumerate(names):
            setattr(kind, member, kind(member, values.get(member, place)))
        return kind

    def _class(self, name: str, record: dict[str, Any]) -> type:
        members = frozenset(n for n, (places, *_) in record["members"].items() if self._place in places)
        behaviour = getattr(tensorrt_build, name, getattr(tensorrt_run, name, Guarded))
        body: dict[str, Any] = {
            "_members": members, "_native": True, "_behaviour": behaviour, "_control": self._control,
            "_trt": self._module,
        }  # fmt: skip
        for member in members:
            _, *signatures = record["members"][member]
            if signatures and not isinstance(getattr(behaviour, member, None), property):
                body[member] = self._method(name, member, behaviour, signatures[0])
        if "init" in record:
            body["__init__"] = self._method(
                name, "__init__", behaviour, [[args, ""] for args in record["init"]]
            )
        bases: tuple[type, ...] = (behaviour,)
        if name == "Logger":
            bases = (behaviour, self._module.ILogger)
        made = type(name, bases, body)
        made.__module__ = "tensorrt"
        return made

    def _method(self, owner: str, name: str, behaviour: type, overloads: list[Any]) -> Callable[..., Any]:
        honest = behaviour.__dict__.get(name) or getattr(behaviour, name, None)
        switches = self._control

        def method(self: Any, *arguments: Any, **named: Any) -> Any:
            values = _bound(f"{owner}.{name}", overloads, arguments, named)
            if f"{owner}.{name}" in switches.fail:
                self._say(f"{owner}.{name} failed")
                if name == "__init__":
                    raise TypeError(NULL)
                return _FAILED[overloads[0][1]]
            if honest is None or honest is object.__init__:
                if name == "__init__":
                    return None
                raise NotImplementedError(f"the fake does not do {owner}.{name}")
            return honest(self, **values)

        method.__name__ = name
        return method


def _bound(
    name: str, overloads: list[Any], arguments: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, of the first signature that they fit."""
    for wanted, _ in overloads:
        names = [argument.rstrip("=") for argument in wanted]
        if len(arguments) > len(names):
            continue
        values = dict(zip(names, arguments, strict=False))
        if values.keys() & named.keys() or not named.keys() <= set(names):
            continue
        values.update(named)
        if all(argument.endswith("=") or argument in values for argument in wanted):
            return values
    raise TypeError(
        f"{name}(): incompatible function arguments: {arguments}, {sorted(named)}; has {overloads}"
    )
