"""The classes of the fake TensorRT that run a plan."""

from __future__ import annotations

import ctypes
import functools
import json
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fakes import streams
from tests.fakes.tensorrt_base import PLAN, Control, Crash, Guarded, Misuse, check_logger, opened


class Runtime(Guarded):
    def __init__(self, logger: Any) -> None:
        check_logger(self, logger)
        if not self._control.cuda:
            raise Crash("trt.Runtime without a driver takes the process down")
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        content = opened(PLAN, bytes(memoryview(serialized_engine)))
        if content is None:
            self._say("Serialization assertion magicTagRead == kMAGIC_TAG failed")
            return None
        length = int.from_bytes(content[:4], "little")
        header, model = json.loads(content[4 : 4 + length]), content[4 + length :]
        built, here = self._control.numbers(header["version"]), self._control.numbers()
        if built != here:
            if "VERSION_COMPATIBLE" not in header["flags"] or built > here:
                self._say(
                    "The engine plan file is not compatible with this version of TensorRT, expecting "
                    f"library version {self._control.version} got {header['version']}"
                )
                return None
            if not self.engine_host_code_allowed:
                self._say("the engine holds host code, which is not allowed")
                return None
        sm, level = tuple(header["sm"]), header["hardware"]
        if sm != self._control.sm and not (level == "AMPERE_PLUS" and self._control.sm >= (8, 0)):
            self._say(f"The engine plan file was built for compute {sm}, this device is {self._control.sm}")
            return None
        self._control.deserialized += 1
        return self._trt.ICudaEngine(header, model)


class ICudaEngine(Guarded):
    def __init__(self, header: dict[str, Any], model: bytes) -> None:
        network = self._trt.INetworkDefinition(header["strong"], True)
        problem = self._trt.OnnxParser._behaviour._parse(_Parse(self._trt, self._control, network), model)
        if problem:
            raise Misuse(problem)
        self._model, self._profiles = model, header["profiles"]
        # As TensorRT 8.6 was seen to: outputs do not keep the order of the file.
        self._tensors = {tensor.name: tensor for tensor in [*network._inputs, *reversed(network._outputs)]}
        self._layers = len(network._ops)
        self._level = header["hardware"]
        self._shares = header["shares"]
        self._contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.name = network.name

    num_io_tensors = property(lambda self: len(self._tensors))
    num_layers = property(lambda self: self._layers)
    num_optimization_profiles = property(lambda self: max(len(self._profiles), 1))
    device_memory_size = property(lambda self: 1 << 20)
    device_memory_size_v2 = property(lambda self: 1 << 20)
    refittable = property(lambda self: False)
    hardware_compatibility_level = property(
        lambda self: getattr(self._trt.HardwareCompatibilityLevel, self._level)
    )

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        tensor = self._tensors.get(name)
        if tensor is None:
            return modes.NONE
        return modes.INPUT if tensor.is_network_input else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape) if name in self._tensors else ()

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name].dtype if name in self._tensors else self._trt.DataType.FLOAT

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self._trt.TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        if not self._tensors[name].is_network_input:
            return []
        if not self._profiles:
            return [self.get_tensor_shape(name)] * 3
        return [tuple(shape) for shape in self._profiles[profile_index][name]]

    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> Any:
        return self._trt.IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector(self)


class EngineInspector(Guarded):
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        return json.dumps({"Layers": [f"layer {number}" for number in range(self._engine.num_layers)]})


class _Parse:
    """What `OnnxParser._parse` needs of a parser."""

    def __init__(self, trt: Any, switches: Control, network: Any) -> None:
        self._trt, self._control, self._network = trt, switches, network


def _alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let no two threads be in one context at once."""

    @functools.wraps(method)
    def alone(self: Any, *arguments: Any, **named: Any) -> Any:
        if not self._lock.acquire(blocking=False):
            raise Misuse("an execution context is used by two threads at once")
        try:
            return method(self, *arguments, **named)
        finally:
            self._lock.release()

    return alone


class IExecutionContext(Guarded):
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._shapes = {
            name: tensor.shape
            for name, tensor in engine._tensors.items()
            if tensor.is_network_input and -1 not in tensor.shape
        }
        self._addresses: dict[str, int] = {}
        self._found: dict[Any, dict[str, tuple[int, ...]]] = {}
        self._profile = 0 if self._free(0) else -1
        engine._contexts.add(self)
        self._session: Any = None

    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)

    def _free(self, profile: int) -> bool:
        """Whether this context may use a profile: without sharing, each of an engine has one of its own."""
        others = [context for context in self._engine._contexts if context is not self]
        used = any(context._profile == profile for context in others)
        return self._engine._shares or not self._engine._profiles or not used

    @_alone
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._say(f"there is no profile {profile_index}")
            return False
        if not self._free(profile_index):
            self._say(f"Profile {profile_index} has been chosen by another IExecutionContext")
            return False
        self._profile = profile_index
        return True

    @_alone
    def set_input_shape(self, name: str, shape: Any) -> bool:
        tensor = self._engine._tensors.get(name)
        if tensor is None or not tensor.is_network_input:
            self._say(f"there is no input {name}")
            return False
        lowest, _, highest = self._engine.get_tensor_profile_shape(name, self._profile)
        given = tuple(int(side) for side in shape)
        inside = len(given) == len(lowest) and all(
            a <= side <= b for a, side, b in zip(lowest, given, highest, strict=True)
        )
        if not inside:
            self._say(f"the shape {given} of {name} lies outside of the profile {lowest} to {highest}")
            return False
        self._shapes[name] = given
        return True

    @_alone
    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            self._say(f"there is no tensor {name}")
            return False
        self._addresses[name] = int(memory)
        return True

    @_alone
    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    @_alone
    def infer_shapes(self) -> list[str]:
        return self._missing()

    @_alone
    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return tuple(self._shapes[name])
        if self._missing():
            return self._engine.get_tensor_shape(name)
        return self._output_shapes()[name]

    @_alone
    def get_max_output_size(self, name: str) -> int:
        shape = self._output_shapes()[name]
        return int(np.prod(shape)) * self._numpy(name).itemsize

    @_alone
    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._missing():
            self._say(f"the shapes of {self._missing()} are not set")
            return False
        unset = [name for name in self._engine._tensors if not self._addresses.get(name)]
        if unset:
            self._say(f"Parameter check failed: the addresses of {unset} are not set")
            return False
        shapes = {**self._shapes, **self._output_shapes()}
        for name, shape in shapes.items():
            self._check(self._addresses[name], int(np.prod(shape)) * self._numpy(name).itemsize, name)
        self._control.runs.append((int(stream_handle), shapes))
        self._control.default_stream += not stream_handle
        streams.submit(int(stream_handle), functools.partial(self._run, shapes, dict(self._addresses)))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds, results = {}, {}
        for name, shape in shapes.items():
            array = self._at(addresses[name], shape, self._numpy(name), name)
            into = feeds if self._engine._tensors[name].is_network_input else results
            into[name] = array
        values = self._ort().run(list(results), {name: array.copy() for name, array in feeds.items()})
        for array, value in zip(results.values(), values, strict=True):
            array[...] = value

    def _at(self, address: int, shape: tuple[int, ...], dtype: Any, name: str) -> Any:
        count = int(np.prod(shape)) * dtype.itemsize
        self._check(address, count, name)
        raw = (ctypes.c_byte * count).from_address(address)
        return np.frombuffer(raw, dtype).reshape(shape)

    def _check(self, address: int, count: int, name: str) -> None:
        check = self._control.check_memory
        if check is not None and not check(address, count):
            raise Misuse(f"illegal memory access: {count} bytes at {address:#x} for {name}")

    def _missing(self) -> list[str]:
        tensors = self._engine._tensors
        return [name for name in tensors if tensors[name].is_network_input and name not in self._shapes]

    def _numpy(self, name: str) -> Any:
        return np.dtype(self._trt.nptype(self._engine._tensors[name].dtype))

    def _output_shapes(self) -> dict[str, tuple[int, ...]]:
        key = tuple(sorted(self._shapes.items()))
        if key not in self._found:
            names = [name for name, tensor in self._engine._tensors.items() if tensor.is_network_output]
            zeros = {name: np.zeros(shape, self._numpy(name)) for name, shape in self._shapes.items()}
            values = self._ort().run(names, zeros)
            self._found[key] = {n: value.shape for n, value in zip(names, values, strict=True)}
        return self._found[key]

    def _ort(self) -> Any:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(
                self._engine._model, options, providers=["CPUExecutionProvider"]
            )
        return self._session


NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "UINT8": np.uint8,
          "INT64": np.int64, "BOOL": np.bool_}  # fmt: skip


def nptype(trt_type: Any) -> Any:
    if trt_type.name not in NUMPY:
        raise TypeError(f"Could not resolve TensorRT datatype to an equivalent numpy datatype: {trt_type}")
    return NUMPY[trt_type.name]
