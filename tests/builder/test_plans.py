"""Building plans, over each version of TensorRT: what it is told, what it refuses, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import color_model, color_spec, people_model, people_spec

from edgepose import BackendUnavailableError, BuildError, InvalidInputError
from edgepose.backends.base import cache_folder
from edgepose.backends.engine_file import this_system
from edgepose.backends.tensorrt_log import KEPT, quoted, tensorrt_logger
from edgepose.builder import tensorrt
from edgepose.builder.tensorrt import EngineOptions, build_plan, input_profile
from tests.fakes import pycuda
from tests.fakes import tensorrt as fake

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHAPES = ((1, 3, 64, 48), (2, 3, 64, 48), (4, 3, 64, 48))
WEAK, STRONG = fake.VERSIONS[:2], fake.VERSIONS[2:]
Install = Callable[..., tuple[Any, fake.Control]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = color_model(tmp_path_factory.mktemp("model") / "a.onnx")
    return path.read_bytes()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Puts a fake TensorRT and a fake driver in place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))

    def install(version: str = "10.13.3.9", cuda: dict[str, Any] | None = None, **switches: Any) -> Any:
        pycuda.install(monkeypatch, **(cuda or {}))
        trt = fake.install(monkeypatch, version, **switches)
        return trt, fake.control(trt)

    return install


def plan_of(model: bytes, options: EngineOptions | None = None, **arguments: Any) -> tensorrt.Plan:
    values = {"half": True, "quantized": False, "command": "rebuild", **arguments}
    return build_plan(model, color_spec(), options or EngineOptions(), SHAPES, **values)


def logged(control: fake.Control) -> str:
    return "\n".join(text for _, text in control.log)


@pytest.mark.parametrize("version", fake.VERSIONS)
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_plan(install: Install, model: bytes, version: str, kind: str) -> None:
    trt, control = install(version)
    plan = plan_of(model, half=kind == "fp16", quantized=kind == "int8")
    built = plan.built
    assert (built.tensorrt, built.sm, built.system, built.gpu) == (version, "8.7", this_system(), "Fake GPU")
    assert built.onnx_sha256 == hashlib.sha256(model).hexdigest()
    assert built.profile == dict(zip(("min", "opt", "max"), SHAPES, strict=True))
    assert (built.precision, built.command) == (kind, "rebuild")
    (config,), (network,) = control.configs, control.networks
    assert config._profiles == [{"image": [*SHAPES]}]
    assert network._strong == (version in STRONG)
    assert built.typing == ("strong" if version in STRONG else "weak")
    tf32 = {"fp32": set(), "fp16": {"TF32"}, "int8": {"TF32"}}[kind]
    precision = {"fp32": set(), "fp16": {"FP16"}, "int8": {"FP16", "INT8"}}[kind]
    expected = tf32 if version in STRONG else tf32 | precision
    assert set(built.flags) == expected == config._flags
    assert trt.Runtime(tensorrt_logger(trt)).deserialize_cuda_engine(plan.content) is not None
    assert not [text for kind, text in control.log if kind == "ERROR"]


@pytest.mark.parametrize(("version", "flag"), [("10.3.0", "TF32"), ("11.4.0.106", "TF32")])
def test_float32_is_exact(install: Install, model: bytes, version: str, flag: str) -> None:
    _, control = install(version)
    plan_of(model, half=False)
    assert flag not in control.configs[0]._flags
    plan_of(model)
    assert flag in control.configs[1]._flags


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_all_options(install: Install, model: bytes, version: str) -> None:
    _, control = install(version, dla_cores=2)
    options = EngineOptions(
        (1, 1, 1), workspace=64, optimization_level=5, timing_cache="off", version_compatible=True,
        hardware_compatible="ampere+", dla=1,
    )  # fmt: skip
    one = (SHAPES[0],) * 3
    built = build_plan(model, color_spec(), options, one, half=True, quantized=False, command="rebuild").built
    (config,) = control.configs
    assert config._flags >= {"VERSION_COMPATIBLE", "GPU_FALLBACK"}
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert (config.default_device_type.name, config.DLA_core) == ("DLA", 1)
    assert config.builder_optimization_level == 5
    assert config._pools == {"WORKSPACE": 64 << 20}
    assert config._cache is None
    assert (built.dla, built.version_compatible, built.hardware_compatible) == (1, True, "ampere+")
    assert {"VERSION_COMPATIBLE", "GPU_FALLBACK"} <= set(built.flags)
    assert not cache_folder().exists()


def test_memory_that_is_shared(install: Install, model: bytes) -> None:
    _, control = install(cuda={"integrated": True})  # of 8 GiB
    plan_of(model)
    assert control.configs[0]._pools == {"WORKSPACE": 2 << 30, "TACTIC_DRAM": 4 << 30}
    plan_of(model, EngineOptions(workspace=100))
    assert control.configs[1]._pools == {"WORKSPACE": 100 << 20, "TACTIC_DRAM": 4 << 30}
    _, control = install()
    plan_of(model)
    assert control.configs[0]._pools == {}


def test_hardware_compatibility(install: Install, model: bytes) -> None:
    options = EngineOptions(hardware_compatible="same-capability")
    for version in WEAK:
        install(version)
        with pytest.raises(InvalidInputError, match=rf"found TensorRT {version}, which has ampere\+; give"):
            plan_of(model, options)
    for version in STRONG:
        _, control = install(version)
        plan_of(model, options)
        assert control.configs[0].hardware_compatibility_level.name == "SAME_COMPUTE_CAPABILITY"


def test_the_dla(install: Install, model: bytes) -> None:
    install()
    with pytest.raises(InvalidInputError, match="DLA core 0 cannot serve; Fake GPU has 0; leave it out"):
        plan_of(model, EngineOptions(dla=0))
    install(dla_cores=1)
    with pytest.raises(InvalidInputError, match="found precision fp32, which it does not have"):
        plan_of(model, EngineOptions(dla=0), half=False)


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_the_timing_cache(
    install: Install, model: bytes, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, control = install(version)
    plan_of(model)
    (file,) = cache_folder().iterdir()
    assert file.name == f"timing-{version}-sm87-driver12060.cache"
    timed = control.timed
    assert timed > 0
    plan_of(model)
    assert control.timed == timed  # known now
    assert not caplog.messages
    for spoiled in (b"nonsense", file.read_bytes().replace(b'"sm": [8, 7]', b'"sm": [8, 6]')):
        file.write_bytes(spoiled)
        with caplog.at_level(logging.WARNING):
            plan_of(model)
        assert "is damaged or made for another machine; making it anew" in caplog.text
        caplog.clear()
        timed = control.timed
        plan_of(model)
        assert control.timed == timed
    assert [item.name for item in cache_folder().iterdir()] == [file.name]


def test_a_timing_cache_of_another_device(
    install: Install, model: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = EngineOptions(timing_cache=str(tmp_path / "deep" / "mine.cache"))
    install()
    plan_of(model, options)
    _, control = install(sm=(8, 6))
    plan_of(model, options)
    assert "is damaged or made for another machine; making it anew" in caplog.text
    assert control.timed > 0
    assert [item.name for item in (tmp_path / "deep").iterdir()] == ["mine.cache"]


def test_a_timing_cache_that_cannot_be_kept(
    install: Install, model: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install()
    (tmp_path / "file").write_bytes(b"")
    plan_of(model, EngineOptions(timing_cache=str(tmp_path / "file" / "a.cache")))
    assert "cannot keep the timing cache" in caplog.text
    plan_of(model, EngineOptions(timing_cache=str(tmp_path)))
    assert "cannot read the timing cache" in caplog.text
    for call in ("IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache",
                 "IBuilderConfig.get_timing_cache", "ITimingCache.serialize"):  # fmt: skip
        caplog.clear()
        _, control = install(fail={call})
        plan_of(model)
        assert "no timing cache" in caplog.text
        assert f"{call} failed" in caplog.text or "nothing" in caplog.text
        assert call in logged(control)


@pytest.mark.parametrize("version", fake.VERSIONS)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Builder.create_network", "cannot create a network: Builder.create_network failed"),
        ("Builder.create_builder_config", "cannot configure a build: Builder.create_builder_config failed"),
        ("Builder.create_optimization_profile", "cannot make a profile"),
        ("IBuilderConfig.add_optimization_profile", r"cannot take input shapes .*profile failed"),
        ("OnnxParser.parse", "cannot read the ONNX model: OnnxParser.parse failed"),
        (
            "Builder.build_serialized_network",
            "cannot build an engine: Builder.build_serialized_network failed",
        ),
    ],
)
def test_calls_that_fail(install: Install, model: bytes, version: str, call: str, message: str) -> None:
    install(version, fail={call})
    with pytest.raises(BuildError, match=f"cannot build an engine of 'colors'; TensorRT {version} {message}"):
        plan_of(model)


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_no_usable_cuda(install: Install, model: bytes, version: str) -> None:
    install(version, cuda={"driver": False})
    with pytest.raises(BackendUnavailableError):
        plan_of(model)
    _, control = install(version)
    control.cuda = False
    with pytest.raises(
        BackendUnavailableError, match=r"cannot use Fake GPU; it says: CUDA .* error: 35; check"
    ):
        plan_of(model)


def test_versions_that_do_not_serve(install: Install, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, _ = install()
    for version, why in (("10.2.0", "computes wrong results"), ("10.2.0.19", "computes wrong results"),
                         ("8.5.3", "too old")):  # fmt: skip
        monkeypatch.setattr(trt, "__version__", version)
        with pytest.raises(
            BackendUnavailableError, match=f"found TensorRT {version}|found {version}, which .*{why}"
        ):
            plan_of(model)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(
        BackendUnavailableError, match=r"building an engine needs tensorrt; .*edgepose\[tensorrt\]"
    ):
        plan_of(model)


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_what_the_parser_says(install: Install, version: str) -> None:
    install(version)
    with pytest.raises(BuildError, match="cannot read the ONNX model: ModelProto could not be read"):
        plan_of(b"no model")


def test_a_profile_that_does_not_fit(install: Install, model: bytes) -> None:
    install()
    values: dict[str, Any] = {"half": True, "quantized": False, "command": ""}
    for shapes in (SHAPES[::-1], ((1, 3, 64, 48), (1, 3, 64), (1, 3, 64, 48))):
        with pytest.raises(BuildError, match=r"cannot take input shapes .*inconsistent"):
            build_plan(model, color_spec(), EngineOptions(), shapes, **values)
    with pytest.raises(
        BuildError, match=r"the profile \(1, 3, 64, 64\) of image does not fit \(-1, 3, 64, 48\)"
    ):
        build_plan(model, color_spec(), EngineOptions(), ((1, 3, 64, 64),) * 3, **values)


class Counted:
    """Steps that are counted, and fail if they shall."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.expected = self.done = 0
        self._error = error

    def grow(self, count: int) -> None:
        self.expected += count

    def step(self) -> None:
        self.done += 1
        if self._error and self.done == 2:
            raise self._error


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_progress(install: Install, model: bytes, version: str) -> None:
    install(version)
    steps = Counted()
    plan_of(model, steps=steps)
    if version == "8.6.0":  # which does not tell
        assert steps.done == 0
    else:
        assert steps.done == steps.expected > 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError("gone")])
def test_an_interruption_passes_by_the_builder(install: Install, model: bytes, error: BaseException) -> None:
    _, control = install()
    with pytest.raises(type(error)):
        plan_of(model, steps=Counted(error))
    assert "the build was cancelled" in logged(control)


def test_the_log(install: Install, model: bytes, caplog: pytest.LogCaptureFixture) -> None:
    trt, _ = install()
    logger = tensorrt_logger(trt)
    assert tensorrt_logger(trt) is logger
    severity = trt.ILogger.Severity
    with caplog.at_level(logging.DEBUG, "edgepose"):
        logger.log(severity.ERROR, "old")
        mark = logger.mark()
        assert quoted(logger, mark) == "nothing"
        logger.log(severity.VERBOSE, "much")
        logger.log(severity.WARNING, "slow")
        assert quoted(logger, mark) == "slow"
        logger.log(severity.ERROR, "first\n  line")
        logger.log(severity.INTERNAL_ERROR, "second")
    assert quoted(logger, mark) == "first line; second"
    levels = {record.getMessage(): record.levelno for record in caplog.records}
    assert levels["TensorRT: much"] == logging.DEBUG
    assert levels["TensorRT: second"] == logging.INFO
    for number in range(KEPT + 9):
        logger.log(severity.ERROR, str(number))
    assert len(logger.lines) == KEPT
    assert quoted(logger, mark).split("; ") == [str(KEPT + number) for number in range(5, 9)]


@pytest.mark.parametrize("version", fake.VERSIONS)
@pytest.mark.parametrize("task", ["topdown", "bottomup"])
def test_input_profiles(version: str, task: str) -> None:
    spec = color_spec() if task == "topdown" else people_spec()
    fixed = (64, 48) if task == "topdown" else None
    sizes = ((64, 64), (64, 96), (64, 128)) if fixed is None else None
    found = input_profile(spec, EngineOptions(sizes=sizes), fixed)
    largest = (1, 3, 64, 128) if task == "bottomup" else (8, 3, 64, 48)
    assert (found[0][0], found[1][0], found[2]) == (1, 1, largest)
    found = input_profile(spec, EngineOptions((2, 3, 4), sizes=sizes), fixed)
    assert [shape[0] for shape in found] == [2, 3, 4]


def test_sizes_that_are_missing_or_too_many() -> None:
    with pytest.raises(InvalidInputError, match="an engine of 'people' needs the size of its input"):
        input_profile(people_spec(), EngineOptions())
    with pytest.raises(InvalidInputError, match="cannot fix the size of 'people'; found a model of one size"):
        input_profile(people_spec(), EngineOptions(sizes=((64, 64),) * 3), (64, 96))
    assert input_profile(people_spec(), EngineOptions(), (64, 96))[2] == (1, 3, 64, 96)
    pixels = color_spec(input_format="uint8_nhwc")
    assert input_profile(pixels, EngineOptions(), (64, 48))[2] == (8, 64, 48, 3)
    assert input_profile(color_spec(), EngineOptions(dla=0), (64, 48))[2] == (1, 3, 64, 48)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": (0, 1, 2)}, "batch is not usable; found \\(0, 1, 2\\)"),
        ({"batch": (1, 3, 2)}, "batch is not usable"),
        ({"sizes": ((64, 64), (64, 32), (64, 96))}, "size is not usable"),
        ({"workspace": 0}, "workspace is not usable; found 0; give MiB"),
        ({"optimization_level": 6}, "optimization level is not usable"),
        (
            {"hardware_compatible": "all"},
            "hardware compatibility is not usable.*ampere\\+ or same-capability",
        ),
        ({"dla": -1}, "DLA core is not usable"),
        ({"dla": 0, "batch": (1, 2, 2)}, "the DLA takes one shape"),
        ({"dla": 0, "sizes": ((64, 64), (64, 64), (64, 96))}, "the DLA takes one shape"),
    ],
)
def test_options_that_are_not_usable(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        EngineOptions(**values).check()


def test_options_that_are_usable() -> None:
    for values in ({}, {"batch": (1, 1, 1), "dla": 0}, {"sizes": ((64, 64), (64, 96), (96, 128))}):
        EngineOptions(**values).check()  # type: ignore[arg-type]


def test_a_free_size(install: Install, tmp_path: Path) -> None:
    _, control = install()
    content = people_model(tmp_path / "people.onnx").read_bytes()
    options = EngineOptions(sizes=((64, 64), (64, 96), (128, 128)))
    shapes = input_profile(people_spec(), options)
    plan = build_plan(content, people_spec(), options, shapes, half=False, quantized=False, command="")
    assert plan.built.profile["max"] == (1, 3, 128, 128)
    json.dumps(plan.built.to_dict())
    assert np.array_equal(control.configs[0]._profiles[0]["image"], shapes)


@pytest.mark.parametrize("version", fake.VERSIONS)
def test_several_execution_contexts_use_one_profile(install: Install, model: bytes, version: str) -> None:
    trt, _ = install(version)
    plan = plan_of(model)
    engine = trt.Runtime(tensorrt_logger(trt)).deserialize_cuda_engine(plan.content)
    contexts = [engine.create_execution_context() for _ in range(3)]
    assert [context.active_optimization_profile for context in contexts] == [0, 0, 0]
