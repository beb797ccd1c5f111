"""Files that hold a TensorRT engine, read and written without TensorRT, ONNX or a GPU.

An ``.engine`` file, all numbers little-endian:

====================  =======  ==============================================
magic                 8 bytes  ``EDGEPOSE``
version               u32      1
length of the JSON    u64      at most `edgepose.spec.MAX_JSON_BYTES`
JSON                           the `ModelSpec`
CRC-32 of the JSON    u32
length of the plan    u64
SHA-256 of the plan   32 bytes
plan                           what TensorRT serialised, up to the end
====================  =======  ==============================================

The other form is the bare plan, for tools that take nothing else, with the spec beside it: next to ``X.plan``
stands ``X.plan.json`` with ``{"plan": {"bytes": …, "sha256": …}, "spec": …}``.

A plan runs only where it was built for. What that is stands in ``spec.provenance["engine"]``, see
`EngineBuild`, and is compared with the machine before TensorRT sees the plan: `check_fits`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from edgepose._files import write_whole
from edgepose.errors import EngineMismatchError, ModelFormatError, ModelNotFoundError
from edgepose.spec import MAX_JSON_BYTES, ModelSpec

__all__ = [
    "COMPATIBILITIES",
    "ENGINE_SUFFIXES",
    "MAGIC",
    "EngineBuild",
    "EngineFile",
    "Platform",
    "check_fits",
    "read_engine",
    "read_engine_spec",
    "side_car",
    "this_system",
    "write_engine",
    "write_raw_plan",
]

MAGIC = b"EDGEPOSE"
VERSION = 1
ENGINE_SUFFIXES = (".engine", ".plan")
COMPATIBILITIES = ("ampere+", "same-capability")
"""Hardware compatibility: every GPU from SM 8.0 on, or every GPU of the same SM."""

_HEAD = struct.Struct("<8sIQ")
_PLAN = struct.Struct("<IQ32s")
_AMPERE = (8,)
_REMEDY = "build it again with edgepose build"


@dataclass(frozen=True)
class Platform:
    """What an engine would run on.

    Attributes:
        tensorrt: full version, for instance ``"10.3.0"``.
        sm: compute capability of the GPU, for instance ``"8.7"``.
        system: operating system and architecture, for instance ``"linux-aarch64"``.
    """

    tensorrt: str
    sm: str
    system: str

    def __str__(self) -> str:
        return f"TensorRT {self.tensorrt}, SM {self.sm}, {self.system}"


@dataclass(frozen=True)
class EngineBuild:
    """What an engine was built with: ``spec.provenance["engine"]``.

    Attributes:
        edgepose: version.
        tensorrt, sm, system: as in `Platform`.
        cuda: version of CUDA that the driver offers, for instance ``"12.6"``.
        gpu: its name.
        onnx_sha256: of the ONNX bytes that TensorRT parsed, in hexadecimal.
        flags: names of the builder flags that were set.
        profile: shapes of the input ``image``, by ``"min"``, ``"opt"`` and ``"max"``.
        precision: of the graph.
        typing: ``"strong"``: TensorRT keeps the graph's types; or ``"weak"``: it may choose.
        command: the command line that builds it again.
        dla: core of the deep learning accelerator, None for the GPU alone.
        version_compatible: later versions of TensorRT run it too.
        hardware_compatible: of `COMPATIBILITIES`, or None.

    Raises:
        ModelFormatError: a value is not usable.
    """

    edgepose: str
    tensorrt: str
    sm: str
    system: str
    cuda: str
    gpu: str
    onnx_sha256: str
    flags: tuple[str, ...]
    profile: Mapping[str, tuple[int, ...]]
    precision: str
    typing: str
    command: str
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None

    def __post_init__(self) -> None:
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        dla = values["dla"]
        usable = {
            **{item.name: isinstance(values[item.name], str) for item in fields(self) if item.type == "str"},
            "version_compatible": isinstance(values["version_compatible"], bool),
            "hardware_compatible": values["hardware_compatible"] in (None, *COMPATIBILITIES),
            "flags": isinstance(values["flags"], (list, tuple)),
            "dla": dla is None or (type(dla) is int and dla >= 0),
        }
        if all(usable.values()):
            usable["tensorrt"] = bool(_numbers(self.tensorrt))
            usable["sm"] = re.fullmatch(r"\d{1,3}\.\d{1,3}", self.sm) is not None
            usable["typing"] = self.typing in ("strong", "weak")
        for name, fits in usable.items():
            if not fits:
                raise _unusable_value(name, values[name])
        try:
            object.__setattr__(self, "flags", tuple(str(flag) for flag in self.flags))
            profile = {name: tuple(self.profile[name]) for name in ("min", "opt", "max")}
        except (KeyError, TypeError):
            raise _unusable_value("profile", self.profile) from None
        sides = [side for shape in profile.values() for side in shape]
        if len(sides) != 12 or not all(type(side) is int and 1 <= side < 1 << 31 for side in sides):
            raise _unusable_value("profile", self.profile)
        object.__setattr__(self, "profile", profile)

    @property
    def platform(self) -> Platform:
        """Where it was built."""
        return Platform(self.tensorrt, self.sm, self.system)

    def __str__(self) -> str:
        version = ", version-compatible" if self.version_compatible else ""
        hardware = f", hardware-compatible ({self.hardware_compatible})" if self.hardware_compatible else ""
        return f"{self.platform}{version}{hardware}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        data = asdict(self)
        data["flags"] = list(self.flags)
        data["profile"] = {name: list(shape) for name, shape in self.profile.items()}
        return data

    @classmethod
    def of(cls, spec: ModelSpec) -> EngineBuild:
        """Read what `to_dict` wrote from a spec.

        Raises:
            ModelFormatError: it is missing, or a value is not usable.
        """
        data = spec.provenance.get("engine")
        if not isinstance(data, dict):
            raise ModelFormatError(
                f"the description of {spec.name!r} does not say what its engine was built with; {_REMEDY}"
            )
        known = {item.name for item in fields(cls)}
        required = {item.name for item in fields(cls) if item.default is MISSING}
        unknown, missing = sorted(data.keys() - known), sorted(required - data.keys())
        if unknown or missing:
            raise ModelFormatError(
                f"damaged description of an engine; unknown fields {unknown}, missing fields {missing}; "
                f"{_REMEDY}, or upgrade edgepose"
            )
        return cls(**data)


@dataclass(frozen=True)
class EngineFile:
    """A file that was read whole and found undamaged.

    Attributes:
        spec: the model's description.
        built: what the engine was built with.
        plan: what TensorRT deserialises.
    """

    spec: ModelSpec
    built: EngineBuild
    plan: bytes


def read_engine_spec(path: Path) -> ModelSpec:
    """The description of an engine: of an ``.engine`` file, or of a bare plan with a side-car.

    The plan's length is checked, its content is not.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is cut, longer than it says, damaged, or no engine.
    """
    return _read(path, with_plan=False)[0]


def read_engine(path: Path) -> EngineFile:
    """Read an ``.engine`` file, or a bare plan with its side-car, and verify the plan's SHA-256.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is cut, longer than it says, damaged, or no engine.
    """
    spec, plan = _read(path, with_plan=True)
    try:
        return EngineFile(spec, EngineBuild.of(spec), plan)
    except ModelFormatError as error:
        raise ModelFormatError(f"cannot run {path}; {error}") from error


def write_engine(path: Path, spec: ModelSpec, plan: bytes | bytearray | memoryview) -> None:
    """Write an ``.engine`` file; it appears whole, and an older one is replaced.

    Args:
        path: the file.
        spec: with what the engine was built with, see `EngineBuild`.
        plan: what TensorRT serialised, or anything else with the buffer protocol.

    Raises:
        ModelFormatError: the spec does not say what the engine was built with, or is too large.
        OSError: the file cannot be written.
    """
    text = _text_of(spec, spec.to_json())
    plan = memoryview(plan).cast("B")
    parts = (
        _HEAD.pack(MAGIC, VERSION, len(text)),
        text,
        _PLAN.pack(zlib.crc32(text), plan.nbytes, hashlib.sha256(plan).digest()),
        plan,
    )
    write_whole(path, *parts)


def write_raw_plan(path: Path, spec: ModelSpec, plan: bytes | bytearray | memoryview) -> None:
    """Write a bare plan and, beside it, its side-car; arguments and errors as of `write_engine`."""
    plan = memoryview(plan).cast("B")
    about = {"plan": {"bytes": plan.nbytes, "sha256": hashlib.sha256(plan).hexdigest()}}
    text = _text_of(spec, json.dumps({**about, "spec": spec.to_dict()}, ensure_ascii=False, indent=1))
    write_whole(path, plan)
    write_whole(side_car(path), text)


def side_car(path: Path) -> Path:
    """Where the description of a bare plan stands: ``X.plan.json``."""
    return path.with_name(f"{path.name}.json")


def this_system() -> str:
    """Operating system and architecture of this machine, as in `Platform.system`."""
    return f"{platform.system()}-{platform.machine()}".lower()


def check_fits(built: EngineBuild, found: Platform) -> None:
    """Raise `EngineMismatchError` unless an engine may run here.

    TensorRT's version must be the same in full; a version-compatible engine also runs on a later one. So must
    the GPU's SM; a hardware-compatible engine (``"ampere+"``) runs from SM 8.0 on. So must the operating
    system and the architecture.
    """
    before, now = _numbers(built.tensorrt), _numbers(found.tensorrt)
    version = before == now or (built.version_compatible and before < now)
    capability = built.sm == found.sm
    if built.hardware_compatible == "ampere+":
        capability = _numbers(found.sm) >= _AMPERE
    if not (version and capability and built.system == found.system):
        raise EngineMismatchError(str(built), str(found), built.command)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers at the front of a version, without zeros at the end: 10.3.0 is 10.3."""
    match = re.match(r"\d{1,9}(?:\.\d{1,9}){0,7}", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _unusable_value(name: str, found: object) -> ModelFormatError:
    return ModelFormatError(f"damaged description of an engine; found {name} {found!r}; {_REMEDY}")


def _text_of(spec: ModelSpec, text: str) -> bytes:
    EngineBuild.of(spec)
    encoded = text.encode()
    if len(encoded) > MAX_JSON_BYTES:
        raise ModelFormatError(
            f"cannot write an engine of {spec.name!r}; its description has {len(encoded)} bytes, at most "
            f"{MAX_JSON_BYTES} are read; shorten its provenance"
        )
    return encoded


def _read(path: Path, *, with_plan: bool) -> tuple[ModelSpec, bytes]:
    """The spec and, if it is asked for, the plan, else nothing."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(len(MAGIC))
            if head == MAGIC:
                file.seek(0)
                return _read_container(path, file, size, with_plan)
            if not size:
                raise _damaged(path, "the file is empty")
            if MAGIC.startswith(head):
                raise _damaged(path, f"it is cut within its first {len(MAGIC)} bytes")
            file.seek(0)
            return _read_raw(path, file, size, with_plan)
    except FileNotFoundError:
        raise ModelNotFoundError(f"model not found: {path}; check the path") from None
    except OSError as error:
        raise ModelFormatError(f"cannot read {path}; {error.strerror}; give an .engine file") from error


def _read_container(path: Path, file: BinaryIO, size: int, with_plan: bool) -> tuple[ModelSpec, bytes]:
    if size < _HEAD.size:
        raise _damaged(path, f"it is cut within its head, after {size} bytes")
    _, version, length = _HEAD.unpack(file.read(_HEAD.size))
    if version != VERSION:
        raise ModelFormatError(
            f"cannot run {path}; found an engine file of version {version}, this edgepose reads {VERSION}; "
            f"upgrade edgepose, or {_REMEDY}"
        )
    if length > MAX_JSON_BYTES:
        raise _damaged(path, f"its description has {length} bytes, at most {MAX_JSON_BYTES} are read")
    start = _HEAD.size + length + _PLAN.size
    if size < start:
        raise _damaged(path, f"it is cut within its description, after {size} bytes of at least {start}")
    text = file.read(length)
    check, plan_length, digest = _PLAN.unpack(file.read(_PLAN.size))
    if zlib.crc32(text) != check:
        raise _damaged(path, "its description differs from its checksum")
    _check_length(path, size - start, plan_length)
    spec = _spec(path, ModelSpec.from_json, text)
    if not with_plan:
        return spec, b""
    return spec, _plan(path, file, plan_length, digest)


def _read_raw(path: Path, file: BinaryIO, size: int, with_plan: bool) -> tuple[ModelSpec, bytes]:
    beside = side_car(path)
    try:
        with beside.open("rb") as about:
            length = os.fstat(about.fileno()).st_size
            if length > MAX_JSON_BYTES:
                raise _damaged(beside, f"it has {length} bytes, at most {MAX_JSON_BYTES} are read")
            text = about.read(length)
    except FileNotFoundError:
        raise ModelFormatError(
            f"cannot run {path}; it begins as no engine of edgepose, and a bare plan needs {beside.name} "
            f"beside it, which is not there; put both in one folder, or {_REMEDY}"
        ) from None
    try:
        data = json.loads(text)
        stated, digest = data["plan"]["bytes"], bytes.fromhex(data["plan"]["sha256"])
        described = data["spec"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(beside, f"no description of a plan: {type(error).__name__} {error}") from error
    if not isinstance(described, dict):
        raise _damaged(beside, f"its spec is a {type(described).__name__}")
    _check_length(path, size, stated)
    spec = _spec(beside, ModelSpec.from_dict, described)
    return spec, _plan(path, file, size, digest) if with_plan else b""


def _spec(path: Path, read: Any, data: Any) -> ModelSpec:
    try:
        spec: ModelSpec = read(data)
    except ModelFormatError as error:
        raise ModelFormatError(f"cannot run {path}; {error}") from error
    return spec


def _check_length(path: Path, found: int, stated: Any) -> None:
    if type(stated) is not int or found < stated:
        raise _damaged(path, f"its plan is cut: {found} bytes of {stated}")
    if found > stated:
        raise _damaged(path, f"{found - stated} bytes follow its plan of {stated}")
    if not stated:
        raise _damaged(path, "its plan is empty")


def _plan(path: Path, file: BinaryIO, length: int, digest: bytes) -> bytes:
    plan = file.read(length)
    if hashlib.sha256(plan).digest() != digest:
        raise _damaged(path, "its plan differs from its SHA-256")
    return plan


def _damaged(path: Path, found: str) -> ModelFormatError:
    return ModelFormatError(f"cannot run {path}; {found}; copy it again, or {_REMEDY}")
