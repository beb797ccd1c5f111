"""ONNX Runtime on the CPU or, with onnxruntime-gpu, on CUDA."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import (
    HEATMAPS,
    INPUT,
    TAGS,
    Batch,
    channels_fit,
    default_threads,
    input_port,
    sides_of,
    wanted_outputs,
)
from edgepose.backends.onnx_metadata import read_spec
from edgepose.errors import BackendUnavailableError, InvalidInputError, ModelFormatError
from edgepose.optional import first_line, require

__all__ = ["OnnxRuntimeBackend"]

_log = logging.getLogger("edgepose")


class OnnxRuntimeBackend:
    """A `Backend` that runs an ONNX file with ONNX Runtime.

    Args:
        path: the ONNX file; its input ``image`` is that of `Backend.run` with dynamic n, as are its
            outputs. h and w are the spec's, or, bottom-up, both dynamic or both fixed.
        device: ``"auto"`` takes CUDA where this ONNX Runtime has it and it loads, else the CPU, with a
            logged warning when CUDA was there and failed; ``"cuda"`` or ``"cuda:1"`` raises instead.
        threads: CPU threads; None for all that this process may use.

    Raises:
        ModelNotFoundError, ModelFormatError, BackendUnavailableError, InvalidInputError.
    """

    name = "onnxruntime"
    input_size: tuple[int, int] | None

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self.spec = read_spec(path)
        self.threads = threads or default_threads()
        self._ort = require("onnxruntime", "running an ONNX model", "edgepose[cpu]")
        self._session = self._open(path, device)
        provider = self._session.get_providers()[0]
        cuda = re.fullmatch(r"cuda(?::(\d+))?", device)
        self.device = "cpu" if provider == "CPUExecutionProvider" else f"cuda:{(cuda and cuda[1]) or 0}"
        self._check_interface(path)

    def _open(self, path: Path, device: str) -> Any:
        match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device) if isinstance(device, str) else None
        if match is None:
            raise InvalidInputError(
                f"unknown device {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:1' (another number)"
            )
        available = self._ort.get_available_providers()
        if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
            return self._session_on(path, "CPUExecutionProvider", {})
        if "CUDAExecutionProvider" not in available:
            raise BackendUnavailableError(
                f"device {device!r} cannot serve; this onnxruntime {self._ort.__version__} offers "
                f"{', '.join(available)}; install onnxruntime-gpu in its place, or use device='cpu'"
            )
        session = self._session_on(path, "CUDAExecutionProvider", {"device_id": match[1] or "0"})
        if session.get_providers()[0] == "CUDAExecutionProvider":
            return session
        reason = (
            f"onnxruntime {self._ort.__version__} could not load CUDA and took {session.get_providers()[0]}"
        )
        if device != "auto":
            raise BackendUnavailableError(
                f"device {device!r} cannot serve; {reason}; check that the CUDA and cuDNN versions fit, "
                "or use device='cpu'"
            )
        _log.warning("%s", reason)
        return session

    def _session_on(self, path: Path, provider: str, provider_options: dict[str, str]) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
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

    def _check_interface(self, path: Path) -> None:
        """Compare inputs and outputs with the spec, so that a mismatch is known before the first run."""
        inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = {item.name: item for item in self._session.get_outputs()}
        self._outputs = wanted_outputs(self.spec, list(outputs))
        bottom_up = self.spec.task == "bottomup"
        if set(inputs) != {INPUT} or not self._outputs:
            expected = [HEATMAPS, TAGS] if bottom_up else [HEATMAPS]
            raise ModelFormatError(
                f"cannot run {path}; found inputs {sorted(inputs)} and outputs {sorted(outputs)}, expected "
                f"[{INPUT!r}] and {expected}; export it again"
            )
        image = inputs[INPUT]
        size: list[Any] = [..., ...] if bottom_up else list(self.spec.input_size)
        kind, shape = input_port(self.spec, None, size)
        if image.type != kind or not _fits(image.shape, shape):
            _, named = input_port(self.spec, "'batch'", ["height", "width"] if bottom_up else size)
            raise ModelFormatError(
                f"cannot run {path}; its input is {image.type} {image.shape}, its ModelSpec says "
                f"{kind} [{', '.join(map(str, named))}] with dynamic batch; export it again"
            )
        height, width = image.shape[sides_of(self.spec)]
        if isinstance(height, int) != isinstance(width, int):
            raise ModelFormatError(
                f"cannot run {path}; its input is {image.shape}, with only one side fixed; export it with "
                "height and width both dynamic or both fixed"
            )
        self.input_size = (height, width) if isinstance(height, int) else None
        joints = len(self.spec.skeleton)
        for name in self._outputs:
            output = outputs[name]
            fits = _fits(output.shape, [None, ..., ..., ...])
            if fits and isinstance(output.shape[1], int):
                fits = channels_fit(name, output.shape[1], joints)
            if output.type not in ("tensor(float)", "tensor(float16)") or not fits:
                raise ModelFormatError(
                    f"cannot run {path}; its {name} are {output.type} {output.shape}, its ModelSpec has "
                    f"{joints} joints; export it again"
                )

    def run(self, batch: Batch) -> dict[str, NDArray[np.floating]]:
        """Run the network on a batch in the form that its spec says; outputs by name."""
        try:
            values = self._session.run(self._outputs, {INPUT: batch})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise BackendUnavailableError(
                f"the network failed on {self.device}; found {first_line(error)}; try a smaller batch or "
                "another device"
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def describe(self) -> dict[str, Any]:
        """Runtime, version, device and threads."""
        return {
            "name": self.name,
            "version": self._ort.__version__,
            "device": self.device,
            "threads": self.threads,
        }

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _fits(found: list[Any], expected: list[Any]) -> bool:
    """Whether a shape fits: None asks for a dynamic axis, ... takes any; a dynamic axis takes all."""
    return len(found) == len(expected) and all(
        want is ... or not isinstance(have, int) or have == want
        for have, want in zip(found, expected, strict=True)
    )
