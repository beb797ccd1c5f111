"""TensorRT engines on CUDA."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import INPUT, Batch, DeviceArray, check_device, in_order, padded_batch
from edgepose.backends.device import Device, DeviceMemory, Held, Staging, open_device
from edgepose.backends.engine_file import EngineBuild, Platform, check_fits, read_engine, this_system
from edgepose.backends.interface import Port, check_interface
from edgepose.backends.tensorrt_log import import_tensorrt, quoted, tensorrt_logger
from edgepose.errors import BackendUnavailableError, EngineMismatchError, ModelFormatError

__all__ = ["TensorRtBackend", "TensorRtBinding"]

SHAPES_KEPT = 6
"""So many input shapes keep their buffers and execution context, in each thread that calls `run`."""

_TYPES = {"FLOAT": "tensor(float)", "HALF": "tensor(float16)", "UINT8": "tensor(uint8)"}
_NUMPY: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "UINT8": np.dtype(np.uint8),
}

_Place = Callable[[tuple[int, ...], np.dtype[Any]], DeviceMemory | Staging]


class TensorRtBackend:
    """A `Backend` and `DeviceNetwork` that runs a TensorRT engine.

    Unlike other backends it may be called from several threads at once: each has a stream, buffers and
    execution contexts of its own, which go when the thread ends. A batch larger than the engine takes is
    split. A run takes 1, 2, 4, … pictures, or as many as the engine takes at most; what lacks is filled up
    with zeros, so that few shapes are in use.

    Args:
        path: an ``.engine`` file, or a bare plan with its description beside it.
        device: ``"auto"``, ``"cuda"`` or ``"cuda:1"``.
        reason: why this runtime was chosen, for `describe`.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError.
        EngineMismatchError: it was built for another version of TensorRT, GPU or system.
    """

    name = "tensorrt"
    stream = None

    def __init__(self, path: Path, *, device: str = "auto", reason: str = "asked for") -> None:
        number = check_device(device)
        file = read_engine(path)
        if device == "cpu":
            raise BackendUnavailableError(
                f"device 'cpu' cannot serve; {path} is a TensorRT engine, which runs on CUDA; give the .onnx "
                "file that it was built from"
            )
        # First of all: without a usable driver TensorRT takes the process down.
        self.cuda = open_device(int(number or 0))
        trt = import_tensorrt("running an engine")
        self._version = str(trt.__version__)
        here = Platform(self._version, ".".join(map(str, self.cuda.compute_capability)), this_system())
        check_fits(file.built, here)
        self.spec = file.spec
        self.device = f"cuda:{self.cuda.number}"
        self.capturable = file.built.dla is None  # the DLA cannot be captured
        self._built = file.built
        self._reason = reason
        self._lock = threading.RLock()
        self._local = threading.local()
        self._lanes: weakref.WeakSet[_Lane] = weakref.WeakSet()
        self._bindings: weakref.WeakSet[TensorRtBinding] = weakref.WeakSet()
        self._engine: _Engine | None = _Engine(self.cuda, trt, file.plan, file.built, here)
        try:
            with self.cuda.use():
                self._outputs = self._check(path, trt)
        except BaseException:
            self.close()
            raise

    def _check(self, path: Path, trt: Any) -> list[str]:
        """Compare the engine's inputs and outputs with the spec; the names of the outputs needed."""
        engine = self._opened().engine
        self._types: dict[str, str] = {}
        inputs: dict[str, Port] = {}
        outputs: dict[str, Port] = {}
        for index in range(engine.num_io_tensors):
            name = str(engine.get_tensor_name(index))
            self._types[name] = kind = str(engine.get_tensor_dtype(name).name)
            shape: list[Any] = ["?" if side < 0 else int(side) for side in engine.get_tensor_shape(name)]
            if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
                raise ModelFormatError(
                    f"cannot run {path}; its {name} has the format {engine.get_tensor_format(name).name}; "
                    "build it again, with linear inputs and outputs"
                )
            ports = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
            # The batch may be fixed, as `run` splits and fills up.
            ports[name] = Port(_TYPES.get(kind, f"tensor({kind.lower()})"), ["?", *shape[1:]])
        if INPUT in inputs:
            lowest = highest = tuple(map(int, engine.get_tensor_shape(INPUT)))
            if -1 in lowest:
                profile = engine.get_tensor_profile_shape(INPUT, 0)
                lowest, highest = (tuple(map(int, profile[place])) for place in (0, 2))
            self._lowest, self._highest = lowest, highest
            if lowest[1:] == highest[1:]:
                inputs[INPUT] = inputs[INPUT]._replace(shape=["?", *lowest[1:]])
        found, self.input_size = check_interface(path, self.spec, inputs, outputs)
        return found

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """The least and the greatest n that the engine takes in one run."""
        return self._lowest[0], self._highest[0]

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Run the network on a batch in the form that its spec says; outputs by name."""
        self._opened()
        if batch.dtype != _NUMPY[self._types[INPUT]]:
            raise self._misfit(f"{batch.dtype} {batch.shape}")
        lane: _Lane | None = getattr(self._local, "lane", None)
        if lane is None:
            with self._lock:
                self._opened()
                lane = self._local.lane = _Lane(self.cuda)
                self._lanes.add(lane)
        return lane.run(self, batch)

    def bind(self, shape: tuple[int, ...]) -> TensorRtBinding:
        """Device buffers and an execution context for one input shape, as `DeviceNetwork.bind`."""
        return self._bind(shape, lambda sides, dtype: self.cuda.allocate(math.prod(sides) * dtype.itemsize))

    def _bind(self, shape: tuple[int, ...], place: _Place) -> TensorRtBinding:
        inside = len(shape) == len(self._lowest) and all(
            low <= side <= high for low, side, high in zip(self._lowest, shape, self._highest, strict=True)
        )
        if not inside:
            raise self._misfit(str(shape))
        with self._lock:  # close waits for this, and one engine makes one context at a time
            binding = TensorRtBinding(self._opened(), self._types, self._outputs, shape, place)
            self._bindings.add(binding)
        return binding

    def _misfit(self, found: str) -> BackendUnavailableError:
        takes = str(self._lowest)
        if self._lowest != self._highest:
            takes += f" to {self._highest}"
        return BackendUnavailableError(
            f"the network failed on {self.device}; found an input {found}, the engine takes "
            f"{_NUMPY[self._types[INPUT]]} {takes}; give such a batch, or build it again for larger ones: "
            f"{self._built.command}"
        )

    def _opened(self) -> _Engine:
        if self._engine is None:
            raise BackendUnavailableError("the network cannot run; found it closed; open the model again")
        return self._engine

    def describe(self) -> dict[str, Any]:
        """Runtime, version, device, what the engine is, and why this."""
        return {
            "name": self.name,
            "version": self._version,
            "device": self.device,
            "gpu": self.cuda.name,
            "compute_capability": ".".join(map(str, self.cuda.compute_capability)),
            "precision": self._built.precision,
            "typing": self._built.typing,
            "batch_sizes": list(self.batch_sizes),
            "reason": self._reason,
        }

    def close(self) -> None:
        """Release engine and buffers, after runs in progress. May be called twice, from any thread."""
        with self._lock:
            engine, self._engine = self._engine, None
            lanes, bindings = list(self._lanes), list(self._bindings)
        for lane in lanes:
            lane.close()
        for binding in bindings:
            binding.close()
        if engine is not None:
            engine.close()


class TensorRtBinding(Held):
    """An execution context with its buffers, for one input shape. See `Binding`. Made by a backend.

    Attributes:
        buffers: of input and outputs, by name.
    """

    def __init__(
        self,
        engine: _Engine,
        types: dict[str, str],
        outputs: list[str],
        shape: tuple[int, ...],
        place: _Place,
    ) -> None:
        self.buffers: dict[str, DeviceMemory | Staging] = {}
        self._lock = threading.RLock()
        self._log = engine.log
        self._used = False
        with engine.device.use():
            mark = self._log.mark()
            self._context = engine.engine.create_execution_context()
            self._need(self._context is not None, "make an execution context", mark)
            try:
                found = self._bind(engine, types, shape, place)
            except BaseException:
                self._drop()
                raise
        self.input = found.pop(INPUT)
        self.outputs = in_order({name: found[name] for name in outputs})
        super().__init__(engine.device)

    def _bind(
        self, engine: _Engine, types: dict[str, str], shape: tuple[int, ...], place: _Place
    ) -> dict[str, DeviceArray]:
        """Set shapes and addresses; the arrays that a caller may see."""
        context, mark = self._context, self._log.mark()
        if context.active_optimization_profile < 0:  # it is not the first of this engine
            stream = engine.device.stream()
            chosen = context.set_optimization_profile_async(0, stream.handle)
            self._need(chosen, "use the engine's profile in one more execution context", mark)
            stream.synchronize()
            stream.close()
        self._need(context.set_input_shape(INPUT, shape), f"set the input's shape {shape}", mark)
        missing = context.infer_shapes()
        self._need(not missing, f"know the shapes of {missing}", mark)
        arrays = {}
        for name, kind in types.items():
            sides = tuple(map(int, context.get_tensor_shape(name)))
            dtype = _NUMPY.get(kind)
            if dtype is not None:
                self.buffers[name] = place(sides, dtype)
                arrays[name] = DeviceArray(self.buffers[name].pointer, sides, dtype)
            else:  # an output that the task does not need
                self.buffers[name] = engine.device.allocate(int(context.get_max_output_size(name)))
            placed = context.set_tensor_address(name, self.buffers[name].pointer)
            self._need(placed, f"take the address of {name}", mark)
        return arrays

    def enqueue(self, stream: int) -> None:
        """Put one run on a stream, by its handle; nothing is waited for.

        Raises:
            BackendUnavailableError: TensorRT refuses it, or this is closed.
        """
        with self._lock, self.device.use():
            if self._context is None:
                raise BackendUnavailableError("the network cannot run; found it closed; open the model again")
            mark = self._log.mark()
            self._used = True
            self._need(self._context.execute_async_v3(stream), "run the engine", mark)

    def _need(self, done: bool, what: str, mark: int) -> None:
        if not done:
            raise BackendUnavailableError(
                f"TensorRT could not {what}; it says: {quoted(self._log, mark)}; use a smaller batch, or "
                "close what else uses the device"
            )

    def _release(self) -> None:
        with self._lock:
            try:
                if self._used:
                    self.device.synchronize()
            finally:
                self._drop()

    def _drop(self) -> None:
        self._context = None
        for buffer in self.buffers.values():
            buffer.close()


class _Engine(Held):
    """A deserialised engine and its runtime."""

    def __init__(self, device: Device, trt: Any, plan: bytes, built: EngineBuild, here: Platform) -> None:
        self.log = tensorrt_logger(trt)
        mark = self.log.mark()
        with device.use():
            try:
                self._runtime = trt.Runtime(self.log)
            except TypeError as error:  # its way to say that there is none
                raise BackendUnavailableError(
                    f"TensorRT {here.tensorrt} cannot start; it says: {quoted(self.log, mark)}; check that "
                    "it and the driver fit each other"
                ) from error
            if built.version_compatible:
                self._runtime.engine_host_code_allowed = True  # which such a plan holds
            self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            said = quoted(self.log, mark)
            if "out of memory" in said.lower():
                raise BackendUnavailableError(
                    f"the memory of the CUDA device is used up; TensorRT says: {said}; close what else uses "
                    "the device, or use a smaller model"
                )
            raise EngineMismatchError(str(built), f"{here}, where TensorRT says: {said}", built.command)
        super().__init__(device)

    def _release(self) -> None:
        self.engine = self._runtime = None


class _Lane:
    """What one thread runs the engine with: a stream, and bindings by input shape."""

    def __init__(self, cuda: Device) -> None:
        self._lock = threading.RLock()
        self._stream = cuda.stream()
        self._bindings: OrderedDict[tuple[int, ...], TensorRtBinding] = OrderedDict()

    def run(self, backend: TensorRtBackend, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """As `Backend.run`."""
        least, greatest = backend.batch_sizes
        results: dict[str, NDArray[np.floating]] = {}
        for start in range(0, len(batch), greatest):
            part = batch[start : start + greatest]
            size = padded_batch(len(part), least, greatest)
            with self._lock:
                backend._opened()
                for name, values in self._run(backend, (size, *batch.shape[1:]), part).items():
                    if name not in results:
                        results[name] = np.empty((len(batch), *values.shape[1:]), values.dtype)
                    results[name][start : start + len(part)] = values
        return results

    def _run(
        self, backend: TensorRtBackend, shape: tuple[int, ...], part: Batch
    ) -> dict[str, NDArray[np.floating]]:
        """Run once; views of the buffers, valid until the next run."""
        binding = self._binding(backend, shape)
        count = len(part)
        try:
            given = binding.buffers[INPUT]
            assert isinstance(given, Staging)
            given.array[:count] = part
            given.array[count:] = 0
            given.upload(self._stream)
            binding.enqueue(self._stream.handle)
            found = {}
            for name in binding.outputs:
                taken = binding.buffers[name]
                assert isinstance(taken, Staging)
                taken.download(self._stream, taken.nbytes // shape[0] * count)
                found[name] = taken.array[:count]
            self._stream.synchronize()
        except BaseException:
            self._bindings.pop(shape).close()  # work on its buffers may go on
            raise
        return found

    def _binding(self, backend: TensorRtBackend, shape: tuple[int, ...]) -> TensorRtBinding:
        if shape in self._bindings:
            self._bindings.move_to_end(shape)
            return self._bindings[shape]
        while len(self._bindings) >= SHAPES_KEPT:
            self._bindings.popitem(last=False)[1].close()
        binding = self._bindings[shape] = backend._bind(shape, backend.cuda.staging)
        return binding

    def close(self) -> None:
        """Release all, after a run in progress."""
        with self._lock:
            while self._bindings:
                self._bindings.popitem()[1].close()
            self._stream.close()
