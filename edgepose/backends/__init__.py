"""Runtimes that execute a model file; their packages are imported only when they are used."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

from edgepose.backends.base import Backend, check_device, device_network
from edgepose.backends.engine_file import ENGINE_SUFFIXES, read_engine_spec
from edgepose.backends.interface import Network
from edgepose.backends.onnx_metadata import read_metadata, read_spec
from edgepose.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeNetwork, import_onnxruntime
from edgepose.backends.openvino import OpenVinoBackend, OpenVinoNetwork, import_openvino
from edgepose.backends.tensorrt import TensorRtBackend
from edgepose.errors import BackendUnavailableError, InvalidInputError, ModelFormatError
from edgepose.spec import METADATA_KEY, ModelSpec

__all__ = [
    "RUNTIMES",
    "Backend",
    "Network",
    "carries_spec",
    "choose_runtime",
    "device_network",
    "open_backend",
    "open_network",
    "read_model_spec",
]

RUNTIMES = ("auto", "onnxruntime", "onnxruntime-tensorrt", "openvino", "tensorrt")

_log = logging.getLogger("edgepose")


def open_backend(
    path: Path, *, device: str = "auto", runtime: str = "auto", threads: int | None = None
) -> Backend:
    """Open a model file.

    Args:
        path: an ``.onnx`` file, or a TensorRT engine: an ``.engine`` file, or a ``.plan`` with its
            description beside it.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. An engine runs on CUDA alone.
        runtime: ``"auto"``: TensorRT for an engine, else as in `choose_runtime`; ``"tensorrt"`` for an
            engine; ``"openvino"``, ``"onnxruntime"``, or ``"onnxruntime-tensorrt"``: ONNX Runtime, which lets
            TensorRT build what it can of an ``.onnx`` file when that is opened or first run.
        threads: CPU threads of the network; None for all that this process may use.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is not a usable model.
        EngineMismatchError: the engine was built for another version of TensorRT, GPU or system.
        BackendUnavailableError: the runtime or the device cannot serve.
        InvalidInputError: there is no such runtime, it does not run such files, or no device has such a name.
    """
    if _is_engine(path):
        return _open_engine(path, device, runtime)
    name, reason = choose_runtime(runtime, device, read_spec(path) if runtime == "auto" else None)
    if name == "openvino":
        return OpenVinoBackend(path, device=device, threads=threads, reason=reason)
    if name == "tensorrt":
        raise InvalidInputError(
            f"runtime 'tensorrt' runs engines; found {path}; build one: edgepose build {path} -o "
            f"{path.with_suffix('.engine')}, or give runtime='onnxruntime-tensorrt'"
        )
    tensorrt = name == "onnxruntime-tensorrt"
    return OnnxRuntimeBackend(path, device=device, threads=threads, reason=reason, tensorrt=tensorrt)


def open_network(
    path: Path, *, device: str = "auto", runtime: str = "auto", threads: int | None = None
) -> Network:
    """Open an ONNX file of any kind, one that carries no description.

    Args:
        path: the ``.onnx`` file.
        device, runtime, threads: as for `open_backend`.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError: as `open_backend`.
    """
    name, reason = choose_runtime(runtime, device)
    if name == "tensorrt" or _is_engine(path):
        raise InvalidInputError(
            f"cannot run {path} by runtime {runtime!r}; only ONNX files run without a description, by "
            "another runtime; give an .onnx file, and runtime='auto' or 'onnxruntime-tensorrt'"
        )
    if name == "openvino":
        return OpenVinoNetwork(path, device=device, threads=threads, reason=reason)
    tensorrt = name == "onnxruntime-tensorrt"
    return OnnxRuntimeNetwork(path, device=device, threads=threads, reason=reason, tensorrt=tensorrt)


def _open_engine(path: Path, device: str, runtime: str) -> Backend:
    _check_runtime(runtime)
    if runtime not in ("auto", "tensorrt"):
        raise InvalidInputError(
            f"runtime {runtime!r} does not run engines; found {path}; give runtime='tensorrt', or the .onnx "
            "file that it was built from"
        )
    reason = "the file is a TensorRT engine" if runtime == "auto" else choose_runtime(runtime, device)[1]
    return TensorRtBackend(path, device=device, reason=reason)


def choose_runtime(
    runtime: str = "auto", device: str = "auto", spec: ModelSpec | None = None
) -> tuple[str, str]:
    """The runtime that serves an ``.onnx`` file, and why.

    Args:
        runtime: ``"auto"`` takes ONNX Runtime where it is installed, else OpenVINO where that is; for signed
            int8, on x86 without CUDA, OpenVINO first, which runs it several times as fast.
        device: OpenVINO serves the CPU alone, so that a CUDA device leaves ONNX Runtime.
        spec: of the model.

    Returns:
        ``"onnxruntime"`` or ``"openvino"``, or what was asked for; and the reason, as in `Backend.describe`.

    Raises:
        BackendUnavailableError: ``"auto"``, and neither is installed.
        InvalidInputError: there is no such runtime, or no device of such a name.
    """
    _check_runtime(runtime)
    cuda = check_device(device) is not None
    if runtime != "auto":
        return runtime, f"{runtime}{_asked(' and device', device, ' were') or ' was'} asked for"
    if cuda:
        return "onnxruntime", f"device {device!r} was asked for"
    asked = _asked(", and device", device, " was asked for")
    try:
        import_onnxruntime()
    except BackendUnavailableError as error:
        found = error.__cause__
    else:
        if spec is not None and _is_faster_in_openvino(spec, device):
            return "openvino", f"openvino is installed and runs signed int8 faster{asked}"
        return "onnxruntime", f"onnxruntime is installed{asked}"
    try:
        import_openvino()
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"running a model needs onnxruntime or openvino; found neither: {found}; {error.__cause__}; "
            'install one: pip install "edgepose[cpu]", or pip install "edgepose[openvino]"'
        ) from error
    if isinstance(found, ModuleNotFoundError) and found.name == "onnxruntime":
        return "openvino", f"onnxruntime is not installed{asked}"
    _log.warning("openvino serves, as onnxruntime does not load: %s", found)
    return "openvino", f"onnxruntime does not load{asked}"


def _is_faster_in_openvino(spec: ModelSpec, device: str) -> bool:
    """Whether a model is quantised to signed int8, the device is an x86 CPU, and OpenVINO is there."""
    built = spec.provenance.get("built")
    quantization = built.get("quantization") if isinstance(built, dict) else None
    signed = isinstance(quantization, dict) and quantization.get("activations") == "int8"
    if spec.precision != "int8" or not signed or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if device == "auto" and "CUDAExecutionProvider" in import_onnxruntime().get_available_providers():
        return False
    try:
        import_openvino()
    except BackendUnavailableError:
        return False
    return True


def _check_runtime(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise InvalidInputError(f"unknown runtime {runtime!r}; give {', '.join(map(repr, RUNTIMES))}")


def _asked(before: str, device: str, after: str) -> str:
    """Words for a device that was asked for."""
    return "" if device == "auto" else f"{before} {device!r}{after}"


def read_model_spec(path: Path) -> ModelSpec:
    """The description that a model file carries, read without its runtime.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is not a usable model.
    """
    return read_engine_spec(path) if _is_engine(path) else read_spec(path)


def carries_spec(path: Path) -> bool:
    """Whether a file is a model of edgepose; an ONNX file of others carries no description.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFormatError: it is neither an ONNX file nor an engine.
    """
    return _is_engine(path) or METADATA_KEY in read_metadata(path)


def _is_engine(path: Path) -> bool:
    """Whether a file is an engine, else an ``.onnx`` file, by its suffix."""
    suffix = path.suffix.lower()
    if suffix in (".pt", ".pth", ".ckpt"):
        raise ModelFormatError(
            f"cannot run {path}; it is a PyTorch checkpoint; export it: python -m training export"
        )
    if suffix not in (".onnx", *ENGINE_SUFFIXES):
        raise ModelFormatError(
            f"cannot run {path}; found the suffix {suffix!r}; give an .onnx or .engine file"
        )
    return suffix in ENGINE_SUFFIXES
