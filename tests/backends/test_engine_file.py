"""Engine files: whole or refused, and compared with the machine before TensorRT sees them."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import color_spec

from edgepose import EngineMismatchError, ModelFormatError, ModelNotFoundError
from edgepose.backends import engine_file
from edgepose.backends.engine_file import (
    EngineBuild,
    Platform,
    check_fits,
    read_engine,
    read_engine_spec,
    side_car,
    this_system,
    write_engine,
    write_raw_plan,
)

PLAN = bytes(range(256)) * 4
BUILT = EngineBuild(
    edgepose="0.1.0",
    tensorrt="10.3.0",
    sm="8.7",
    system="linux-aarch64",
    cuda="12.6",
    gpu="Orin",
    onnx_sha256="ab" * 32,
    flags=("GPU_FALLBACK",),
    profile={"min": (1, 3, 64, 48), "opt": (1, 3, 64, 48), "max": (8, 3, 64, 48)},
    precision="fp16",
    typing="strong",
    command="edgepose build a.onnx -o a.engine",
)
HERE = Platform("10.3.0", "8.7", "linux-aarch64")


def spec_of(built: EngineBuild = BUILT, **changes: Any) -> Any:
    return color_spec(provenance={"engine": built.to_dict(), "epochs": 3}, **changes)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "a.engine"
    write_engine(path, spec_of(), PLAN)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "a.plan"
    write_raw_plan(path, spec_of(), memoryview(PLAN))
    return path


def test_what_was_written_is_read(engine: Path, raw: Path) -> None:
    for path in (engine, raw):
        found = read_engine(path)
        assert found.spec == spec_of() == read_engine_spec(path)
        assert found.built == BUILT
        assert bytes(found.plan) == PLAN
    assert raw.read_bytes() == PLAN
    assert json.loads(side_car(raw).read_text())["plan"]["sha256"] == hashlib.sha256(PLAN).hexdigest()
    assert sorted(item.name for item in engine.parent.iterdir()) == ["a.engine", "a.plan", "a.plan.json"]


def test_the_layout_is_the_documented_one(engine: Path) -> None:
    content = engine.read_bytes()
    magic, version, length = struct.unpack_from("<8sIQ", content)
    assert (magic, version) == (b"EDGEPOSE", 1)
    assert json.loads(content[20 : 20 + length])["name"] == "colors"
    assert content[20 + length + 4 :][:8] == struct.pack("<Q", len(PLAN))
    assert content[20 + length + 12 :] == hashlib.sha256(PLAN).digest() + PLAN


def test_every_cut_is_noticed(engine: Path, tmp_path: Path) -> None:
    content = engine.read_bytes()
    path = tmp_path / "cut.engine"
    for length in [*range(0, 64), *range(64, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelFormatError, match=r"it is cut|is empty|plan is cut"):
            read_engine_spec(path)


def test_every_changed_byte_is_noticed(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    for place in [*range(0, 120), *range(120, len(content), 53), len(content) - 1]:
        content[place] ^= 0x20
        engine.write_bytes(content)
        with pytest.raises(ModelFormatError, match="cannot run"):
            read_engine(engine)
        content[place] ^= 0x20


def test_an_extended_file(engine: Path, raw: Path) -> None:
    for path in (engine, raw):
        path.write_bytes(path.read_bytes() + b"12")
        for read in (read_engine, read_engine_spec):
            with pytest.raises(ModelFormatError, match="2 bytes follow its plan of 1024"):
                read(path)


def test_bounds_come_before_memory(engine: Path) -> None:
    content = engine.read_bytes()
    (length,) = struct.unpack_from("<Q", content, 12)
    for place, number, message in (
        (12, 1 << 62, "its description has 4611686018427387904 bytes, at most 1048576 are read"),
        (12, 1 << 20, "it is cut within its description"),
        (20 + length + 4, 1 << 62, "its plan is cut: 1024 bytes of 4611686018427387904"),
        (20 + length + 4, 0, "1024 bytes follow its plan of 0"),
    ):
        engine.write_bytes(content[:place] + struct.pack("<Q", number) + content[place + 8 :])
        with pytest.raises(ModelFormatError, match=message):
            read_engine(engine)
    engine.write_bytes(content[:8] + struct.pack("<I", 2) + content[12:])
    with pytest.raises(ModelFormatError, match="an engine file of version 2, this edgepose reads 1"):
        read_engine(engine)


def test_a_plan_without_its_side_car(raw: Path) -> None:
    side_car(raw).unlink()
    with pytest.raises(ModelFormatError, match=r"needs a\.plan\.json beside it, which is not there"):
        read_engine_spec(raw)


def test_a_side_car_of_another_plan(raw: Path) -> None:
    raw.write_bytes(PLAN[::-1])
    with pytest.raises(ModelFormatError, match="its plan differs from its SHA-256"):
        read_engine(raw)
    raw.write_bytes(PLAN[:-1])
    with pytest.raises(ModelFormatError, match="its plan is cut: 1023 bytes of 1024"):
        read_engine_spec(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no description of a plan: JSONDecodeError"),
        ("[]", "no description of a plan: TypeError"),
        ("{}", "no description of a plan: KeyError 'plan'"),
        ('{"plan": {"bytes": 1024, "sha256": "zz"}, "spec": {}}', "no description of a plan: ValueError"),
        ('{"plan": {"bytes": 1024, "sha256": ""}, "spec": 3}', "its spec is a int"),
        ('{"plan": {"bytes": "1024", "sha256": ""}, "spec": {}}', "its plan is cut: 1024 bytes of 1024"),
        ('{"plan": {"bytes": 1024, "sha256": ""}, "spec": {}}', "unknown ModelSpec format"),
        ("[" * 200_000, "no description of a plan: RecursionError"),
        (" " * (1 << 20) + "1", "it has 1048577 bytes, at most 1048576 are read"),
    ],
)
def test_a_damaged_side_car(raw: Path, text: str, message: str) -> None:
    side_car(raw).write_text(text)
    with pytest.raises(ModelFormatError, match=message):
        read_engine_spec(raw)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_engine(tmp_path / "none.engine")
    with pytest.raises(ModelFormatError, match="Is a directory"):
        read_engine(tmp_path)
    (tmp_path / "other.engine").write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(ModelFormatError, match=r"a bare plan needs other\.engine\.json"):
        read_engine(tmp_path / "other.engine")


@pytest.mark.parametrize(
    "change",
    [
        {"tensorrt": "ten"}, {"tensorrt": 10}, {"sm": "87"}, {"typing": "fast"}, {"version_compatible": 1},
        {"hardware_compatible": "all"}, {"dla": -1}, {"dla": "0"}, {"flags": None}, {"profile": {}},
        {"profile": {"min": [1], "opt": [1], "max": [1]}}, {"profile": None}, {"command": None},
        {"profile": {"min": [0, 3, 4, 4], "opt": [1, 3, 4, 4], "max": [1, 3, 4, 4]}},
    ],
)  # fmt: skip
def test_a_description_that_is_not_usable(tmp_path: Path, change: dict[str, Any]) -> None:
    spec = color_spec(provenance={"engine": {**BUILT.to_dict(), **change}})
    with pytest.raises(
        ModelFormatError, match=f"damaged description of an engine; found {next(iter(change))}"
    ):
        write_engine(tmp_path / "b.engine", spec, PLAN)
    assert not list(tmp_path.iterdir())


def test_a_description_that_lacks_something(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="does not say what its engine was built with"):
        write_engine(tmp_path / "b.engine", color_spec(), PLAN)
    data = {**BUILT.to_dict(), "new": 1}
    del data["sm"]
    with pytest.raises(ModelFormatError, match=r"unknown fields \['new'\], missing fields \['sm'\]"):
        EngineBuild.of(color_spec(provenance={"engine": data}))


def test_a_description_that_is_too_large(tmp_path: Path) -> None:
    spec = replace(spec_of(), parity={"notes": "x" * (1 << 20)})
    for write in (write_engine, write_raw_plan):
        with pytest.raises(ModelFormatError, match="at most 1048576 are read; shorten its provenance"):
            write(tmp_path / "b.engine", spec, PLAN)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_older_file(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_engine(engine, spec_of(), PLAN[:9])
    assert engine.read_bytes() == before
    assert [item.name for item in engine.parent.iterdir()] == ["a.engine"]


@pytest.mark.parametrize(
    ("built", "found", "fits"),
    [
        ({}, {}, True),
        ({}, {"tensorrt": "10.3"}, True),
        ({}, {"tensorrt": "10.3.0.26"}, False),
        ({}, {"tensorrt": "10.4.0"}, False),
        ({}, {"sm": "8.6"}, False),
        ({}, {"system": "linux-x86_64"}, False),
        ({"version_compatible": True}, {"tensorrt": "10.13.3.9"}, True),
        ({"version_compatible": True}, {"tensorrt": "11.4.0.106"}, True),
        ({"version_compatible": True}, {"tensorrt": "10.2.9"}, False),
        ({"version_compatible": True}, {"tensorrt": "8.6.0"}, False),
        ({"version_compatible": True}, {"sm": "8.6"}, False),
        ({"version_compatible": True}, {"tensorrt": "11.4", "system": "linux-x86_64"}, False),
        ({"hardware_compatible": "ampere+"}, {"sm": "8.0"}, True),
        ({"hardware_compatible": "ampere+"}, {"sm": "12.0"}, True),
        ({"hardware_compatible": "ampere+"}, {"sm": "7.5"}, False),
        ({"hardware_compatible": "ampere+"}, {"sm": "8.0", "tensorrt": "10.4.0"}, False),
        ({"hardware_compatible": "same-capability"}, {"sm": "8.7"}, True),
        ({"hardware_compatible": "same-capability"}, {"sm": "8.9"}, False),
    ],
)
def test_where_an_engine_runs(built: dict[str, Any], found: dict[str, Any], fits: bool) -> None:
    engine, here = replace(BUILT, **built), replace(HERE, **found)
    if fits:
        check_fits(engine, here)
        return
    with pytest.raises(EngineMismatchError) as caught:
        check_fits(engine, here)
    assert caught.value.built_with == str(engine)
    assert caught.value.found == str(here)
    assert caught.value.rebuild_command == BUILT.command
    assert "TensorRT 10.3.0, SM 8.7, linux-aarch64" in str(caught.value)


def test_no_other_package_is_needed(engine: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgepose.backends.engine_file import read_engine_spec;"
        f"print(read_engine_spec(Path({str(engine)!r})).name);"
        "print(sorted({'onnx', 'tensorrt', 'pycuda', 'onnxruntime'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["colors", "[]"]


def test_this_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_file.platform, "system", lambda: "Linux")
    monkeypatch.setattr(engine_file.platform, "machine", lambda: "aarch64")
    assert this_system() == "linux-aarch64"
