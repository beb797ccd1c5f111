"""Crops, network and decoder of a top-down model as one piece of work on the GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import HEATMAPS, DeviceArray, DeviceNetwork, input_port, padded_batch
from edgepose.backends.device import Stream
from edgepose.kernels import _cuda
from edgepose.kernels.cuda import CROP_SOURCE
from edgepose.pipeline.gpu.runner import Runner
from edgepose.pipeline.gpu.steps import fill_sources, put_crops, put_mirrored
from edgepose.pipeline.gpu.work import Work, told
from edgepose.pipeline.poses import StageTimes, lap
from edgepose.pipeline.topdown import MapJoints
from edgepose.spec import ModelSpec

__all__ = ["DeviceCrops"]

MAX_BATCH = 64
"""Crops per run of the network; bounds its memory."""
MAX_PLANS = 8
"""Batch sizes whose memory and graphs are kept: all powers of two up to `MAX_BATCH`, and one between."""


class DeviceCrops(Runner["_Plan"]):
    """A `edgepose.pipeline.topdown.CropRunner` that runs whole on the GPU. One call at a time.

    Batches are run in sizes of powers of two, so that few sizes have to be prepared; what fills them up
    is not returned.

    Args:
        network: the loaded model.
        spec: of it.
        flip_test: average with the mirrored crop, which doubles the network's work.
    """

    def __init__(self, network: DeviceNetwork, spec: ModelSpec, *, flip_test: bool = False) -> None:
        self._spec = spec
        least, most = network.batch_sizes
        self.batch = max(least, min(most, MAX_BATCH))
        self._flip_test = flip_test
        super().__init__(network, MAX_PLANS)

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        owner: NDArray[np.intp],
        affine: NDArray[np.float64],
        times: StageTimes,
    ) -> MapJoints:
        """See `edgepose.pipeline.topdown.CropRunner`."""
        clock = time.perf_counter()
        count = padded_batch(len(owner), self._network.batch_sizes[0], self.batch)
        with self.device.use(), told(self.device):
            plan = self._plans.get(
                count,
                lambda: _Plan(self._network, self._spec, self._stream, count, flip_test=self._flip_test),
            )
            placed = self._pictures.put({int(i): images[i] for i in np.unique(owner)})
            fill_sources(plan.sources.array, [placed[int(i)] for i in owner], affine)
            clock = lap(times, "preprocess", clock)
            plan.work.run()
            clock = lap(times, "inference", clock)
        joints = plan.joints(len(owner))
        lap(times, "postprocess", clock)
        return joints


class _Plan:
    """All that one batch size takes: memory, and the work on it."""

    def __init__(
        self, network: DeviceNetwork, spec: ModelSpec, stream: Stream, count: int, *, flip_test: bool
    ) -> None:
        self._spec = spec
        self._count = count
        shape = tuple(input_port(spec, count, spec.input_size)[1])
        device = network.cuda
        self._bindings = [network.bind(shape) for _ in range(2 if flip_test else 1)]
        heatmaps = self._bindings[0].outputs[HEATMAPS]
        self._joints, self._size = heatmaps.shape[1], (heatmaps.shape[2], heatmaps.shape[3])
        self.sources = device.staging((count,), CROP_SOURCE)
        self._results = device.staging((count * self._joints * 7,), np.float32)
        self._memory = []
        self._maps = heatmaps
        if flip_test:
            averaged = device.allocate(np.dtype(np.float32).itemsize * math.prod(heatmaps.shape))
            order = device.staging((self._joints,), np.int64)
            order.array[...] = spec.skeleton.flip_permutation
            order.upload(stream)
            self._memory = [averaged, order]
            self._maps = DeviceArray(averaged.pointer, heatmaps.shape, np.dtype(np.float32))
            self._order = order.pointer
        self.work = Work(device, stream, self._steps, capturable=network.capturable)

    def _steps(self, stream: Stream) -> None:
        spec, handle = self._spec, stream.handle
        self.sources.upload(stream)
        own = self._bindings[0]
        put_crops(spec, self.sources.pointer, own.input, handle)
        own.enqueue(handle)
        if len(self._bindings) > 1:
            mirrored = self._bindings[1]
            put_mirrored(spec, own.input, mirrored.input, handle)
            mirrored.enqueue(handle)
            heatmaps, back = own.outputs[HEATMAPS], mirrored.outputs[HEATMAPS].pointer
            shift, to = spec.coordinates == "legacy", self._maps.pointer
            _cuda.flip_average(
                heatmaps.pointer, back, *_form(heatmaps), self._order, self._joints, shift, to, handle
            )
        self._decode(handle)
        self._results.download(stream)

    def _decode(self, stream: int) -> None:
        decoder = self._spec.decoder
        coords, scores, covariance = self._places()
        maps = (self._maps.pointer, *_form(self._maps))
        if decoder.name == "soft_argmax":
            _cuda.soft_argmax(*maps, decoder.beta, coords, scores, covariance, stream)
            if decoder.refine == "quarter":
                _cuda.quarter_offset(*maps, coords, coords, stream)
        else:
            _cuda.argmax_offset(*maps, decoder.refine, coords, scores, stream)

    def _places(self) -> tuple[int, int, int]:
        """Addresses of coordinates, scores and covariances."""
        maps = self._count * self._joints
        start = self._results.pointer
        return start, start + 4 * 2 * maps, start + 4 * 3 * maps

    def joints(self, count: int) -> MapJoints:
        """The results of the first crops."""
        n, k = self._count, self._joints
        found = self._results.array
        coords = found[: n * k * 2].reshape(n, k, 2)[:count].copy()
        scores = found[n * k * 2 : n * k * 3].reshape(n, k)[:count].copy()
        if self._spec.decoder.name == "soft_argmax":
            covariance = found[n * k * 3 :].reshape(n, k, 2, 2)[:count].copy()
            return MapJoints(coords, scores, covariance, self._size)
        coords[scores <= 0] = np.nan  # no peak: the coordinates mean nothing
        return MapJoints(coords, scores, None, self._size)

    def close(self) -> None:
        self.work.close()
        for binding in self._bindings:
            binding.close()
        for memory in (self.sources, self._results, *self._memory):
            memory.close()


def _form(maps: DeviceArray) -> tuple[bool, int, int, int]:
    """Maps as the kernels take them, after their address: half precision, count, height, width."""
    n, k, height, width = maps.shape
    return maps.dtype == np.float16, n * k, height, width
