"""The way of one picture through the server, within its limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from edgepose.errors import InvalidInputError
from edgepose.result import PoseResult
from edgepose.serve.inference import Estimated, InferenceThread
from edgepose.serve.limits import Limits
from edgepose.serve.pictures import ENVELOPE, decode_upload, too_large
from edgepose.serve.refusal import Refusal

if TYPE_CHECKING:
    from edgepose.serve.metrics import Metrics

__all__ = ["Choice", "Predictor", "read_boxes", "while_wanted"]

T = TypeVar("T")

MAX_BOXES = 100
"""Persons of a picture, each of which costs a run of the network's share."""
DECODERS = 2
"""Threads that decode pictures."""


@dataclass(frozen=True)
class Choice:
    """Where to look, and what of the result is wanted: a part of what the estimator finds.

    Attributes:
        boxes: (n, 4) or (n, 5) of the persons, for a top-down model, or None.
        score_threshold: persons with a lower score are left out.
        keypoint_threshold: joints with a lower score become missing.
        max_persons: at most so many, those with the highest scores.
    """

    boxes: Any = None
    score_threshold: float | None = None
    keypoint_threshold: float | None = None
    max_persons: int | None = None

    def of(self, result: PoseResult) -> PoseResult:
        """The part of a result."""
        if self.score_threshold is not None:
            result = result[result.person_scores >= self.score_threshold]
        if self.max_persons is not None and len(result) > self.max_persons:
            best = np.argsort(-result.person_scores, kind="stable")[: self.max_persons]
            result = replace(result[np.sort(best)], truncated=True)
        if self.keypoint_threshold is not None:
            seen = result.scores >= self.keypoint_threshold
            result = replace(
                result, keypoints=np.where(seen[:, :, None], result.keypoints, np.float32(np.nan))
            )
        return result


class Predictor:
    """Receives, decodes and has estimated; at most `Limits.queue` pictures at once.

    Args:
        inference: what estimates.
        limits: of all requests.
    """

    def __init__(self, inference: InferenceThread, limits: Limits) -> None:
        self._inference = inference
        self._limits = limits
        self._pool = ThreadPoolExecutor(DECODERS, "edgepose decode")
        self._decoded: asyncio.Semaphore | None = None
        self.under_way = 0
        """Requests now, from their first byte to their answer."""
        self.ending = False
        """Set where new requests are to be refused."""

    def start(self) -> None:
        """Call it within the event loop that serves."""
        # One batch in the network, the next one ready for it: more pictures decoded would only take memory.
        self._decoded = asyncio.Semaphore(2 * self._limits.batch)

    def stop(self) -> None:
        """Drop what is not being decoded yet."""
        self._pool.shutdown(cancel_futures=True)

    async def __call__(self, request: Request, choice: Choice, metrics: Metrics) -> dict[str, Any]:
        """The answer to a request whose body is a picture.

        Raises:
            Refusal: a limit is hit or the picture is not usable.
        """
        started = time.perf_counter()
        end = asyncio.get_running_loop().time() + self._limits.timeout
        with self._place():
            try:
                body = await asyncio.wait_for(self._receive(request), self._limits.timeout)
            except (asyncio.TimeoutError, TimeoutError):
                raise Refusal(
                    408,
                    "slow_upload",
                    f"the picture did not arrive in time; found it incomplete after {self._limits.timeout:g} "
                    "s; send a smaller one, or raise --timeout",
                ) from None
            received = time.perf_counter()
            work = self._work(body, request.headers.get("content-type", ""), choice.boxes)
            done = await while_wanted(request, work, end - asyncio.get_running_loop().time())
            if done is None:
                raise Refusal(
                    504,
                    "timeout",
                    f"the answer took too long; found none after {self._limits.timeout:g} s; send fewer "
                    "requests at once, or raise --timeout",
                )
            estimated, decode = done
        finished = time.perf_counter()
        seconds = {
            "receive": received - started,
            "decode": decode,
            "queue": estimated.queue,
            "inference": estimated.inference,
            "total": finished - started,
        }
        for stage, value in seconds.items():
            metrics.took(stage, value)
        metrics.batches.observe(estimated.batch)
        milliseconds = {stage: round(value * 1e3, 3) for stage, value in seconds.items()}
        return {
            **choice.of(estimated.result).to_dict(),
            "server": {**milliseconds, "batch": estimated.batch},
        }

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self.ending:
            raise Refusal(
                503, "ending", "the server is shutting down; found a new request; try it again later"
            )
        if self.under_way >= self._limits.queue:
            raise Refusal(
                503,
                "overloaded",
                f"the server has too much to do; found {self.under_way} requests under way; try again in a "
                "second",
                {"Retry-After": "1"},
            )
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _receive(self, request: Request) -> bytes:
        """The whole body; refused as soon as more comes than is allowed, whatever the headers say."""
        limit = self._limits.max_bytes
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            limit += ENVELOPE
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated[:20]) > limit:
            raise too_large(self._limits)
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large(self._limits)
        except ClientDisconnect:
            raise _gone() from None
        return bytes(body)

    async def _work(self, body: bytes, media_type: str, boxes: Any) -> tuple[Estimated, float]:
        assert self._decoded is not None
        async with self._decoded:
            decoding = time.perf_counter()
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(self._pool, decode_upload, body, media_type, self._limits)
            decode = time.perf_counter() - decoding
            try:
                return await asyncio.wrap_future(self._inference.submit(image, boxes)), decode
            except InvalidInputError as error:
                raise Refusal(400, "unusable_picture", str(error)) from error


async def while_wanted(request: Request, work: Coroutine[Any, Any, T], patience: float) -> T | None:
    """What the work gives for a request whose body has been read; None where it takes too long.

    Raises:
        Refusal: 499: the client has left; the work is dropped, as it is where it takes too long.
    """
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, left), timeout=max(patience, 0), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if left.done():
            raise _gone()
        return None
    finally:
        task.cancel()
        left.cancel()
        await asyncio.wait((task, left))  # so that what is answered as dropped is dropped


async def _left(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def read_boxes(text: str | None) -> Any:
    """Boxes as a parameter gives them; their values are checked by the estimator.

    Raises:
        Refusal: 422: they are no JSON list, or too many.
    """
    if text is None:
        return None
    try:
        boxes = json.loads(text)
    except (ValueError, RecursionError):
        boxes = None
    if not isinstance(boxes, list) or len(boxes) > MAX_BOXES:
        found = f"{len(boxes)} boxes" if isinstance(boxes, list) else repr(text[:40])
        raise Refusal(
            422,
            "parameter",
            f"boxes is not usable; found {found}; give a JSON list of [x1, y1, x2, y2], at most {MAX_BOXES}",
        )
    return boxes


def _gone() -> Refusal:
    return Refusal(499, "client_left", "the request was dropped; found that its client has left; ask again")
