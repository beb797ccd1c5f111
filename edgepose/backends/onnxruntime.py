"""ONNX Runtime on the CPU or, with onnxruntime-gpu, on CUDA, where it may use TensorRT."""

from __future__ import annotations

import ctypes
import logging
import math
import re
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import INPUT, Batch, DeviceArray, cache_folder, check_device, default_threads
from edgepose.backends.device import Device, DeviceMemory, Held, Stream, open_device
from edgepose.backends.interface import Port, check_interface
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import BackendUnavailableError, ModelFormatError
from edgepose.optional import first_line, require

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeNetwork", "import_onnxruntime"]

_log = logging.getLogger("edgepose")

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_LIBRARIES = {_CUDA: "libonnxruntime_providers_cuda.so", _TENSORRT: "libonnxruntime_providers_tensorrt.so"}
_TAKES_STREAMS = (1, 18)
"""The first version whose Python package takes a stream of the caller."""
_ANY_BATCH = 1 << 16


class OnnxRuntimeNetwork:
    """A `Network` that runs any ONNX file with ONNX Runtime.

    Args:
        path: the ONNX file.
        device: ``"auto"`` takes CUDA where this ONNX Runtime has it and it loads, else the CPU, with a
            logged warning when CUDA was there and failed; ``"cuda"`` or ``"cuda:1"`` raises instead.
        threads: CPU threads; None for all that this process may use.
        reason: why this runtime was chosen, for `describe`.
        tensorrt: let TensorRT build what it can of the network, and CUDA run the rest; raises where TensorRT
            does not load. Engines are kept in the user's cache folder, as each takes minutes to build.
        many_shapes: inputs of many shapes are to come.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        reason: str = "asked for",
        tensorrt: bool = False,
        many_shapes: bool = False,
    ) -> None:
        self.name = "onnxruntime-tensorrt" if tensorrt else "onnxruntime"
        self.threads = threads or default_threads()
        self.device = "cpu"
        self.cuda: Device | None = None
        self.stream: Stream | None = None
        self._ort = import_onnxruntime()
        self._reason = reason
        self._many_shapes = many_shapes
        self._memory: str | None = None
        self._held: _Session | None = None
        self._session: Any = None
        try:
            session = self._open(path, device, _TENSORRT if tensorrt else _CUDA)
            self._providers = session.get_providers()
            self.inputs = {item.name: Port(item.type, item.shape) for item in session.get_inputs()}
            self.outputs = {item.name: Port(item.type, item.shape) for item in session.get_outputs()}
            # On a stream of ours `_held` alone has it, which ends before the stream does.
            self._session = session if self._held is None else None
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, device: str, provider: str) -> Any:
        """A session on the device, which becomes known with it, and the reason for it."""
        number = check_device(device)
        available = self._ort.get_available_providers()
        offered = provider in available
        tensorrt = provider == _TENSORRT
        if device == "auto" and not tensorrt:
            self._reason += f" and offers {'CUDA' if offered else 'no CUDA'}"
        if not tensorrt and (device == "cpu" or (device == "auto" and not offered)):
            return self._on_cpu(path)
        asked = f"runtime {self.name!r}" if tensorrt else f"device {device!r}"
        instead = "runtime='onnxruntime'" if tensorrt else "device='cpu'"
        if device == "cpu":
            raise BackendUnavailableError(
                f"{asked} cannot serve; it runs on CUDA, and found device='cpu'; use {instead}"
            )
        if not offered:
            raise BackendUnavailableError(
                f"{asked} cannot serve; this onnxruntime {self._ort.__version__} offers "
                f"{', '.join(available)}; install onnxruntime-gpu in its place, or use {instead}"
            )
        found = self._on_cuda(path, provider, int(number or 0))
        if not isinstance(found, str):
            return found
        session = self._on_cpu(path)  # or the file is to blame
        if tensorrt or device != "auto":
            raise BackendUnavailableError(
                f"{asked} cannot serve; {found}; check that the versions of CUDA, cuDNN"
                f"{' and TensorRT' if tensorrt else ''} are those of this onnxruntime, or use {instead}"
            )
        self._reason += ", which does not load"
        _log.warning("%s", found)
        return session

    def _on_cuda(self, path: Path, provider: str, number: int) -> Any:
        """A session on CUDA, or what keeps it from there."""
        options = {"device_id": str(number), **self._own_stream(number)}
        chosen: list[Any] = [(_CUDA, options)]
        if provider == _TENSORRT:
            chosen.insert(0, (_TENSORRT, {**options, **_cache_options()}))
        failure = ""
        # First without any node on the CPU. ONNX Runtime itself puts the arithmetic of shapes there.
        for alone in (True, False):
            try:
                session = self._new_session(path, chosen if alone else [*chosen, _CPU], alone)
            except Exception as error:  # ONNX Runtime's errors have no common base
                failure = f"says {first_line(error)}"
                continue
            taken = session.get_providers()[0]
            if taken == provider:
                self.device = f"cuda:{number}"
                if not alone:
                    self._reason += ", which leaves some nodes to the CPU"
                if self.stream is not None:
                    self._held = _Session(self.stream, session)
                return session
            failure = f"took {taken}"
        self._close_stream()
        name = "TensorRT" if provider == _TENSORRT else "CUDA"
        return f"onnxruntime {self._ort.__version__} could not load {name} and {failure}{self._why(provider)}"

    def _own_stream(self, number: int) -> dict[str, str]:
        """A provider's option that puts all work on one stream of ours; none where there is no pycuda."""
        version = tuple(map(int, re.findall(r"\d+", self._ort.__version__)[:2]))
        if version < _TAKES_STREAMS:
            self._memory = f"onnxruntime {self._ort.__version__} takes no stream"
            return {}
        try:
            self.cuda = open_device(number)
            self.stream = self.cuda.stream()
        except BackendUnavailableError as error:
            self.cuda, self._memory = None, str(error)
            return {}
        return {"user_compute_stream": str(self.stream.handle)}

    def _why(self, provider: str) -> str:
        """Why a provider's library does not load, which ONNX Runtime writes to stderr alone."""
        library = Path(self._ort.__file__).parent / "capi" / _LIBRARIES[provider]
        if not library.is_file():
            return ""
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return f": {first_line(error)}"
        return ""

    def _on_cpu(self, path: Path) -> Any:
        try:
            return self._new_session(path, [_CPU], False)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelFormatError(
                f"cannot run {path}; onnxruntime {self._ort.__version__} says: {first_line(error)}; "
                "get or export the file again"
            ) from error

    def _new_session(self, path: Path, providers: list[Any], without_cpu: bool) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4 if without_cpu else 3  # refusals of that are no errors to show
        # Plans of memory by input shape: for the many sizes of bottom-up models they take up to 40 % more and
        # save them no time; top-down they save 1 % of it. The arena stays: without it the peak is higher.
        options.enable_mem_pattern = not self._many_shapes
        # Not session.set_denormal_as_zero: it would change the floating-point mode of the caller's thread.
        # Threads may spin for work within a run, but not between runs, where they would burn a core.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if without_cpu:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # Else a failure, now or in a run, moves the session to the CPU with no more than a printed line.
        return self._ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)

    def infer(self, batch: NDArray[Any], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Network.infer`."""
        # Not by IO binding: with inputs and outputs bound on the CPU it takes as long, within 1 %.
        try:
            session = self._session if self._held is None else self._held.session
            values = session.run(list(outputs), {next(iter(self.inputs)): batch})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise self._failed(error) from error
        return dict(zip(outputs, values, strict=True))

    def _failed(self, error: Exception) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"the network failed on {self.device}; found {first_line(error)}; try a smaller batch or "
            "another device"
        )

    def describe(self) -> dict[str, Any]:
        """Runtime, version, device, threads, providers, and why these."""
        told = {
            "name": self.name,
            "version": self._ort.__version__,
            "device": self.device,
            "threads": self.threads,
            "providers": list(self._providers),
        }
        if self.device != "cpu":
            told["device_memory"] = "pycuda" if self._memory is None else self._memory
        return {**told, "reason": self._reason}

    def close(self) -> None:
        """Release the session."""
        self._session = None
        if self._held is not None:
            self._held.close()
            self._held = None
        self._close_stream()

    def _close_stream(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.cuda = self.stream = None


class OnnxRuntimeBackend(OnnxRuntimeNetwork):
    """A `Backend` that runs an ONNX file with ONNX Runtime.

    On CUDA with pycuda it is a `DeviceNetwork` too; without, it takes batches from the host's memory alone.

    Args:
        path: the ONNX file; its input ``image`` is that of `Backend.run` with dynamic n, as are its
            outputs. h and w are the spec's, or, bottom-up, both dynamic or both fixed.
        device, threads, reason, tensorrt: as for `OnnxRuntimeNetwork`.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError.
    """

    capturable = False
    batch_sizes = (1, _ANY_BATCH)

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        reason: str = "asked for",
        tensorrt: bool = False,
    ) -> None:
        self.spec = read_spec(path)
        self._bindings: weakref.WeakSet[_Binding] = weakref.WeakSet()
        many_shapes = self.spec.task == "bottomup"
        super().__init__(
            path,
            device=device,
            threads=threads,
            reason=reason,
            tensorrt=tensorrt,
            many_shapes=many_shapes,
        )
        try:
            self._outputs, self.input_size = check_interface(path, self.spec, self.inputs, self.outputs)
        except BaseException:
            self.close()
            raise

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Run the network on a batch in the form that its spec says; outputs by name."""
        return self.infer(batch, self._outputs)

    def bind(self, shape: tuple[int, ...]) -> _Binding:
        """Device buffers for one input shape, as `DeviceNetwork.bind`; the network is run once for it."""
        if self._held is None:
            raise BackendUnavailableError(
                f"the network cannot read the memory of a device; found {self._memory or 'it on the CPU'}; "
                "use `run`"
            )
        kind = np.uint8 if self.spec.input_format == "uint8_nhwc" else np.float32
        shapes = {INPUT: np.zeros(shape, kind)}
        shapes.update(self.run(shapes[INPUT]))
        binding = _Binding(self, self._held, shapes)
        self._bindings.add(binding)
        return binding

    def close(self) -> None:
        """Release the session and what is bound to it."""
        for binding in list(self._bindings):
            binding.close()
        super().close()


class _Session(Held):
    """A session on CUDA, which must end before its stream does."""

    def __init__(self, stream: Stream, session: Any) -> None:
        self.stream, self.session = stream, session
        super().__init__(stream.device)

    def _release(self) -> None:
        self.session = None


class _Binding(Held):
    """Inputs and outputs of a session in device memory. See `Binding`. Made by a backend."""

    def __init__(self, backend: OnnxRuntimeBackend, held: _Session, shapes: dict[str, NDArray[Any]]) -> None:
        device = held.stream.device
        self._lock = threading.RLock()
        self._held: _Session | None = held
        self._failed = backend._failed
        self._options = backend._ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._io = held.session.io_binding()
        self._memory: list[DeviceMemory] = []
        arrays = {}
        try:
            for name, like in shapes.items():
                memory = device.allocate(math.prod(like.shape) * like.itemsize)
                self._memory.append(memory)
                arrays[name] = DeviceArray(memory.pointer, like.shape, like.dtype)
                bind = self._io.bind_input if name == INPUT else self._io.bind_output
                bind(name, "cuda", device.number, like.dtype.type, list(like.shape), memory.pointer)
        except BaseException:
            self._drop()
            raise
        self.input = arrays.pop(INPUT)
        self.outputs = arrays
        super().__init__(device)

    def enqueue(self, stream: int) -> None:
        """Put one run on the session's stream, whose handle must be given; nothing is waited for.

        Raises:
            BackendUnavailableError: ONNX Runtime refuses it, it is another stream, or this is closed.
        """
        with self._lock, self.device.use():
            if self._held is None or self._held.session is None:
                raise BackendUnavailableError("the network cannot run; found it closed; open the model again")
            if stream != self._held.stream.handle:
                raise BackendUnavailableError(
                    "onnxruntime cannot run on this stream; found another than the network's own; use "
                    "`DeviceNetwork.stream`"
                )
            try:
                self._held.session.run_with_iobinding(self._io, self._options)
            except Exception as error:  # ONNX Runtime's errors have no common base
                raise self._failed(error) from error

    def _release(self) -> None:
        with self._lock:
            try:
                self.device.synchronize()
            finally:
                self._drop()

    def _drop(self) -> None:
        self._io = self._held = None
        for memory in self._memory:
            memory.close()


def _cache_options() -> dict[str, str]:
    """Options by which TensorRT's engines and timings are kept; none where they cannot be."""
    folder = cache_folder() / "onnxruntime"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("engines are built anew each time, as %s cannot be made: %s", folder, error.strerror)
        return {}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        BackendUnavailableError: it is not installed or does not load; the cause says which.
    """
    return require("onnxruntime", "running an ONNX model", "edgepose[cpu]")
