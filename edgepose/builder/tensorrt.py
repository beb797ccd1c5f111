"""From the bytes of an ONNX model to a TensorRT plan.

Precision stands in the graph: half precision as `edgepose.builder.half` writes it, int8 as pairs of
QuantizeLinear and DequantizeLinear. TensorRT keeps to the graph's types (a strongly typed network); `_typing`
holds what earlier versions need in its place. Values of TensorRT's enums are looked up by name, since their
numbers differ between versions. What a build may use is described in `docs/build.md`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import edgepose
from edgepose._files import write_whole
from edgepose.backends.base import INPUT, cache_folder, input_port
from edgepose.backends.engine_file import COMPATIBILITIES, EngineBuild, this_system
from edgepose.backends.tensorrt_log import import_tensorrt, quoted, tensorrt_logger, version_of
from edgepose.errors import BackendUnavailableError, BuildError, InvalidInputError
from edgepose.spec import ModelSpec

__all__ = ["EngineOptions", "Plan", "Size", "Steps", "build_plan", "check_environment", "input_profile"]

STRONG_FROM = (10, 12)
"""Strong typing exists from 10.0 on, and is complete from here on."""
MIB = 1 << 20
WORKSPACE_SHARE, TACTIC_SHARE = 4, 2
"""Boards on which CPU and GPU share memory: one part in so many of it may be scratch memory of a layer, or
memory of a build in all. TensorRT's own limits, all and three quarters, get a build on 8 GB killed."""
LEVELS = range(6)
"""`EngineOptions.optimization_level`."""
HARDWARE = dict(zip(COMPATIBILITIES, ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"), strict=True))
"""Names of TensorRT's hardware compatibility levels."""

_log = logging.getLogger("edgepose")

Size = tuple[int, int]


class Steps(Protocol):
    """Shows how far a build is; `edgepose.cli.progress.Progress` does."""

    def grow(self, count: int) -> None:
        """So many steps more will be counted."""

    def step(self) -> None:
        """Count one step."""


@dataclass(frozen=True)
class EngineOptions:
    """How TensorRT builds.

    Attributes:
        batch: least, usual and largest number of crops or pictures in a run; tactics are chosen for the usual
            one. None: 1, 1 and 8 top-down; 1 bottom-up, and on the DLA.
        sizes: of a bottom-up model of free input size: least, usual and largest (height, width).
        workspace: scratch memory that a layer may use, in MiB; None: a quarter of the memory on boards where
            CPU and GPU share it, else as TensorRT decides.
        optimization_level: 0 builds fastest, 5 looks for the fastest engine; None: TensorRT's own, 3.
        timing_cache: file with the times of layers; ``"auto"``: below `cache_folder`, one by version, SM and
            driver; ``"off"``: none.
        version_compatible: later versions of TensorRT run the engine too; it may be slower.
        hardware_compatible: of `edgepose.backends.engine_file.COMPATIBILITIES`: which other GPUs run it.
        dla: core of the deep learning accelerator that runs what it can; the GPU runs the rest.
        raw_plan: write a bare plan with a side-car, see `edgepose.backends.engine_file`.
    """

    batch: tuple[int, int, int] | None = None
    sizes: tuple[Size, Size, Size] | None = None
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: str = "auto"
    version_compatible: bool = False
    hardware_compatible: str | None = None
    dla: int | None = None
    raw_plan: bool = False

    def check(self) -> None:
        """Raise `InvalidInputError` where a value is not usable."""
        batch, sizes = self.batch, self.sizes
        _check(batch is None or _rises([(n,) for n in batch]), "batch", batch, "three rising numbers from 1")
        _check(sizes is None or _rises(sizes), "size", sizes, "one size, or three that rise")
        _check(self.workspace is None or self.workspace > 0, "workspace", self.workspace, "MiB, at least 1")
        level = self.optimization_level
        _check(level is None or level in LEVELS, "optimization level", level, "a number from 0 to 5")
        hardware = self.hardware_compatible
        allowed = " or ".join(COMPATIBILITIES)
        _check(hardware in (None, *COMPATIBILITIES), "hardware compatibility", hardware, allowed)
        _check(self.dla is None or self.dla >= 0, "DLA core", self.dla, "0 or 1")
        if self.dla is not None and (len(set(batch or [1])) > 1 or len(set(sizes or [1])) > 1):
            raise InvalidInputError(
                f"the DLA takes one shape; found batch {batch} and size {sizes}; give one batch, as "
                "--batch 1:1:1, and one size"
            )


@dataclass(frozen=True)
class Plan:
    """What TensorRT made.

    Attributes:
        content: the serialised engine.
        built: what it was built with.
    """

    content: bytes
    built: EngineBuild


def check_environment() -> None:
    """Raise `BackendUnavailableError` unless TensorRT and a usable GPU are here."""
    from edgepose.backends.device import open_device

    import_tensorrt("building an engine")
    open_device(0)


def build_plan(
    model: bytes,
    spec: ModelSpec,
    options: EngineOptions,
    shapes: Sequence[tuple[int, ...]],
    *,
    half: bool,
    quantized: bool,
    command: str,
    steps: Steps | None = None,
) -> Plan:
    """Build a plan for the GPU of this machine.

    Args:
        model: an ONNX model, complete.
        spec: of the model.
        options: checked.
        shapes: of `input_profile`.
        half: the graph computes in half precision.
        quantized: the graph holds QuantizeLinear and DequantizeLinear.
        command: the command line that builds it again.
        steps: shows the progress.

    Raises:
        BackendUnavailableError: TensorRT or a usable GPU is missing.
        InvalidInputError: an option does not fit this model, machine or version of TensorRT.
        BuildError: TensorRT cannot build it; the message quotes its log.
    """
    from edgepose.backends.device import open_device

    trt = import_tensorrt("building an engine")
    device = open_device(0)
    with device.use():
        build = _Build(trt, device, spec.name)
        network = build.parse(model, half=half, quantized=quantized)
        config = build.config(options, shapes, exact=not half and not quantized)
        content = build.run(network, config, options, steps)
        major, minor = device.compute_capability
        driver = device.driver_version
        built = EngineBuild(
            edgepose=edgepose.__version__,
            tensorrt=str(trt.__version__),
            sm=f"{major}.{minor}",
            system=this_system(),
            cuda=f"{driver // 1000}.{driver % 1000 // 10}",
            gpu=device.name,
            onnx_sha256=hashlib.sha256(model).hexdigest(),
            flags=tuple(sorted(build.flags)),
            profile=dict(zip(("min", "opt", "max"), shapes, strict=True)),
            precision="int8" if quantized else "fp16" if half else "fp32",
            typing=build.typing,
            command=command,
            dla=options.dla,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
        )
    return Plan(content, built)


def input_profile(
    spec: ModelSpec, options: EngineOptions, fixed: Size | None = None
) -> tuple[tuple[int, ...], ...]:
    """Least, usual and largest shape of the input.

    Args:
        spec: of the model.
        options: checked.
        fixed: (height, width) that the graph takes, None where they are free.

    Raises:
        InvalidInputError: the size is free and not given, or fixed and given.
    """
    if fixed is not None and options.sizes not in (None, (fixed,) * 3):
        raise InvalidInputError(
            f"cannot fix the size of {spec.name!r}; found a model of one size; leave size out"
        )
    sizes = options.sizes if fixed is None else (fixed,) * 3
    if sizes is None:
        raise InvalidInputError(
            f"an engine of {spec.name!r} needs the size of its input; found a model of any size; give the "
            "one that fits the camera's pictures, as --size 512x896 (height x width), or a range, as --size "
            "512x512:512x896:512x1024"
        )
    batch = options.batch or (1, 1, 8 if spec.task == "topdown" and options.dla is None else 1)
    return tuple(tuple(input_port(spec, n, size)[1]) for n, size in zip(batch, sizes, strict=True))


def _typing(trt: Any, *, half: bool, quantized: bool) -> tuple[str, list[str], list[str]]:
    """Strong or weak typing, and the names of the network's and the builder's flags that make it so.

    The one place for what versions before `STRONG_FROM` need: there the graph's types hold only where a flag
    allows each of them, and TensorRT may compute a layer in any allowed one. 8.6 also must be told that the
    batch is an axis like any other.
    """
    if version_of(trt) >= STRONG_FROM:
        return "strong", ["STRONGLY_TYPED"], []
    allowed = ["FP16", "INT8"] if quantized else ["FP16"] if half else []
    return "weak", ["EXPLICIT_BATCH"], allowed


def _preview_features(trt: Any) -> list[str]:
    """Names of what 8.6 must be asked for: that several contexts of an engine may use one profile."""
    return ["PROFILE_SHARING_0806"] if version_of(trt) < (10,) else []


class _Build:
    """One run of TensorRT's builder."""

    def __init__(self, trt: Any, device: Any, name: str) -> None:
        self._trt, self._device, self._name = trt, device, name
        self._logger = tensorrt_logger(trt)
        self._mark = self._logger.mark()
        self.flags: set[str] = set()
        try:
            self._builder = trt.Builder(self._logger)
        except TypeError as error:  # its constructor returned nothing: CUDA does not work
            raise BackendUnavailableError(
                f"TensorRT {trt.__version__} cannot use {device.name}; it says: {self._said()}; check that "
                "driver, CUDA and TensorRT fit"
            ) from error

    def parse(self, model: bytes, *, half: bool, quantized: bool) -> Any:
        """The network of an ONNX model."""
        trt = self._trt
        self.typing, network_flags, builder_flags = _typing(trt, half=half, quantized=quantized)
        self.flags.update(builder_flags)
        kinds = trt.NetworkDefinitionCreationFlag
        bits = sum(1 << int(self._named(kinds, flag)) for flag in network_flags)
        network = self._made(self._builder.create_network(bits), "create a network")
        # TensorRT's parser holds the weights that the network refers to.
        self._parser = trt.OnnxParser(network, self._logger)
        if not self._parser.parse(model):
            errors = [str(self._parser.get_error(index)) for index in range(self._parser.num_errors)]
            raise self._failed("read the ONNX model", "; ".join(errors[:3]))
        return network

    def config(self, options: EngineOptions, shapes: Sequence[tuple[int, ...]], *, exact: bool) -> Any:
        """How to build; `exact` for float32 without the shorter TF32."""
        trt = self._trt
        config = self._made(self._builder.create_builder_config(), "configure a build")
        profile = self._made(self._builder.create_optimization_profile(), "make a profile")
        try:
            profile.set_shape(INPUT, *shapes)
        except ValueError as error:
            raise self._failed(f"take input shapes {list(shapes)}", str(error)) from error
        if config.add_optimization_profile(profile) < 0:
            raise self._failed(f"take input shapes {list(shapes)}")
        for feature in _preview_features(trt):
            config.set_preview_feature(self._named(trt.PreviewFeature, feature), True)
        if options.version_compatible:
            self.flags.add("VERSION_COMPATIBLE")
        if options.dla is not None:
            self._use_dla(config, options.dla, exact)
        if exact:
            config.clear_flag(trt.BuilderFlag.TF32)  # it is set at first
        else:
            self.flags.add("TF32")
        for flag in sorted(self.flags):
            config.set_flag(self._named(trt.BuilderFlag, flag))
        if options.hardware_compatible:
            level = HARDWARE[options.hardware_compatible]
            levels = trt.HardwareCompatibilityLevel
            if not hasattr(levels, level):
                known = [name for name, value in HARDWARE.items() if hasattr(levels, value)]
                raise InvalidInputError(
                    f"hardware compatibility {options.hardware_compatible} is not to be had; found TensorRT "
                    f"{trt.__version__}, which has {', '.join(known)}; give that, or take a later TensorRT"
                )
            config.hardware_compatibility_level = getattr(levels, level)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        self._limit_memory(config, options.workspace)
        return config

    def run(self, network: Any, config: Any, options: EngineOptions, steps: Steps | None) -> bytes:
        """Build, with the timing cache."""
        cache = self._cache_file(options.timing_cache)
        if cache is not None:
            self._load_cache(config, cache)
        monitor = None
        if hasattr(self._trt, "IProgressMonitor"):  # from 10.0 on
            monitor = _monitor_class(self._trt)(steps)
            config.progress_monitor = monitor
        self._mark = self._logger.mark()
        plan = self._builder.build_serialized_network(network, config)
        if monitor is not None and monitor.stopped is not None:
            raise monitor.stopped
        content = bytes(memoryview(self._made(plan, "build an engine")))
        if cache is not None:
            self._save_cache(config, cache)
        return content

    def _use_dla(self, config: Any, core: int, exact: bool) -> None:
        cores = self._builder.num_DLA_cores
        if core >= cores:
            raise InvalidInputError(
                f"DLA core {core} cannot serve; {self._device.name} has {cores}; leave it out, or give a "
                "lower number"
            )
        if exact:
            raise InvalidInputError(
                f"DLA core {core} cannot serve; found precision fp32, which it does not have; build in fp16 "
                "or int8"
            )
        config.default_device_type = self._trt.DeviceType.DLA
        config.DLA_core = core
        self.flags.add("GPU_FALLBACK")

    def _limit_memory(self, config: Any, workspace: int | None) -> None:
        pools = self._trt.MemoryPoolType
        total = self._device.total_memory
        if self._device.integrated:
            config.set_memory_pool_limit(pools.TACTIC_DRAM, total // TACTIC_SHARE)
            workspace = workspace or total // WORKSPACE_SHARE // MIB
        if workspace:
            config.set_memory_pool_limit(pools.WORKSPACE, workspace * MIB)

    def _cache_file(self, asked: str) -> Path | None:
        if asked == "off":
            return None
        if asked != "auto":
            return Path(asked)
        major, minor = self._device.compute_capability
        name = f"timing-{self._trt.__version__}-sm{major}{minor}-driver{self._device.driver_version}.cache"
        return cache_folder() / name

    def _load_cache(self, config: Any, path: Path) -> None:
        """Give the build the times that are known; what does not fit is told, and made anew."""
        try:
            known = path.read_bytes()
        except FileNotFoundError:
            known = b""
        except OSError as error:
            _log.warning("cannot read the timing cache %s: %s; building without", path, error.strerror)
            known = b""
        for content in [known, b""] if known else [b""]:
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return
            if content:
                _log.warning(
                    "the timing cache %s is damaged or made for another machine; making it anew", path
                )
        _log.warning("TensorRT makes no timing cache: %s", self._said())

    def _save_cache(self, config: Any, path: Path) -> None:
        cache = config.get_timing_cache()
        content = None if cache is None else cache.serialize()
        if content is None:
            _log.warning("TensorRT gives no timing cache to keep: %s", self._said())
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, memoryview(content))
        except OSError as error:
            _log.warning("cannot keep the timing cache %s: %s", path, error.strerror)

    def _named(self, kinds: Any, name: str) -> Any:
        """A value of an enum, which this version may lack."""
        if not hasattr(kinds, name):
            raise BuildError(
                f"cannot build an engine of {self._name!r}; found TensorRT {self._trt.__version__}, which "
                f"has no {kinds.__name__}.{name}; take another version"
            )
        return getattr(kinds, name)

    def _made(self, found: Any, step: str) -> Any:
        if found is None:
            raise self._failed(step)
        return found

    def _failed(self, step: str, details: str = "") -> BuildError:
        return BuildError(
            f"cannot build an engine of {self._name!r}; TensorRT {self._trt.__version__} cannot {step}: "
            f"{details or self._said()}; try another precision, a smaller batch or a larger workspace"
        )

    def _said(self) -> str:
        return quoted(self._logger, self._mark)


def _monitor_class(trt: Any) -> Callable[[Steps | None], Any]:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Counts steps, and stops the build when it is interrupted."""

        def __init__(self, steps: Steps | None) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._steps = steps

        # TensorRT's C++ calls these: an exception must not pass through it.
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._do(lambda steps: steps.grow(num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._do(lambda steps: steps.step())
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            pass

        def _do(self, show: Callable[[Steps], None]) -> None:
            try:
                if self._steps is not None:
                    show(self._steps)
            except BaseException as error:
                self.stopped = error

    return Monitor


def _rises(sizes: Sequence[Sequence[int]]) -> bool:
    """Whether three shapes are positive, and none is larger than the next in any axis."""
    return len(sizes) == 3 and all(
        1 <= low <= middle <= high for low, middle, high in zip(*sizes, strict=True)
    )


def _check(usable: bool, name: str, found: object, expected: str) -> None:
    if not usable:
        raise InvalidInputError(f"{name} is not usable; found {found}; give {expected}")
