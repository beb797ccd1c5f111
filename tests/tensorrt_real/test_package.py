"""TensorRT's own package, of one version, and pycuda on a driver without devices: `make test-tensorrt`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt as trt

from edgepose.backends.engine_file import EngineBuild, this_system, write_engine
from edgepose.backends.tensorrt_log import quoted, tensorrt_logger
from tests.fakes.tensorrt_uses import FILES, MODULE, RECORD, ROOT, VERSIONS, Use, members, uses_in

USES = sorted(
    {
        (use.owner, use.name, use.guarded, use.arguments)
        for file, holders in FILES.items()
        for use in uses_in((ROOT / file).read_text(), holders)
        if isinstance(use, Use)
    },
    key=str,
)
PLACE = VERSIONS.index(trt.__version__)
STUB = Path(os.environ["STUB"])
RUNTIME = re.compile(r"(\w+)\(self: [\w.:]+(?:, )?(.*?)\) -> ", re.DOTALL)


def signatures(function: Any) -> list[list[str]]:
    """Names of the arguments that pybind11 tells of a method, "=" behind those with a default."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = RUNTIME.search(line)
        if match:
            parts = re.split(r", (?=\w+: )", match[2]) if match[2] else []
            found.append([part.partition(":")[0] + ("=" if " = " in part else "") for part in parts])
    return found


def run(code: str, *, stub: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, with the driver that has no devices, or with none."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("LD_LIBRARY_PATH", None)
    if stub:
        environment["LD_LIBRARY_PATH"] = str(STUB)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("owner", "name", "guarded", "arguments"), USES)
def test_what_the_sources_use_is_there(owner: str, name: str, guarded: bool, arguments: Any) -> None:
    holder = trt if owner == MODULE else getattr(trt, owner, None)
    if holder is None or not hasattr(holder, name):
        assert guarded
        assert PLACE not in members(owner).get(name, []) or PLACE not in RECORD["classes"][owner]["in"]
        return
    if arguments is None or name == "__init__":
        return
    found = getattr(holder, name)
    found = found.__init__ if isinstance(found, type) else found
    count, named = arguments
    fitting = [
        wanted
        for wanted in signatures(found)
        if count <= len(wanted)
        and {item.rstrip("=") for item in wanted} >= set(named)
        and {item for item in wanted if not item.endswith("=")} <= {*wanted[:count], *named}
    ]
    assert fitting, signatures(found)


def test_the_record_is_that_of_the_package() -> None:
    differing = {}
    for name, entry in RECORD["classes"].items():
        assert hasattr(trt, name) == (PLACE in entry["in"]), name
        if PLACE not in entry["in"]:
            continue
        recorded = {member for member, places in members(name).items() if PLACE in places}
        real = {member for member in dir(getattr(trt, name)) if not member.startswith("_")}
        if recorded != real:
            differing[name] = recorded ^ real
        if "values" in entry:
            values = {key: int(value) for key, value in getattr(trt, name).__members__.items()}
            assert entry["values"][str(PLACE)] == values
    assert differing == {}


def test_recorded_signatures_are_those_of_the_package() -> None:
    """They were recorded of later versions; the fake takes them for this one too."""
    differing = {}
    for name, entry in RECORD["classes"].items():
        for member, (places, *overloads) in entry["members"].items():
            if PLACE not in places or not overloads or (name, member) not in {use[:2] for use in USES}:
                continue
            real = signatures(getattr(getattr(trt, name), member))
            if not any(wanted in real for wanted, _ in overloads[0]):
                differing[f"{name}.{member}"] = real
    assert differing == {"ICudaEngine.create_execution_context": [[]]}  # which the sources call without


def test_the_logger() -> None:
    logger = tensorrt_logger(trt)
    mark = logger.mark()
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        trt.Builder(logger)  # there is no CUDA here
    assert "CUDA" in quoted(logger, mark)


def test_a_build_without_a_usable_gpu() -> None:
    """The package itself refuses; nothing takes the process down."""
    code = """
import contextlib, types
from edgepose.backends import device
from edgepose.builder.tensorrt import EngineOptions, build_plan
class Device:
    name, compute_capability, integrated, driver_version, total_memory = "GPU", (8, 7), False, 12060, 1 << 33
    use = contextlib.nullcontext
device.open_device = lambda number: Device
try:
    build_plan(b"", types.SimpleNamespace(name="a"), EngineOptions(), [(1, 3, 4, 4)] * 3, half=True,
               quantized=False, command="")
except Exception as error:
    print(type(error).__name__, error)
"""
    found = run(code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("BackendUnavailableError TensorRT 8.6.0 cannot use GPU; it says: ")
    assert "CUDA" in found.stdout


@pytest.mark.parametrize("stub", [True, False])
def test_the_probe_comes_first(stub: bool) -> None:
    """With a driver that has no devices, and without any driver, pycuda is asked before TensorRT."""
    code = """
import types
from edgepose.backends.device import open_device
from edgepose.builder.tensorrt import EngineOptions, build_plan, check_environment
def build():
    build_plan(b"", types.SimpleNamespace(name="a"), EngineOptions(), [(1, 3, 4, 4)] * 3, half=True,
               quantized=False, command="")
for step in (lambda: open_device(0), check_environment, build):
    try:
        step()
    except Exception as error:
        print(type(error).__name__, error)
"""
    found = run(code, stub=stub)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("BackendUnavailableError ") for line in lines)
    expected = "cuInit failed: there is no CUDA driver" if stub else "libcuda.so.1: cannot open"
    assert all(expected in line for line in lines), lines


@pytest.mark.parametrize("stub", [True, False])
def test_opening_an_engine_without_a_gpu(tmp_path: Path, stub: bool) -> None:
    path = tmp_path / "a.engine"
    built = EngineBuild(
        edgepose="0", tensorrt="8.6.0", sm="8.7", system=this_system(), cuda="12.6", gpu="GPU",
        onnx_sha256="", flags=(), profile=dict.fromkeys(("min", "opt", "max"), (1, 3, 64, 48)),
        precision="fp16", typing="weak", command="again",
    )  # fmt: skip
    skeleton = {"name": "one", "joints": ["a"], "edges": [], "flip_pairs": [], "sigmas": [0.05]}
    data = {"format_version": 1, "name": "a", "skeleton": skeleton, "input_size": [64, 48],
            "provenance": {"engine": built.to_dict()}}  # fmt: skip
    from edgepose.spec import ModelSpec

    write_engine(path, ModelSpec.from_json(json.dumps(data)), b"no plan")
    code = f"""
from pathlib import Path
from edgepose.backends import open_backend, read_model_spec
print(read_model_spec(Path({str(path)!r})).name)
try:
    open_backend(Path({str(path)!r}))
except Exception as error:
    print(type(error).__name__, error)
"""
    found = run(code, stub=stub)
    assert found.returncode == 0, found.stderr
    name, error = found.stdout.splitlines()
    assert name == "a"
    assert error.startswith("BackendUnavailableError ")


def test_what_a_profile_takes() -> None:
    assert np.dtype(trt.nptype(trt.DataType.HALF)) == np.float16
    assert int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) == 0
    assert trt.BuilderFlag.FP16.name == "FP16"
    assert tuple(trt.Dims((1, 3, 64, 48))) == (1, 3, 64, 48)
