"""What both pipelines hold on the GPU: a stream, places for pictures, and the plans of the last sizes."""

from __future__ import annotations

from typing import Generic, TypeVar

from edgepose.backends.base import DeviceNetwork
from edgepose.backends.device import Held
from edgepose.pipeline.gpu.pictures import Pictures
from edgepose.pipeline.gpu.work import Closable, LeastRecent

__all__ = ["Runner"]

T = TypeVar("T", bound=Closable)


class Runner(Held, Generic[T]):
    """Base of the runners; closing it may come before or after the network's.

    Args:
        network: the loaded model.
        capacity: sizes whose plans are kept.
    """

    def __init__(self, network: DeviceNetwork, capacity: int) -> None:
        self._network = network
        self._stream = network.stream or network.cuda.stream()
        self._pictures = Pictures(network.cuda, self._stream)
        self._plans: LeastRecent[T] = LeastRecent(capacity)
        super().__init__(network.cuda)

    def _release(self) -> None:
        self._plans.close()
        self._pictures.close()
        if self._network.stream is None:
            self._stream.close()
