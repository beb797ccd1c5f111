"""ONNX Runtime on the CPU or, with onnxruntime-gpu, on CUDA."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import INPUT, Batch, check_device, default_threads
from edgepose.backends.interface import Port, check_interface
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import BackendUnavailableError, ModelFormatError
from edgepose.optional import first_line, require

__all__ = ["OnnxRuntimeBackend", "import_onnxruntime"]

_log = logging.getLogger("edgepose")


class OnnxRuntimeBackend:
    """A `Backend` that runs an ONNX file with ONNX Runtime.

    Args:
        path: the ONNX file; its input ``image`` is that of `Backend.run` with dynamic n, as are its
            outputs. h and w are the spec's, or, bottom-up, both dynamic or both fixed.
        device: ``"auto"`` takes CUDA where this ONNX Runtime has it and it loads, else the CPU, with a
            logged warning when CUDA was there and failed; ``"cuda"`` or ``"cuda:1"`` raises instead.
        threads: CPU threads; None for all that this process may use.
        reason: why this runtime was chosen, for `describe`.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError.
    """

    name = "onnxruntime"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        reason: str = "asked for",
    ) -> None:
        self.spec = read_spec(path)
        self.threads = threads or default_threads()
        self._ort = import_onnxruntime()
        self._reason = reason
        self._session = self._open(path, device)
        self._providers = self._session.get_providers()
        inputs = {item.name: Port(item.type, item.shape) for item in self._session.get_inputs()}
        outputs = {item.name: Port(item.type, item.shape) for item in self._session.get_outputs()}
        self._outputs, self.input_size = check_interface(path, self.spec, inputs, outputs)

    def _open(self, path: Path, device: str) -> Any:
        """A session on the device, which becomes known with it, and the reason for it."""
        number = check_device(device)
        self.device = "cpu"
        available = self._ort.get_available_providers()
        has_cuda = "CUDAExecutionProvider" in available
        if device == "auto":
            self._reason += f" and offers {'CUDA' if has_cuda else 'no CUDA'}"
        if number is None and (device == "cpu" or not has_cuda):
            return self._session_on(path, "CPUExecutionProvider", {})
        if not has_cuda:
            raise BackendUnavailableError(
                f"device {device!r} cannot serve; this onnxruntime {self._ort.__version__} offers "
                f"{', '.join(available)}; install onnxruntime-gpu in its place, or use device='cpu'"
            )
        session = self._session_on(path, "CUDAExecutionProvider", {"device_id": number or "0"})
        if session.get_providers()[0] == "CUDAExecutionProvider":
            self.device = f"cuda:{number or 0}"
            return session
        failure = (
            f"onnxruntime {self._ort.__version__} could not load CUDA and took {session.get_providers()[0]}"
        )
        if device != "auto":
            raise BackendUnavailableError(
                f"device {device!r} cannot serve; {failure}; check that the CUDA and cuDNN versions fit, "
                "or use device='cpu'"
            )
        self._reason += ", which does not load"
        _log.warning("%s", failure)
        return session

    def _session_on(self, path: Path, provider: str, provider_options: dict[str, str]) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Plans of memory by input shape: for the many sizes of bottom-up models they take up to 40 % more and
        # save them no time; top-down they save 1 % of it. The arena stays: without it the peak is higher.
        options.enable_mem_pattern = self.spec.task == "topdown"
        # Not session.set_denormal_as_zero: it would change the floating-point mode of the caller's thread.
        # Threads may spin for work within a run, but not between runs, where they would burn a core.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers: list[Any] = [(provider, provider_options)]
        if provider != "CPUExecutionProvider":
            providers.append("CPUExecutionProvider")
        try:
            return self._ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelFormatError(
                f"cannot run {path}; onnxruntime {self._ort.__version__} says: {first_line(error)}; "
                "get or export the file again"
            ) from error

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Run the network on a batch in the form that its spec says; outputs by name."""
        # Not by IO binding: with inputs and outputs bound it takes as long, within 1 %.
        try:
            values = self._session.run(self._outputs, {INPUT: batch})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise BackendUnavailableError(
                f"the network failed on {self.device}; found {first_line(error)}; try a smaller batch or "
                "another device"
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def describe(self) -> dict[str, Any]:
        """Runtime, version, device, threads, providers, and why these."""
        return {
            "name": self.name,
            "version": self._ort.__version__,
            "device": self.device,
            "threads": self.threads,
            "providers": list(self._providers),
            "reason": self._reason,
        }

    def close(self) -> None:
        """Release the session."""
        self._session = None


def import_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        BackendUnavailableError: it is not installed or does not load; the cause says which.
    """
    return require("onnxruntime", "running an ONNX model", "edgepose[cpu]")
