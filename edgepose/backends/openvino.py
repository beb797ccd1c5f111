"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import Batch, check_device, default_threads
from edgepose.backends.interface import Port, check_interface
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import BackendUnavailableError, ModelFormatError
from edgepose.optional import first_line, require

__all__ = ["OpenVinoBackend", "OpenVinoNetwork", "import_openvino", "short_version", "without_telemetry"]

COMPILED_SHAPES = 2
"""So many input shapes get a network of their own, which costs memory for one more copy of the weights."""

_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)", "u8": "tensor(uint8)"}
_SINK = "/sink_port_0"  # ends the names of a graph's outputs
_TELEMETRY = "openvino_telemetry"
_importing = threading.RLock()


class OpenVinoNetwork:
    """A `Network` that runs any ONNX file with OpenVINO on the CPU.

    Layers in floating point are computed in float32 on every machine, those that the file quantises in
    int8. Nothing is written to the disk.

    One network that takes any shape serves at first. An input shape that comes again gets a network of its
    own, which is faster; the first such run takes the time to compile it. That is done for two shapes.

    Args:
        path: the ONNX file.
        device: ``"auto"`` or ``"cpu"``.
        threads: CPU threads; None for all that this process may use.
        reason: why this runtime was chosen, for `describe`.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        reason: str = "asked for",
    ) -> None:
        openvino = import_openvino()
        self._version = short_version(openvino)
        self._reason = reason
        if check_device(device) is not None:
            raise BackendUnavailableError(
                f"device {device!r} cannot serve; openvino serves the CPU alone; use device='cpu', or "
                "runtime='onnxruntime'"
            )
        self._settings = {
            "INFERENCE_NUM_THREADS": threads or default_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads of several processes would share cores where a quota leaves others idle.
            "ENABLE_CPU_PINNING": False,
            # The default is bfloat16 on processors that have it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._core = openvino.Core()
            self._model = self._core.read_model(str(path))
            self._any_shape = self._compile(self._model)
        except Exception as error:  # OpenVINO's errors have no base of their own
            raise ModelFormatError(
                f"cannot run {path}; openvino {self._version} says: {_reason_of(error)}; get or export the "
                "file again, or use runtime='onnxruntime'"
            ) from error
        self.inputs = {_name(port): _port(port) for port in self._model.inputs}
        self.outputs = {_name(port): _port(port) for port in self._model.outputs}
        self._places = {name: place for place, name in enumerate(self.outputs)}
        compiled = self._any_shape.get_compiled_model()
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self._precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._seen: set[tuple[int, ...]] = set()
        self._by_shape: dict[tuple[int, ...], Any] = {}

    def infer(self, batch: NDArray[Any], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Network.infer`."""
        try:
            feeds = {next(iter(self.inputs)): batch}
            values = self._request(batch.shape).infer(feeds, share_inputs=True, share_outputs=True)
            self._seen.add(batch.shape)  # only now, as the file may not take such a shape
            # Copies: the request writes its next outputs to the same place.
            return {name: np.array(values[self._places[name]]) for name in outputs}
        except Exception as error:  # OpenVINO's errors have no base of their own
            raise BackendUnavailableError(
                f"the network failed on {self.device}; found {_reason_of(error)}; try a smaller batch or "
                "another runtime"
            ) from error

    def describe(self) -> dict[str, Any]:
        """Runtime, version, device, threads, precision, and why these."""
        return {
            "name": self.name,
            "version": self._version,
            "device": self.device,
            "threads": self.threads,
            "precision": self._precision,
            "reason": self._reason,
        }

    def close(self) -> None:
        """Release the networks."""
        self._by_shape.clear()
        self._core = self._model = self._any_shape = None

    def _request(self, shape: tuple[int, ...]) -> Any:
        """What runs batches of this shape."""
        again = shape in self._seen and shape not in self._by_shape and self._model.is_dynamic()
        if again and len(self._by_shape) < COMPILED_SHAPES:
            model = self._model.clone()
            model.reshape({next(iter(self.inputs)): list(shape)})
            self._by_shape[shape] = self._compile(model)
        return self._by_shape.get(shape, self._any_shape)

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()


class OpenVinoBackend(OpenVinoNetwork):
    """A `Backend` that runs an ONNX file with OpenVINO on the CPU.

    Args:
        path: the ONNX file, as for `OnnxRuntimeBackend`.
        device, threads, reason: as for `OpenVinoNetwork`.

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
    ) -> None:
        self.spec = read_spec(path)
        super().__init__(path, device=device, threads=threads, reason=reason)
        self._outputs, self.input_size = check_interface(path, self.spec, self.inputs, self.outputs)

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Run the network on a batch in the form that its spec says; outputs by name."""
        return self.infer(batch, self._outputs)


def import_openvino() -> Any:
    """Import OpenVINO, `without_telemetry`.

    Raises:
        BackendUnavailableError: it is not installed or does not load; the cause says which.
    """
    with without_telemetry():
        return require("openvino", "running a model by OpenVINO", "edgepose[openvino]")


@contextmanager
def without_telemetry() -> Iterator[None]:
    """In the block ``import openvino`` does not find the package that it reports to its makers with.

    Left alone it writes an identity to the home directory and tells of the import over the network. It
    provides for that package to be missing, and then does neither.
    """
    with _importing:
        before = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules.pop(_TELEMETRY, None)
            if before is not None:
                sys.modules[_TELEMETRY] = before


def short_version(openvino: Any) -> str:
    """The version of the package, without the build that follows it."""
    return str(openvino.__version__).split("-")[0]


def _port(port: Any) -> Port:
    """An input or output of a model."""
    kind, shape = port.element_type.get_type_name(), port.partial_shape
    axes = () if shape.rank.is_dynamic else shape
    return Port(
        _TYPES.get(kind, f"tensor({kind})"),
        [axis.get_length() if axis.is_static else "?" for axis in axes],
    )


def _name(port: Any) -> str:
    """The name that the file gives an input or output; the value that it shows may have others too."""
    name = str(port.node.get_friendly_name()).removesuffix(_SINK)
    return name if name in port.names else str(port.any_name)


def _reason_of(error: Exception) -> str:
    """What an error says, without the places in OpenVINO's source and the headings around it."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Exception from ") and line[-1] != ":"]
    return " ".join(told[:3]) or first_line(error)
