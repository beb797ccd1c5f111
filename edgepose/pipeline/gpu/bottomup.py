"""Regions, network, peaks and grouping of a bottom-up model as one piece of work on the GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.backends.base import HEATMAPS, TAGS, Binding, DeviceArray, DeviceNetwork, input_port
from edgepose.backends.device import Stream
from edgepose.kernels import _cuda
from edgepose.kernels.cuda import CROP_SOURCE
from edgepose.kernels.cuda_bottomup import PoseMapsOnDevice
from edgepose.kernels.pose_maps import MapPass, PoseMaps
from edgepose.pipeline.bottomup import Decoded, people_limit
from edgepose.pipeline.gpu.runner import Runner
from edgepose.pipeline.gpu.steps import fill_sources, put_crops, put_mirrored
from edgepose.pipeline.gpu.work import Work, told
from edgepose.pipeline.poses import StageTimes, lap
from edgepose.pipeline.regions import Region
from edgepose.spec import ModelSpec

__all__ = ["DeviceFrames"]

MAX_PLANS = 4
"""Picture sizes whose memory and graphs are kept."""


class DeviceFrames(Runner["_Plan"]):
    """A `edgepose.pipeline.bottomup.FrameRunner` that runs whole on the GPU. One call at a time.

    Args:
        network: the loaded model.
        spec: of it.
        scales: of the runs, in falling order.
        flip_test: average with the mirrored picture, which doubles the network's work.
        refine, official, max_persons: see `edgepose.pipeline.bottomup.decode_maps`.
    """

    def __init__(
        self,
        network: DeviceNetwork,
        spec: ModelSpec,
        *,
        scales: Sequence[float] = (1.0,),
        flip_test: bool = False,
        refine: bool | None = None,
        official: bool = False,
        max_persons: int | None = None,
    ) -> None:
        self._spec = spec
        self._tagged = [len(scales) == 1 or scale == 1 for scale in scales]
        self._flip_test = flip_test
        self._refine = refine
        self._official = official
        self._max_persons = max_persons
        super().__init__(network, MAX_PLANS)

    def __call__(
        self,
        image: NDArray[np.uint8],
        regions: Sequence[Region],
        size: tuple[int, int] | None,
        times: StageTimes,
    ) -> tuple[Decoded, tuple[int, int]]:
        """See `edgepose.pipeline.bottomup.FrameRunner`."""
        clock = time.perf_counter()
        with self.device.use(), told(self.device):
            sizes = tuple(region.size for region in regions)
            plan = self._plans.get((sizes, size), lambda: self._plan(sizes, size))
            placed = self._pictures.put({0: image})
            affine = np.concatenate([region.affine() for region in regions])
            fill_sources(plan.sources.array, [placed[0]] * len(regions), affine)
            clock = lap(times, "preprocess", clock)
            plan.work.run()
            clock = lap(times, "inference", clock)
        decoded = plan.decoded()
        lap(times, "postprocess", clock)
        return decoded, plan.size

    def _plan(self, sizes: Sequence[tuple[int, int]], size: tuple[int, int] | None) -> _Plan:
        grouping = self._spec.grouping
        assert grouping is not None  # BottomUp has seen to it
        runs = _Runs(self._network, self._spec, sizes, self._tagged, flip_test=self._flip_test)
        try:
            size = size or runs.passes[0].heatmaps[-1].shape[1:]
            found = PoseMaps(tuple(runs.passes), size, self._spec.skeleton.flip_permutation)
            maps = PoseMapsOnDevice(
                found,
                grouping.joint_order,
                window=grouping.window,
                limit=people_limit(grouping, official=self._official, max_persons=self._max_persons),
                detection_threshold=grouping.detection_threshold,
                tag_threshold=grouping.tag_threshold,
                use_detection_val=grouping.use_detection_val,
                ignore_too_much=grouping.ignore_too_much,
                adjust=grouping.adjust,
                refine=grouping.refine if self._refine is None else self._refine,
                official=self._official,
            )
        except BaseException:
            runs.close()
            raise
        return _Plan(self._network, self._stream, runs, maps, size)


class _Runs:
    """The network's runs for one picture, with their memory: scales, each also mirrored.

    A picture and its mirror image make one batch where the network takes two.

    Attributes:
        passes: what the runs leave.
        scales: how many there are.
    """

    def __init__(
        self,
        network: DeviceNetwork,
        spec: ModelSpec,
        sizes: Sequence[tuple[int, int]],
        tagged: Sequence[bool],
        *,
        flip_test: bool,
    ) -> None:
        self.scales = len(sizes)
        self._network = network
        self._spec = spec
        self._bindings: list[Binding] = []
        self._scales: list[list[tuple[Binding, int]]] = []  # each run's binding, and its place in the batch
        self.passes: list[MapPass] = []
        least, most = network.batch_sizes
        together = flip_test and most >= 2
        try:
            for size, tags in zip(sizes, tagged, strict=True):
                shape = tuple(input_port(spec, max(least, 2 if together else 1), size)[1])
                own = self._bind(shape)
                runs = [(own, 0)]
                if flip_test:
                    runs.append((own, 1) if together else (self._bind(shape), 0))
                self._scales.append(runs)
                for flipped, (binding, place) in enumerate(runs):
                    self.passes.append(self._pass(binding, place, flipped=bool(flipped), tags=tags))
        except BaseException:
            self.close()
            raise

    def _bind(self, shape: tuple[int, ...]) -> Binding:
        binding = self._network.bind(shape)
        self._bindings.append(binding)
        return binding

    def _pass(self, binding: Binding, place: int, *, flipped: bool, tags: bool) -> MapPass:
        """One picture's part of a run, as `edgepose.pipeline.bottomup.map_pass` has it."""
        joints = len(self._spec.skeleton)
        heatmaps: list[Any] = []
        tag_maps: list[Any] = []
        for name, output in binding.outputs.items():
            maps = _item(output, place)
            channels, height, width = maps.shape[1:]
            if name.startswith(HEATMAPS):
                heatmaps.append(DeviceArray(maps.pointer, (channels, height, width), maps.dtype))
            elif name.startswith(TAGS) and tags:
                parts = max(1, channels // joints)
                step, shape = maps.nbytes // parts, (channels // parts, height, width)
                places = range(maps.pointer, maps.pointer + parts * step, step)
                tag_maps += [DeviceArray(pointer, shape, maps.dtype) for pointer in places]
        return MapPass(tuple(heatmaps), tuple(tag_maps), flipped)

    def put(self, sources: int, stream: int) -> None:
        """Put all runs on a stream; of the `sources` each scale takes one."""
        for index, runs in enumerate(self._scales):
            own, place = runs[0]
            picture = _item(own.input, place)
            put_crops(self._spec, sources + index * CROP_SOURCE.itemsize, picture, stream)
            for binding, other in runs[1:]:
                put_mirrored(self._spec, picture, _item(binding.input, other), stream)
            for binding in dict.fromkeys(binding for binding, _ in runs):
                binding.enqueue(stream)

    def close(self) -> None:
        """Release the memory of all runs."""
        for binding in self._bindings:
            binding.close()


class _Plan:
    """All that one picture size takes: memory, and the work on it.

    Attributes:
        size: (height, width) of the final map.
        sources: where each scale's region comes from.
        work: from there to the persons.
    """

    def __init__(
        self,
        network: DeviceNetwork,
        stream: Stream,
        runs: _Runs,
        maps: PoseMapsOnDevice,
        size: tuple[int, int],
    ) -> None:
        self.size = size
        self._runs = runs
        self._maps = maps
        device = network.cuda
        self.sources = device.staging((runs.scales,), CROP_SOURCE)
        self._results = device.staging((maps.result_bytes,), np.uint8)
        self.work = Work(device, stream, self._steps, capturable=network.capturable)

    def _steps(self, stream: Stream) -> None:
        self.sources.upload(stream)
        self._runs.put(self.sources.pointer, stream.handle)
        self._maps.run(stream.handle)
        to = self._results.array.ctypes.data
        _cuda.copy_out(to, self._maps.result, self._maps.result_bytes, stream.handle)

    def decoded(self) -> Decoded:
        """The persons that the last work found."""
        return Decoded(*self._maps.read(self._results.array.copy()))

    def close(self) -> None:
        """Release graph and memory."""
        self.work.close()
        self._runs.close()  # which waits for work on the maps
        self._maps.close()
        self.sources.free()
        self._results.free()


def _item(batch: DeviceArray, place: int) -> DeviceArray:
    """One of a batch."""
    shape = (1, *batch.shape[1:])
    size = math.prod(shape) * batch.dtype.itemsize
    return DeviceArray(batch.pointer + place * size, shape, batch.dtype)
