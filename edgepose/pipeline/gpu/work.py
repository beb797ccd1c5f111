"""Work on a stream that is put there step by step once, and then again and again as one CUDA graph."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from edgepose.backends.device import Device, Held, Stream
from edgepose.errors import BackendUnavailableError
from edgepose.optional import first_line
from edgepose.pipeline.gpu.steps import capture

__all__ = ["Closable", "LeastRecent", "Work", "told"]

_log = logging.getLogger("edgepose")


class Work(Held):
    """Steps that are the same every time, on the same memory.

    Args:
        device: where they run.
        stream: what they are put on; not the default stream.
        steps: puts them on the stream, and does not wait.
        capturable: whether the steps may become a CUDA graph.
    """

    def __init__(
        self, device: Device, stream: Stream, steps: Callable[[Stream], None], *, capturable: bool
    ) -> None:
        self._stream = stream
        self._steps = steps
        self._capturable = capturable and os.environ.get("EDGEPOSE_CUDA_GRAPHS", "on") != "off"
        self._graph: Any = None
        super().__init__(device)

    def run(self) -> None:
        """Do the work, and wait for it.

        The first time the steps run one by one, since runtimes get their memory then, and are captured
        afterwards; where that fails they stay single steps, with a logged warning, and also where the
        environment variable ``EDGEPOSE_CUDA_GRAPHS`` is ``off``.

        Raises:
            BackendUnavailableError, RuntimeError: a step fails, see `told`.
        """
        if self._graph is not None:
            self._graph.launch(self._stream.handle)
        else:
            self._steps(self._stream)
        self._stream.synchronize()
        if self._capturable and self._graph is None:
            self._capture()

    def _capture(self) -> None:
        self._capturable = False
        try:
            with self.device.capturing():
                self._graph = capture(self._stream.handle, lambda: self._steps(self._stream))
        except Exception as error:  # any step may refuse to be captured
            _log.warning(
                "the steps around the network run one by one, slower, as no CUDA graph could be made of "
                "them: %s",
                first_line(error),
            )

    def _release(self) -> None:
        graph, self._graph = self._graph, None
        self._capturable = False
        if graph is not None:
            graph.close()


@contextmanager
def told(device: Device) -> Iterator[None]:
    """In the block, what the CUDA kernels raise becomes an error of this package with a remedy."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, BackendUnavailableError):
            raise
        found = first_line(error)
        remedy = "start the program again"
        if "out of memory" in found:
            remedy = "use a smaller batch or model, or close what else uses the device"
        raise BackendUnavailableError(f"work on {device.name} failed; found {found}; {remedy}") from error


class Closable(Protocol):
    """What holds resources."""

    def close(self) -> None:
        """Release them."""


T = TypeVar("T", bound=Closable)


class LeastRecent(Generic[T]):
    """The plans of the last shapes that were used; the one used longest ago makes room for a new one."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The plan of a shape, made where there is none."""
        if key not in self._items:
            while len(self._items) >= self._capacity:
                self._items.popitem(last=False)[1].close()
            self._items[key] = make()
        self._items.move_to_end(key)
        return self._items[key]

    def close(self) -> None:
        """Close all of them."""
        while self._items:
            self._items.popitem()[1].close()
