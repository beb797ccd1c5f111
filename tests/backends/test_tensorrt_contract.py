"""Every name and argument of TensorRT that the sources use is one that was recorded of its versions."""

from __future__ import annotations

import re

import pytest

from tests.fakes import tensorrt as fake
from tests.fakes.tensorrt_uses import FILES, RECORD, ROOT, VERSIONS, Use, problems, uses_in


@pytest.mark.parametrize("file", FILES)
def test_the_sources_fit_every_version(file: str) -> None:
    assert problems((ROOT / file).read_text(), FILES[file]) == []


def test_nothing_else_uses_tensorrt() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edgepose").rglob("*.py")
        if re.search(r"""\btrt\b|import tensorrt|require\("tensorrt\"""", path.read_text())
    }
    assert users == set(FILES)


def test_the_check_sees_what_is_used() -> None:
    """It would be worth nothing if it found no uses."""
    seen = {
        f"{use.owner}.{use.name}"
        for file, holders in FILES.items()
        for use in uses_in((ROOT / file).read_text(), holders)
        if isinstance(use, Use)
    }
    assert len(seen) > 45
    assert seen >= {
        "tensorrt.Builder", "tensorrt.OnnxParser", "tensorrt.Runtime", "tensorrt.__version__",
        "Builder.create_network", "Builder.build_serialized_network", "Builder.num_DLA_cores",
        "OnnxParser.parse", "OnnxParser.get_error", "IBuilderConfig.set_flag",
        "IBuilderConfig.progress_monitor", "IBuilderConfig.set_memory_pool_limit",
        "IOptimizationProfile.set_shape", "ITimingCache.serialize",
        "MemoryPoolType.WORKSPACE", "BuilderFlag.TF32", "ILogger.__init__", "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context", "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3", "IExecutionContext.set_tensor_address", "TensorIOMode.INPUT",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("backends", "execute_async_v3(", "execute_async_v2(", "execute_async_v2 is not in 10"),
        ("backends", "execute_async_v3(stream)", "execute_async_v3()", "does not take"),
        ("backends", "context.infer_shapes()", "context.infer_shape()", "infer_shape is in no version"),
        ("backends", "engine.num_io_tensors", "engine.num_bindings", "num_bindings is not in 10.3.0"),
        ("backends", "trt.TensorIOMode.INPUT", "trt.TensorIOMode.IN", "TensorIOMode.IN is in no version"),
        ("backends", "context.get_max_output_size(name)", "self.it.get_max_output_size(name)", "may be of"),
        ("builder", "set_memory_pool_limit(pools", "set_memory_limit(pools", "is in no version"),
        ("builder", "pools.TACTIC_DRAM", "pools.TACTIC_SHARED_MEMORY", "is not in 8.6.0, and is not guarded"),
        ("builder", "set_timing_cache(cache, False)", "set_timing_cache(cache)", "does not take"),
        ("builder", "set_timing_cache(cache, False)", "set_timing_cache(cache, no=1)", "does not take"),
        ("builder", "self._builder.num_DLA_cores", "self._builder.num_dla_cores", "is in no version"),
        ("builder", "config.builder_optimization_level =", "config.optimization_level =", "is in no version"),
        ("builder", "config.builder_optimization_level =", "config.max_workspace_size =", "not in 10.3.0"),
        ("builder", 'hasattr(self._trt, "IProgressMonitor")', "True", "stands behind no hasattr"),
        ("builder", '"VERSION_COMPATIBLE"', '"VERSION_COMPATIBILITY"', "is a value of no enum"),
        ("builder", 'self.flags.add("TF32")', 'self.flags.add("FP16")', "and stands outside of"),
        ("builder", "trt.IProgressMonitor.__init__(self)", "super().__init__()", "does not call"),
        ("builder", "phase_name: str, step: int", "phase_name: str, done: int", "TensorRT gives"),
        ("builder", "trt.OnnxParser(network, self._logger)", "trt.OnnxParser(network)", "does not take"),
        ("log", "def log(self, severity: Any, msg: str)", "def log(self, severity: Any, text: str)", "gives"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_noticed(file: str, before: str, after: str, message: str) -> None:
    path = {
        "backends": "edgepose/backends/tensorrt.py",
        "builder": "edgepose/builder/tensorrt.py",
        "log": "edgepose/backends/tensorrt_log.py",
    }[file]
    text = (ROOT / path).read_text()
    assert before in text
    found = problems(text.replace(before, after), FILES[path])
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_what_is_recorded(version: str) -> None:
    trt = fake.make(version)
    place = VERSIONS.index(version)
    for name, record in RECORD["classes"].items():
        assert hasattr(trt, name) == (place in record["in"])
        if "values" not in record or place not in record["in"]:
            continue
        values = record["values"].get(str(place), {})
        kind = getattr(trt, name)
        for member, (places, *_) in record["members"].items():
            if member not in ("name", "value", "itemsize"):
                assert hasattr(kind, member) == (place in places)
        assert {member: int(getattr(kind, member)) for member in values} == values


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_refuses_the_rest(version: str) -> None:
    trt = fake.make(version)
    logger = trt.Logger()
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        _ = builder.build_cuda_engine
    with pytest.raises(AttributeError):
        config.precision = "fp16"
    with pytest.raises(AttributeError):
        _ = trt.CaffeParser2
    for call in (
        lambda: builder.create_network(0, 1),
        lambda: builder.create_network(flag=0),
        lambda: config.set_flag(),
        lambda: config.set_flag(1),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1),
        lambda: trt.Builder(None),
    ):
        with pytest.raises(TypeError):
            call()
    if version != VERSIONS[0]:
        with pytest.raises(AttributeError):
            _ = config.max_workspace_size

    class Careless(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            self.lines: list[str] = []

    with pytest.raises(TypeError, match="must be called"):
        trt.Builder(Careless())
