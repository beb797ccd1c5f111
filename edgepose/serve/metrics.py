"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgepose.serve.live import LiveView

__all__ = ["STAGES", "Metrics"]

STAGES = ("receive", "decode", "queue", "inference", "total")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counters of one application, in a registry of their own.

    Args:
        under_way: how many requests with a picture are under way.
        live: the source that is watched, if any.
    """

    def __init__(self, under_way: Callable[[], int], live: LiveView | None) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "edgepose_requests", "Requests answered", ["path", "status"], registry=self._registry
        )
        self._stages = Histogram(
            "edgepose_stage_seconds",
            "Time of a picture in each stage; inference is that of the run it was part of",
            ["stage"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        queue = Gauge("edgepose_queue_length", "Requests with a picture under way", registry=self._registry)
        queue.set_function(under_way)
        self.batches = Histogram(
            "edgepose_batch_size",
            "Pictures in a run of the network, seen by each",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)
        if live is not None:
            self._registry.register(_LiveMetrics(live))

    def took(self, stage: str, seconds: float) -> None:
        """Count the time of a picture in one of `STAGES`."""
        self._stages.labels(stage).observe(seconds)

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _LiveMetrics(Collector):
    def __init__(self, live: LiveView) -> None:
        self._live = live

    def collect(self) -> list[Metric]:
        status = self._live.status()
        counters = {
            "edgepose_stream_frames": ("Frames of the source that were estimated", status.frames),
            "edgepose_stream_dropped": ("Frames dropped for newer ones", status.dropped),
            "edgepose_stream_reconnects": (
                "How often the source was lost and found again",
                status.reconnects,
            ),
        }
        gauges = {
            "edgepose_stream_up": ("Whether frames come", float(status.state == "running")),
            "edgepose_stream_fps": ("Results per second over the last two seconds", status.fps),
            "edgepose_stream_latency_seconds": (
                "From the newest frame's capture to its result",
                (status.latency_ms or 0.0) / 1e3,
            ),
            "edgepose_stream_viewers": ("Browsers that watch", float(status.viewers)),
        }
        return [
            *(CounterMetricFamily(name, text, value=value) for name, (text, value) in counters.items()),
            *(GaugeMetricFamily(name, text, value=value) for name, (text, value) in gauges.items()),
        ]
