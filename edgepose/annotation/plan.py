"""What a bulk run is to do: files, settings, and the shards that they are done in."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepose import __version__
from edgepose.backends import read_model_spec
from edgepose.catalog import MODELS, resolve_model
from edgepose.detectors import OnnxDetector
from edgepose.errors import InvalidInputError
from edgepose.estimator import Estimator
from edgepose.sources import holds_video, list_files
from edgepose.spec import ModelSpec

__all__ = ["Item", "Plan", "Recipe", "Shard", "make_plan"]

SHARD = 32
"""Pictures of a shard, rounded up to whole batches."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A picture or video file, and what tells whether it has changed.

    Attributes:
        path: as the source gives it.
        size: bytes.
        time: of its last change, nanoseconds.
        video: whether it holds frames.
    """

    path: str
    size: int
    time: int
    video: bool


@dataclass(frozen=True)
class Shard:
    """Pictures that are done together, or one video.

    Attributes:
        number: its place, from 0.
        items: its files, in the order of the run.
        digest: of the settings and the files: that of a shard whose result would be the same is the same.
    """

    number: int
    items: tuple[Item, ...]
    digest: str

    @property
    def name(self) -> str:
        """File name of its part."""
        return f"{self.number:07d}-{self.digest}.jsonl"


@dataclass(frozen=True)
class Recipe:
    """How each process makes its Estimator, and runs it.

    Attributes:
        model: path of the model's file, or the name of a packaged one.
        options: of the `Estimator`.
        detector: path and options of an `OnnxDetector` that serves; None where the options name one, or none.
        batch: pictures that go through the network together.
        every: of a video, each n-th frame is used.
    """

    model: str
    options: Json
    detector: tuple[str, Json] | None
    batch: int
    every: int

    @contextlib.contextmanager
    def open(self) -> Iterator[Estimator]:
        """The Estimator, closed at the end with what it uses."""
        with contextlib.ExitStack() as ends:
            options = dict(self.options)
            if self.detector is not None:
                path, own = self.detector
                own = {"threads": options.get("threads"), **own}
                options["detector"] = ends.enter_context(OnnxDetector(path, **own))
            yield ends.enter_context(Estimator(self.model, **options))

    def with_threads(self, threads: int) -> Recipe:
        """The recipe for one of several processes; a number that the user gave stays."""
        if self.options.get("threads") is not None:
            return self
        return replace(self, options={**self.options, "threads": threads})


@dataclass(frozen=True)
class Plan:
    """A bulk run.

    Attributes:
        settings: all that decides the results, JSON-ready.
        items: the files in their order, each once.
        shards: the same files, as they are done.
        recipe: what runs them.
        spec: description of the model.
    """

    settings: Json
    items: tuple[Item, ...]
    shards: tuple[Shard, ...]
    recipe: Recipe
    spec: ModelSpec

    @property
    def digest(self) -> str:
        """Of the settings and all files, and their state."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Settings and names of the files, to be compared with those of a later run."""
        return json.dumps({"settings": self.settings, "files": [item.path for item in self.items]})

    def differences(self, text: str) -> list[str]:
        """How an earlier run of which `to_json` is given differs; empty where this one continues it.

        Files that have changed are no difference: their shards have other digests, and are done again.
        """
        try:
            before = json.loads(text)
            settings, files = before["settings"], before["files"]
            names = set(files)
        except (ValueError, KeyError, TypeError):
            return ["a damaged plan"]
        found = [
            f"{name} {settings.get(name)!r} then, {self.settings.get(name)!r} now"
            for name in {**settings, **self.settings}
            if settings.get(name) != self.settings.get(name)
        ]
        paths = [item.path for item in self.items]
        now = set(paths)
        for count, what in ((len(now - names), "new"), (len(names - now), "gone")):
            if count:
                example = min(now - names if what == "new" else names - now)
                found.append(f"{count} {'file' if count == 1 else 'files'} {what} (such as {example})")
        if names == now and files != paths:
            found.append("the files come in another order")
        return found


def make_plan(
    sources: Any, model: str | os.PathLike[str] | None, batch: int, every: int, options: Json
) -> Plan:
    """Look at the files and the model.

    Raises:
        InvalidInputError: a source is none of files, or holds nothing; a detector cannot be written down.
        ModelNotFoundError: there is no such model.
        ModelFormatError: the file is not a usable model.
    """
    path = resolve_model(model)
    spec = read_model_spec(path)
    options = {name: value for name, value in options.items() if value is not None}
    settings = {
        "edgepose": __version__,
        "model": spec.name,
        "model_sha256": _digest_of(path),
        "batch": batch,
        "every": every,
        **{name: _plain(name, value) for name, value in {**_defaults(), **options}.items()},
    }
    detector = _recipe_of(options.pop("detector")) if "detector" in options else None
    if isinstance(detector, str):
        options["detector"], detector = detector, None
    del settings["threads"]
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they are read again
    if path.parent == MODELS:
        path = Path(path.stem)  # other machines keep it elsewhere
    items = _items(sources)
    size = -(-SHARD // batch) * batch
    shards = _shards(items, size, hashlib.sha256(json.dumps(settings).encode()))
    recipe = Recipe(str(path), options, detector, batch, every)
    return Plan(settings, tuple(items), tuple(shards), recipe, spec)


def _items(sources: Any) -> list[Item]:
    """The files of all sources, each once."""
    given = sources if isinstance(sources, (list, tuple)) else [sources]
    if not given:
        raise InvalidInputError("nothing to annotate; found an empty list; give at least one source")
    items: dict[str, Item] = {}
    for each in given:
        if not isinstance(each, (str, os.PathLike)):
            raise InvalidInputError(
                f"not a source of files; found {type(each).__name__}; give paths, directories or patterns"
            )
        for path in list_files(each):
            place = os.path.abspath(path)  # noqa: PTH100 - a link is a file of its own
            if place not in items:
                items[place] = _item(path)
    return list(items.values())


def _item(path: str) -> Item:
    video = holds_video(path)
    try:
        state = Path(path).stat()
    except OSError:  # gone, or not to be seen: told when it is read
        return Item(path, -1, -1, video)
    return Item(path, state.st_size, state.st_mtime_ns, video)


def _shards(items: Sequence[Item], size: int, settings: Any) -> Iterable[Shard]:
    number, start = 0, 0
    while start < len(items):
        end = start + 1
        if not items[start].video:
            while end < min(start + size, len(items)) and not items[end].video:
                end += 1
        part = tuple(items[start:end])
        digest = settings.copy()
        digest.update(json.dumps([[item.path, item.size, item.time] for item in part]).encode())
        yield Shard(number, part, digest.hexdigest()[:16])
        number, start = number + 1, end


def _defaults() -> Json:
    """The options of the Estimator, so that those that are given and those that are left out compare."""
    parameters = inspect.signature(Estimator).parameters.values()
    return {item.name: item.default for item in parameters if item.kind == item.KEYWORD_ONLY}


def _plain(name: str, value: Any) -> Any:
    """An option as it is written down: a model's file by what is in it."""
    if name != "detector" or value is None:
        return value
    recipe = _recipe_of(value)
    if isinstance(recipe, str):
        return _digest_of(resolve_model(recipe))
    return [_digest_of(Path(recipe[0])), recipe[1]]


def _recipe_of(detector: Any) -> str | tuple[str, Json]:
    """What another process makes a detector of: a name or path, or those of an `OnnxDetector`."""
    if isinstance(detector, (str, os.PathLike)):
        return os.fspath(detector)
    if isinstance(detector, OnnxDetector):
        make, _ = detector.__reduce__()
        assert isinstance(make, functools.partial)
        return make.args[0], {name: value for name, value in make.keywords.items() if name != "threads"}
    raise InvalidInputError(
        f"the detector cannot serve in bulk; found {type(detector).__name__}; give the name or path of a "
        "model, or an OnnxDetector"
    )


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            digest.update(content)
    return digest.hexdigest()[:16]
