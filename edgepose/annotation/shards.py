"""One shard of a bulk run: read, estimate, write its part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from edgepose.annotation.parts import Entry, PartWriter
from edgepose.annotation.plan import Item, Recipe, Shard
from edgepose.errors import InvalidInputError
from edgepose.estimator import Estimator
from edgepose.sources import Frame, Skip, open_source, read_frame
from edgepose.streams.frames import Reading

__all__ = ["OnStep", "annotate_shard"]

OnStep = Callable[[int, int], None]
"""Called with the number of results, and of errors, that have come."""


def annotate_shard(
    estimator: Estimator, shard: Shard, recipe: Recipe, path: Path, on_step: OnStep | None = None
) -> tuple[int, int]:
    """Write the part of a shard; it is there, whole, when this returns.

    The next batch is read while one goes through the network. What cannot be used becomes a `Skip`.

    Returns:
        How many results and how many errors it holds.
    """
    results = errors = 0
    entries = _frames(shard.items, recipe.every)
    with ThreadPoolExecutor(1) as reader, PartWriter(path) as part:
        # A picture that cannot be read takes its place in a batch: it is the same however long the run.
        upcoming = reader.submit(_take, entries, recipe.batch)
        while batch := upcoming.result():
            upcoming = reader.submit(_take, entries, recipe.batch)
            found = estimate(estimator, batch)
            for entry in found:
                part.write(entry)
            failed = sum(isinstance(entry, Skip) for entry in found)
            results, errors = results + len(found) - failed, errors + failed
            if on_step is not None:
                on_step(len(found) - failed, failed)
    return results, errors


def estimate(estimator: Estimator, batch: list[Frame | Skip]) -> list[Entry]:
    """The results of a batch, in its order; what fails becomes a `Skip`, and the others stay."""
    frames = [frame for frame in batch if isinstance(frame, Frame)]
    found: list[Entry]
    try:
        found = list(estimator(frames))
    except InvalidInputError:
        found = [_estimate_one(estimator, frame) for frame in frames]
    remaining = iter(found)
    return [item if isinstance(item, Skip) else next(remaining) for item in batch]


def _estimate_one(estimator: Estimator, frame: Frame) -> Entry:
    try:
        return estimator(frame)
    except InvalidInputError as error:
        return Skip(str(frame.source), str(error))


def _take(entries: Iterator[Frame | Skip], count: int) -> list[Frame | Skip]:
    return list(islice(entries, count))


def _frames(items: tuple[Item, ...], every: int) -> Iterator[Frame | Skip]:
    for item in items:
        try:
            _check_name(item.path)
            if item.video:
                yield from _video(item.path, every)
            else:
                yield read_frame(item.path)
        except InvalidInputError as error:
            yield Skip(_printable(item.path), str(error))


def _check_name(path: str) -> None:
    """Refuse names that neither JSON nor Parquet can hold.

    Raises:
        InvalidInputError: it is such a name.
    """
    if _printable(path) != path:
        raise InvalidInputError("cannot use a name that is no UTF-8; found one; rename the file")


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


def _video(path: str, every: int) -> Iterator[Frame | Skip]:
    skips: list[Skip] = []
    for frame in open_source(path, skips.append).read(Reading(skips.append, every)):
        yield from skips
        skips.clear()
        yield frame
    yield from skips
