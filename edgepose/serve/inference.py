"""One thread that runs the network on what waits, a few pictures at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgepose.errors import InvalidInputError
from edgepose.result import PoseResult
from edgepose.streams.frames import Image

if TYPE_CHECKING:
    from edgepose.estimator import Estimator

__all__ = ["Estimated", "InferenceThread"]

_log = logging.getLogger("edgepose")


@dataclass(frozen=True)
class Estimated:
    """A result and how it came about.

    Attributes:
        result: the poses.
        queue: seconds that the picture waited for the network.
        inference: seconds that its run took.
        batch: pictures in that run.
    """

    result: PoseResult
    queue: float
    inference: float
    batch: int


@dataclass(frozen=True)
class _Job:
    image: Image
    boxes: Any
    future: Future[Estimated] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class InferenceThread:
    """Runs an estimator on the pictures that are submitted, in their order.

    Args:
        estimator: what runs.
        batch: how many go through it at once at most.
    """

    def __init__(self, estimator: Estimator, batch: int) -> None:
        self._estimator = estimator
        self._batch = batch
        self._jobs: deque[_Job] = deque()
        self._change = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="edgepose serve", daemon=True)
        self.warm = threading.Event()
        """Set once the first real request will be as fast as later ones."""

    def start(self) -> None:
        """Start the thread, which warms the model up first."""
        self._thread.start()

    def submit(self, image: Image, boxes: Any = None) -> Future[Estimated]:
        """Have a picture estimated. Cancelling the future while it waits takes it out of the queue.

        Args:
            image: BGR uint8 (H, W, 3).
            boxes: as for a call of `Estimator`.

        Raises:
            InvalidInputError: by the future: the picture or a box is not usable.
        """
        job = _Job(image, boxes)
        with self._change:
            if self._stopped:
                job.future.cancel()
            else:
                self._jobs.append(job)
                self._change.notify()
        return job.future

    def stop(self) -> None:
        """Cancel what waits, and end after the run that is under way."""
        with self._change:
            self._stopped = True
            while self._jobs:
                self._jobs.popleft().future.cancel()
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._estimator.warmup()
        except Exception:  # the first request that is answered will do it
            _log.exception("the model could not be warmed up")
        else:
            self.warm.set()
        while jobs := self._take():
            self._estimate(jobs)
            jobs.clear()  # the pictures are not held while the next ones are waited for

    def _take(self) -> list[_Job]:
        """The next jobs that are still wanted; none at the end."""
        with self._change:
            while True:
                jobs: list[_Job] = []
                while self._jobs and len(jobs) < self._batch:
                    job = self._jobs.popleft()
                    if job.future.set_running_or_notify_cancel():
                        jobs.append(job)
                if jobs or self._stopped:
                    return jobs
                self._change.wait()

    def _estimate(self, jobs: list[_Job]) -> None:
        started = time.perf_counter()
        try:
            results = self._estimator([job.image for job in jobs], boxes=[job.boxes for job in jobs])
        except Exception as error:
            if len(jobs) > 1:  # one by one, to find whose fault it is
                for job in jobs:
                    self._estimate([job])
                return
            if not isinstance(error, InvalidInputError):
                _log.exception("the network failed")
            jobs[0].future.set_exception(error)
            return
        took = time.perf_counter() - started
        self.warm.set()
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(Estimated(result, started - job.since, took, len(jobs)))
