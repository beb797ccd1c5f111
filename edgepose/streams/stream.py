"""`PoseStream`: sources, network and the caller's own work, each at its own pace in a thread of its own."""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgepose._inputs import check_number, check_switch
from edgepose.errors import EdgePoseError, InvalidInputError
from edgepose.result import PoseResult, Source
from edgepose.smoothing import OneEuro
from edgepose.streams.addresses import READ_TIMEOUT_MS
from edgepose.streams.capture import Feed, Lost
from edgepose.streams.follow import Follower, Smooths, Tracks
from edgepose.streams.frames import Frame, FrameSource, OnSkip, Skip
from edgepose.tracking import Tracker

if TYPE_CHECKING:
    from edgepose.estimator import Estimator

__all__ = ["PoseStream", "SourceStatus", "StreamOptions"]

ROUNDS = 2
"""Runs of the network whose results wait at most."""
PATIENCE = READ_TIMEOUT_MS / 1e3 + 2
"""Seconds that closing waits for threads: one may be waiting for a silent server."""

_log = logging.getLogger("edgepose")


@dataclass(frozen=True)
class SourceStatus:
    """What a stream has done with one of its sources.

    Attributes:
        name: of the source.
        frames: how many frames were taken.
        dropped: how many were dropped because newer ones were there (``latest``).
        reconnects: how often it was lost and found again.
        ended: no more frames come.
    """

    name: str
    frames: int
    dropped: int
    reconnects: int
    ended: bool


@dataclass(frozen=True)
class StreamOptions:
    """How sources run; see `Estimator.stream`."""

    latest: bool = False
    track: bool | Callable[[], Tracks] = False
    smooth: bool | Callable[[], Smooths] = False
    every: int = 1
    detect_every: int = 1
    boxes: Callable[[Frame], Any] | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        check_switch("latest", self.latest)
        check_number("every", self.every, 1, None, whole=True)
        check_number("detect_every", self.detect_every, 1, None, whole=True)
        check_number("workers", self.workers, 1, None, whole=True)
        if self.workers > 1 and (self.latest or self.detect_every > 1):
            name = "latest" if self.latest else "detect_every"
            raise InvalidInputError(
                f"workers is not usable; found {self.workers} with {name}, which needs the frame before; "
                "leave one of them out"
            )
        for name, kind in (("track", "Tracker"), ("smooth", "OneEuro")):
            value = getattr(self, name)
            if not callable(value) and not isinstance(value, (bool, np.bool_)):
                raise InvalidInputError(
                    f"{name} is not usable; found {type(value).__name__}; give True, False, or what makes "
                    f"one for each source: lambda: edgepose.{kind}()"
                )
        if self.boxes is not None and not callable(self.boxes):
            raise InvalidInputError(
                f"boxes is not usable; found {type(self.boxes).__name__}; give a function from a Frame to "
                "its boxes"
            )


class _Done(NamedTuple):
    """A frame's result."""

    frame: Frame
    result: PoseResult


class _Found(NamedTuple):
    """A frame's result before its people are followed, and the place of its source."""

    place: int
    frame: Frame
    result: PoseResult


class _Skipped(NamedTuple):
    """What is to be told to whom."""

    tell: OnSkip
    skip: Skip


_Outcome = _Done | _Skipped | Lost


class _Round(NamedTuple):
    """What is ready of all sources at one time: what needs no network, and frames with their sources' places
    and boxes."""

    number: int
    outcomes: list[_Outcome]
    frames: list[tuple[int, Frame, Any]]


class PoseStream(Iterator[PoseResult]):
    """Results of running sources, as `Estimator.stream` gives them: an iterator that knows how it goes.

    Each source is read in a thread of its own and the network runs in others, so that reading, estimating
    and what the caller does with a result overlap; a few frames and results wait at most. The
    threads start with the first result that is asked for. They end when the sources do, by `close`, at the
    end of a ``with`` block, after an error or Ctrl-C, and when nobody holds the stream any more.

    Args:
        estimator: runs the frames of all sources that are ready together.
        sources: at least one; they are closed with the stream.
        options: how they run.
        on_skip: called in the caller's thread for items that cannot be used; None: as each source says.

    Raises:
        InvalidInputError: an option is out of range, or people are to be followed in a single picture.
    """

    def __init__(
        self,
        estimator: Estimator,
        sources: Sequence[FrameSource],
        options: StreamOptions | None = None,
        on_skip: OnSkip | None = None,
    ) -> None:
        if options is not None and options.track is True and [each.kind for each in sources] == ["image"]:
            raise InvalidInputError(
                f"nobody can be followed; found a single picture, {sources[0].name}; leave track and smooth "
                "out, or give a video, a camera or several pictures"
            )
        self._work = _Work(estimator, sources, options or StreamOptions(), on_skip)
        self._round: deque[_Outcome] = deque()
        finalizer = weakref.finalize(self, self._work.stop)
        finalizer.atexit = False  # the work itself takes care of that, and waits

    @property
    def sources(self) -> tuple[SourceStatus, ...]:
        """How it goes with each source, in the order in which they were given."""
        return tuple(
            SourceStatus(feed.source.name, feed.frames, feed.dropped, feed.reconnects, feed.ended)
            for feed in self._work.feeds
        )

    @property
    def dropped(self) -> int:
        """Frames of all sources that were dropped because newer ones were there (``latest``)."""
        return sum(feed.dropped for feed in self._work.feeds)

    @property
    def reconnects(self) -> int:
        """How often a source was lost and found again."""
        return sum(feed.reconnects for feed in self._work.feeds)

    def __iter__(self) -> PoseStream:
        return self

    def __next__(self) -> PoseResult:
        return self._next().result

    def with_frames(self) -> Iterator[tuple[Frame, PoseResult]]:
        """The same results, each with its `Frame`; what was taken by either way comes once."""
        while True:
            try:
                done = self._next()
            except StopIteration:
                return
            yield done.frame, done.result

    def _next(self) -> _Done:
        try:
            while True:
                while self._round:
                    outcome = self._round.popleft()
                    if isinstance(outcome, _Done):
                        return outcome
                    if isinstance(outcome, Lost):
                        raise outcome.error
                    outcome.tell(outcome.skip)
                self._round.extend(self._work.next_round())
        except BaseException:  # also StopIteration and KeyboardInterrupt
            self.close()
            raise

    def close(self) -> None:
        """End reading and estimating, and release the sources. May be called twice."""
        self._round.clear()
        self._work.close()

    def __enter__(self) -> PoseStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(feed.source.name for feed in self._work.feeds)
        return f"PoseStream({names})"


class _Work:
    """The threads of a stream and what they share. They hold this object, never the stream itself."""

    def __init__(
        self,
        estimator: Estimator,
        sources: Sequence[FrameSource],
        options: StreamOptions,
        on_skip: OnSkip | None,
    ) -> None:
        self._estimator = estimator
        self._options = options
        self._gate = threading.Condition()
        self._stopped = threading.Event()
        self.feeds = [
            Feed(
                source, self._gate, self._stopped, latest=options.latest, every=options.every, on_skip=on_skip
            )
            for source in sources
        ]
        padding = estimator.info.spec.padding
        trackers, smoothers = _makers(options)
        self._followers = [Follower(trackers(), smoothers(), options.detect_every, padding) for _ in sources]
        self._rounds: deque[list[_Outcome]] = deque()
        self._threads: list[threading.Thread] = []
        self._entry = threading.Lock()  # rounds begin one after the other
        self._begun = self._given = 0
        self._running = 0  # threads of the network that have not ended
        self._lanes: list[Estimator] = []
        self._lost = 0

    def next_round(self) -> list[_Outcome]:
        """What the next run of the network gave.

        Raises:
            StopIteration: nothing comes any more.
        """
        with self._gate:
            if not self._threads and not self._stopped.is_set():
                self._start()
            while not self._rounds:
                if self._stopped.is_set():
                    raise StopIteration
                self._gate.wait()
            found = self._rounds.popleft()
            self._gate.notify_all()
            return found

    def stop(self) -> None:
        """Have all threads end, without waiting for them."""
        self._stopped.set()
        with self._gate:
            self._gate.notify_all()

    def close(self) -> None:
        """Have all threads end, and wait until they did."""
        self.stop()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0))
                if thread.is_alive():
                    _log.warning("%s does not answer; its thread ends when it does", thread.name)
        with self._gate:
            self._rounds.clear()
            for feed in self.feeds:
                feed.items.clear()
                if not self._threads:
                    feed.source.close()
        atexit.unregister(self.close)

    def _start(self) -> None:
        count = self._options.workers
        self._lanes = [] if count == 1 else self._estimator.lanes(count)
        runners = self._lanes or [self._estimator]
        self._running = len(runners)
        self._threads = [
            threading.Thread(target=feed.run, name=f"edgepose {feed.source.name}", daemon=True)
            for feed in self.feeds
        ]
        self._threads += [
            threading.Thread(target=self._run, args=(runner,), name="edgepose network", daemon=True)
            for runner in runners
        ]
        # Registered now, it runs before what was registered when the model was opened.
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def _run(self, runner: Estimator) -> None:
        """A thread of the network: rounds of one frame of each source that has one ready."""
        try:
            while (begun := self._begin()) is not None:
                try:
                    outcomes = begun.outcomes + self._run_network(runner, begun.frames)
                except BaseException as error:
                    outcomes = [Lost(error)]
                if not self._give(begun.number, outcomes):
                    break
        finally:
            with self._gate:
                self._running -= 1
                last = not self._running
            if last:
                for lane in self._lanes:
                    lane.close()
                self.stop()
                atexit.unregister(self.close)

    def _begin(self) -> _Round | None:
        """The next round; None where nothing comes any more, or nothing more is wanted."""
        with self._entry:
            items = self._take()
            if items is None:
                return None
            number, self._begun = self._begun, self._begun + 1
            try:
                return _Round(number, *self._prepared(items))
            except BaseException as error:
                return _Round(number, [Lost(error)], [])

    def _take(self) -> list[tuple[int, Frame | Skip | Lost]] | None:
        room = 1 if self._options.latest else ROUNDS
        with self._gate:
            while not self._stopped.is_set():
                if len(self._rounds) < room:
                    found = [(i, feed.take()) for i, feed in enumerate(self.feeds)]
                    items = [(i, item) for i, item in found if item is not None]
                    if items:
                        return items
                    if all(feed.ended for feed in self.feeds):
                        return None
                self._gate.wait()
        return None

    def _give(self, number: int, outcomes: list[_Outcome | _Found]) -> bool:
        """Hand over a round when those before it are; False where no more are wanted."""
        with self._gate:
            while self._given != number and not self._stopped.is_set():
                self._gate.wait()
            if self._stopped.is_set():
                return False
        # Nobody else is here: the next round waits for this one.
        try:
            followed = [self._followed(each) if isinstance(each, _Found) else each for each in outcomes]
        except BaseException as error:
            followed = [Lost(error)]
        with self._gate:
            self._rounds.append(followed)
            self._given += 1
            self._gate.notify_all()
        return True

    def _followed(self, found: _Found) -> _Done:
        return _Done(found.frame, self._followers[found.place].update(found.result))

    def _prepared(
        self, items: list[tuple[int, Frame | Skip | Lost]]
    ) -> tuple[list[_Outcome], list[tuple[int, Frame, Any]]]:
        """What comes of a round's items without the network, and the frames for it."""
        outcomes: list[_Outcome] = []
        usable: list[tuple[int, Frame, Any]] = []
        for place, item in items:
            if isinstance(item, Skip):
                outcomes.append(_Skipped(self.feeds[place].on_skip, item))
            elif isinstance(item, Lost):
                outcomes.append(self._after_loss(place, item))
            else:
                frame = self._placed(place, item)
                try:
                    usable.append((place, frame, self._boxes(place, frame)))
                except InvalidInputError as error:
                    outcomes.append(self._refused(place, frame, error))
        return outcomes, usable

    def _placed(self, index: int, frame: Frame) -> Frame:
        """The frame with the place of its source, where there are several."""
        if len(self.feeds) == 1:
            return frame
        source = frame.source or Source(self.feeds[index].source.name)
        return Frame(frame.image, replace(source, index=index))

    def _after_loss(self, index: int, lost: Lost) -> _Outcome:
        """What the loss of a source means: the others go on where there are any, and the error is its own."""
        self._lost += 1
        if self._lost == len(self.feeds) or not isinstance(lost.error, EdgePoseError):
            return lost
        feed = self.feeds[index]
        return _Skipped(feed.on_skip, Skip(feed.source.name, str(lost.error)))

    def _boxes(self, place: int, frame: Frame) -> Any:
        if self._options.boxes is not None:
            return self._options.boxes(frame)
        if self._options.detect_every == 1:
            return None
        height, width = frame.image.shape[:2]
        return self._followers[place].boxes((height, width))

    def _run_network(self, runner: Estimator, group: list[tuple[int, Frame, Any]]) -> list[_Outcome | _Found]:
        """One run for all, or, where that is refused, one for each to find whose fault it is."""
        if not group:
            return []
        try:
            frames, boxes = [item[1] for item in group], [item[2] for item in group]
            results = runner(frames, boxes=boxes)
        except InvalidInputError as error:
            if len(group) > 1:
                return [outcome for item in group for outcome in self._run_network(runner, [item])]
            return [self._refused(*group[0][:2], error)]
        return [
            _Found(place, frame, result) for (place, frame, _), result in zip(group, results, strict=True)
        ]

    def _refused(self, place: int, frame: Frame, error: InvalidInputError) -> _Outcome:
        """A frame that cannot be used is passed over, but where it is all that there is."""
        feed = self.feeds[place]
        if len(self.feeds) == 1 and feed.source.kind == "image":
            return Lost(error)
        return _Skipped(feed.on_skip, Skip(str(frame.source), str(error)))


def _makers(options: StreamOptions) -> tuple[Callable[[], Tracks | None], Callable[[], Smooths | None]]:
    """What makes the tracker and the smoother of each source."""
    track: Any = Tracker if options.track is True else options.track
    smooth: Any = OneEuro if options.smooth is True else options.smooth
    return track or _nothing, smooth or _nothing


def _nothing() -> None:
    return None
