"""The classes of the fake TensorRT that build a plan."""

from __future__ import annotations

import json
import zlib
from typing import Any

from tests.fakes.tensorrt_base import CACHE, NULL, PLAN, Crash, Guarded, check_logger, opened, sealed


class ILogger(Guarded):
    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise Crash("ILogger.log is pure virtual")


class Logger(ILogger):
    def __init__(self, min_severity: Any = None) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Any, msg: str) -> None:
        pass


class IProgressMonitor(Guarded):
    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise Crash("IProgressMonitor.phase_start is pure virtual")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise Crash("IProgressMonitor.step_complete is pure virtual")

    def phase_finish(self, phase_name: str) -> None:
        raise Crash("IProgressMonitor.phase_finish is pure virtual")


class IHostMemory(Guarded, bytearray):
    @property
    def nbytes(self) -> int:
        return memoryview(self).nbytes

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("'IHostMemory' object is not subscriptable")


class ITensor(Guarded):
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any, is_input: bool) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self.is_network_input, self.is_network_output = is_input, not is_input


class INetworkDefinition(Guarded):
    def __init__(self, strong: bool, explicit: bool) -> None:
        self._strong, self._explicit = strong, explicit
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._onnx = b""
        self._ops: list[str] = []
        self.name = "Unnamed Network 0"

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._ops)

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if 0 <= index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if 0 <= index < len(self._outputs) else None

    def get_flag(self, flag: Any) -> bool:
        return bool(flag.name == "STRONGLY_TYPED" and self._strong)


class ParserError(Guarded):
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return 0


class OnnxParser(Guarded):
    def __init__(self, network: Any, logger: Any) -> None:
        if not isinstance(network, self._trt.INetworkDefinition):
            raise TypeError("__init__(): incompatible constructor arguments")
        check_logger(self, logger)
        self._network = network
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index] if 0 <= index < len(self._errors) else None

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse(self, model: Any, path: str | None = None) -> bool:
        try:
            problem = self._parse(bytes(memoryview(model)))
        except Exception as error:  # whatever onnx finds in foreign bytes
            problem = f"ModelProto could not be read: {type(error).__name__}"
        if problem:
            self._errors.append(self._trt.ParserError(problem))
            self._say(problem)
        return not problem

    def _parse(self, content: bytes) -> str:
        import onnx

        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
        network = self._network
        if not network._explicit:
            return "the network must be created with explicit batch"
        graph = model.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero is not None and (
                zero.data_type != onnx.TensorProto.INT8 or onnx.numpy_helper.to_array(zero).any()
            ):
                return f"In node {node.name} ({node.op_type}): only signed symmetric int8 is supported"
            weight = constants.get(node.input[0])
            if weight is not None and node.op_type == "DequantizeLinear":
                if weight.data_type == onnx.TensorProto.INT32:
                    return f"In node {node.name} (DequantizeLinear): int32 is not supported"
                if self._control.numbers() < (10,):
                    return f"In node {node.name} (DequantizeLinear): int8 weights need a QuantizeLinear"
        types_ = {
            onnx.TensorProto.FLOAT: "FLOAT",
            onnx.TensorProto.FLOAT16: "HALF",
            onnx.TensorProto.UINT8: "UINT8",
            onnx.TensorProto.INT8: "INT8",
            onnx.TensorProto.INT32: "INT32",
        }
        for values, into, is_input in (
            (graph.input, network._inputs, True),
            (graph.output, network._outputs, False),
        ):
            for value in values:
                if value.name in constants:
                    continue
                kind = value.type.tensor_type
                shape = tuple(axis.dim_value or -1 for axis in kind.shape.dim)
                dtype = getattr(self._trt.DataType, types_[kind.elem_type])
                into.append(self._trt.ITensor(value.name, shape, dtype, is_input))
        network._onnx = content
        network._ops = [node.op_type for node in graph.node]
        return ""


class IOptimizationProfile(Guarded):
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = [tuple(int(side) for side in shape) for shape in (min, opt, max)]
        ordered = all(a <= b <= c for a, b, c in zip(*shapes, strict=False))
        if len({len(shape) for shape in shapes}) != 1 or not ordered or any(s < 0 for s in shapes[0]):
            raise ValueError("Shape provided for min is inconsistent with other profile shapes")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> Any:
        return list(self._shapes.get(input, []))


class ITimingCache(Guarded):
    def __init__(self, content: bytes, header: dict[str, Any]) -> None:
        self._layers: set[int] = set(json.loads(content)["layers"]) if content else set()
        self._header = json.loads(content)["header"] if content else header

    def serialize(self) -> Any:
        text = json.dumps({"header": self._header, "layers": sorted(self._layers)})
        return self._trt.IHostMemory(sealed(CACHE, text.encode()))


class IBuilderConfig(Guarded):
    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._pools: dict[str, int] = {}
        self._profiles: list[dict[str, list[tuple[int, ...]]]] = []
        self._cache: Any = None
        self._preview: set[str] = set()
        for name, value in (
            ("builder_optimization_level", 3), ("max_aux_streams", -1), ("DLA_core", -1),
            ("progress_monitor", None), ("default_device_type", self._trt.DeviceType.GPU),
            ("hardware_compatibility_level", self._trt.HardwareCompatibilityLevel.NONE),
            ("profiling_verbosity", self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY),
        ):  # fmt: skip
            if name in type(self)._members:
                object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        expected = {
            "builder_optimization_level": int, "max_aux_streams": int, "DLA_core": int,
            "progress_monitor": getattr(self._trt, "IProgressMonitor", None),
            "default_device_type": self._trt.DeviceType,
            "hardware_compatibility_level": self._trt.HardwareCompatibilityLevel,
            "profiling_verbosity": self._trt.ProfilingVerbosity,
        }.get(name)  # fmt: skip
        if expected is not None and not isinstance(value, expected):
            raise TypeError(f"(): incompatible function arguments: {name} = {value!r}")
        if name == "builder_optimization_level" and not 0 <= value <= 5:
            self._say(f"builder_optimization_level {value} is out of range")
            return
        super().__setattr__(name, value)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def flags(self) -> int:
        return sum(1 << int(getattr(self._trt.BuilderFlag, name)) for name in self._flags)

    def set_flag(self, flag: Any) -> None:
        self._of_kind(flag, self._trt.BuilderFlag)
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._of_kind(flag, self._trt.BuilderFlag)
        self._flags.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        self._of_kind(flag, self._trt.BuilderFlag)
        return flag.name in self._flags

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._of_kind(feature, self._trt.PreviewFeature)
        (self._preview.add if enable else self._preview.discard)(feature.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._of_kind(pool, self._trt.MemoryPoolType)
        self._of_kind(pool_size, int)
        self._pools[pool.name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool.name, 1 << 34)

    def add_optimization_profile(self, profile: Any) -> int:
        self._of_kind(profile, self._trt.IOptimizationProfile)
        if not profile._shapes:
            self._say("the optimization profile is not valid")
            return -1
        self._profiles.append(dict(profile._shapes))
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        content = bytes(memoryview(serialized_timing_cache))
        if content:
            inner = opened(CACHE, content)
            if inner is None:
                self._say("the timing cache is damaged")
                return None
            content = inner
        return self._trt.ITimingCache(content, self._cache_header())

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._of_kind(cache, self._trt.ITimingCache)
        self._of_kind(ignore_mismatch, bool)
        if not ignore_mismatch and cache._header != self._cache_header():
            self._say("the timing cache was made by another version or device")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def _cache_header(self) -> dict[str, Any]:
        return {"version": self._control.version, "sm": list(self._control.sm)}

    def _of_kind(self, value: Any, kind: Any) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"incompatible function arguments: {value!r} is no {kind.__name__}")


class Builder(Guarded):
    def __init__(self, logger: Any) -> None:
        check_logger(self, logger)
        if not self._control.cuda:
            self._say("CUDA initialization failure with error: 35")
            raise TypeError(NULL)

    @property
    def num_DLA_cores(self) -> int:
        return self._control.dla_cores

    def create_network(self, flags: int = 0) -> Any:
        version = self._control.numbers()
        kinds = self._trt.NetworkDefinitionCreationFlag
        known = {name: 1 << int(getattr(kinds, name)) for name in kinds._names}
        if flags & ~sum(known.values()):
            self._say(f"unknown network flags {flags:#x}")
            return None
        explicit = version >= (10,) or bool(flags & known["EXPLICIT_BATCH"])
        strong = version >= (11,) or bool(flags & known.get("STRONGLY_TYPED", 0))
        return self._trt.INetworkDefinition(strong, explicit)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        config._of_kind(network, self._trt.INetworkDefinition)
        self._control.configs.append(config)
        self._control.networks.append(network)
        problem = self._problem(network, config)
        if problem:
            self._say(problem)
            return None
        if not self._report(network, config):
            self._say("the build was cancelled")
            return None
        layers = {zlib.crc32(f"{place} {op}".encode()) for place, op in enumerate(network._ops)}
        known = config._cache._layers if config._cache is not None else set()
        self._control.timed += len(layers - known)
        known |= layers
        header = {
            "version": self._control.version,
            "sm": list(self._control.sm),
            "strong": network._strong,
            "flags": sorted(config._flags),
            "hardware": config.hardware_compatibility_level.name,
            "profiles": config._profiles,
            # Always so from 10.0 on.
            "shares": self._control.numbers() >= (10,) or "PROFILE_SHARING_0806" in config._preview,
        }
        text = json.dumps(header).encode()
        content = len(text).to_bytes(4, "little") + text + network._onnx
        return self._trt.IHostMemory(sealed(PLAN, content))

    def _problem(self, network: Any, config: Any) -> str:
        flags = config._flags
        precision = flags & {"FP16", "INT8", "BF16", "FP8", "INT4", "FP4"}
        quantized = "QuantizeLinear" in network._ops or "DequantizeLinear" in network._ops
        if not self._control.cuda:
            return "CUDA initialization failure with error: 35"
        if not network._onnx:
            return "the network has no outputs"
        if network._strong and precision:
            return f"{sorted(precision)} must not be set for a strongly typed network"
        if not network._strong and quantized and "INT8" not in flags:
            return "Q/DQ layers need the flag INT8 in a weakly typed network"
        if config.hardware_compatibility_level.name != "NONE" and self._control.sm < (8, 0):
            return "hardware compatibility is not supported on this device"
        if config.default_device_type.name == "DLA":
            if not 0 <= config.DLA_core < self._control.dla_cores:
                return f"DLA core {config.DLA_core} does not exist"
            if "GPU_FALLBACK" not in flags:
                return "a layer does not run on DLA, and GPU_FALLBACK is not set"
            if any(len(set(shapes)) > 1 for profile in config._profiles for shapes in profile.values()):
                return "dynamic shapes are not supported on DLA"
            if not network._strong and not precision:
                return "DLA needs FP16 or INT8"
        dynamic = any(-1 in tensor.shape for tensor in network._inputs)
        if dynamic and not config._profiles:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined"
        for profile in config._profiles:
            for tensor in network._inputs:
                for shape in profile.get(tensor.name) or [()]:
                    fits = len(shape) == len(tensor.shape) and all(
                        have in (-1, want) for have, want in zip(tensor.shape, shape, strict=True)
                    )
                    if not fits and (-1 in tensor.shape or shape):
                        return f"the profile {shape} of {tensor.name} does not fit {tensor.shape}"
        return ""

    def _report(self, network: Any, config: Any) -> bool:
        monitor = getattr(config, "progress_monitor", None)
        if monitor is None:
            return True
        if not monitor.__dict__.get("_ready"):
            raise TypeError("IProgressMonitor.__init__() must be called when overriding __init__")
        monitor.phase_start("Building Engine", None, 2)
        going = True
        for step in range(2):
            monitor.phase_start(f"Tactics {step}", "Building Engine", len(network._ops))
            for place in range(len(network._ops)):
                going = going and bool(monitor.step_complete(f"Tactics {step}", place))
            monitor.phase_finish(f"Tactics {step}")
            going = going and bool(monitor.step_complete("Building Engine", step))
        monitor.phase_finish("Building Engine")
        return going
