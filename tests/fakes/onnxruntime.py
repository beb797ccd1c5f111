"""A stand-in for onnxruntime-gpu around the package for the CPU; device memory is host memory.

Providers for CUDA and TensorRT seem to be there. Sessions run on the CPU and tell what they were asked for.
"""

from __future__ import annotations

from typing import Any

from tests.fakes import streams

__all__ = ["Gpu", "install"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
REFUSED = (
    "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU "
    "EP, but fallback to CPU EP has been explicitly disabled by the user."
)
CONFLICT = (
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Conflicting session configuration: explicitly added the CPU "
    "EP to the session, but also disabled fallback to the CPU EP via session configuration options."
)


class Gpu:
    """What a test may set and look at.

    Attributes:
        loads: providers whose libraries load; others are left out of a session with no more than a log line.
        raises: the text of an error where one does not load, as with ``CUDA_PATH`` set; None: a log line.
        cpu_nodes: whether some of a network's nodes are put on the CPU.
        refuses: the text of an error of every run; None: runs work.
        covers: called with address and bytes of what is bound; False fails the test.
        sessions: those made, in order.
    """

    def __init__(self, ort: Any, covers: Any) -> None:
        self.real = ort.InferenceSession
        self.loads = {CUDA, TENSORRT}
        self.raises: str | None = None
        self.cpu_nodes = False
        self.refuses: str | None = None
        self.covers = covers
        self.sessions: list[Session] = []

    def session(self, path: str, options: Any, providers: list[Any], enable_fallback: int = 1) -> Session:
        """In the place of `onnxruntime.InferenceSession`."""
        asked = dict(each if isinstance(each, tuple) else (each, {}) for each in providers)
        try:
            strict = options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        except RuntimeError:  # there is none
            strict = False
        if strict and CPU in asked:
            raise RuntimeError(CONFLICT)
        missing = asked.keys() - self.loads - {CPU}
        if missing and self.raises is not None:
            raise RuntimeError(self.raises)
        taken = [name for name in asked if name not in missing and name != CPU] + [CPU]
        if strict and (taken == [CPU] or self.cpu_nodes):
            raise RuntimeError(REFUSED)
        assert enable_fallback == 0 or taken == [CPU], "a failure would move the session to the CPU"
        plain = _plain(options)
        session = Session(self, self.real(path, plain, providers=[CPU]), asked, taken)
        self.sessions.append(session)
        return session


class Session:
    """A session on the CPU that says to be elsewhere."""

    def __init__(self, gpu: Gpu, real: Any, asked: dict[str, dict[str, str]], taken: list[str]) -> None:
        self.gpu, self.real, self.asked, self.taken = gpu, real, asked, taken
        self.waits: list[bool] = []

    @property
    def stream(self) -> int:
        """The stream given, 0 where there is none."""
        return int(self.asked.get(self.taken[0], {}).get("user_compute_stream", "0"))

    def get_providers(self) -> list[str]:
        return self.taken

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def run(self, names: Any, feeds: Any) -> Any:
        if self.gpu.refuses is not None:
            raise RuntimeError(self.gpu.refuses)
        return self.real.run(names, feeds)

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, run_options: Any = None) -> None:
        if self.gpu.refuses is not None:
            raise RuntimeError(self.gpu.refuses)
        key = "disable_synchronize_execution_providers"
        self.waits.append(run_options is None or run_options.get_run_config_entry(key) != "1")
        streams.submit(self.stream, lambda: self.real.run_with_iobinding(binding.real))


class Binding:
    """An IO binding whose device is the CPU."""

    def __init__(self, session: Session) -> None:
        self.session, self.real = session, session.real.io_binding()
        self.bound: dict[str, tuple[str, int, int]] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        self._note(name, device_type, device_id, element_type, shape, buffer_ptr)
        self.real.bind_input(name, "cpu", 0, element_type, shape, buffer_ptr)

    def bind_output(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        self._note(name, device_type, device_id, element_type, shape, buffer_ptr)
        self.real.bind_output(name, "cpu", 0, element_type, shape, buffer_ptr)

    def _note(self, name: str, kind: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        size = dtype().itemsize
        for side in shape:
            size *= side
        assert self.session.gpu.covers(pointer, size), f"{name} is not in the device's memory"
        self.bound[name] = (kind, number, pointer)


def _plain(options: Any) -> Any:
    """The same options, without what the CPU cannot do."""
    plain = type(options)()
    plain.intra_op_num_threads = options.intra_op_num_threads
    plain.log_severity_level = 4
    return plain


def install(monkeypatch: Any, covers: Any = lambda pointer, size: True, *, tensorrt: bool = True) -> Gpu:
    """Put the fake in the place of the package's sessions for one test."""
    import onnxruntime

    gpu = Gpu(onnxruntime, covers)
    offered = [*([TENSORRT] if tensorrt else []), CUDA, CPU]
    monkeypatch.setattr(onnxruntime, "InferenceSession", gpu.session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    return gpu
