"""The finished shards of a bulk run, each a file of JSON lines in a folder beside the output.

A part gets its name when it is complete and on the disk; the name tells what it was made of, so that those
of other settings, or of files that have changed since, are never taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from edgepose._files import whole_file, write_whole
from edgepose.annotation.plan import Plan, Shard
from edgepose.errors import InvalidInputError
from edgepose.result import PoseResult
from edgepose.sources import Skip

__all__ = ["Entry", "PartWriter", "Parts", "read_part", "unfinished"]

_PLAN = "plan.json"
_LOCK = "lock"
_OURS = re.compile(r"\d{7}-[0-9a-f]{16}\.jsonl|.*\.[0-9a-f]{8}\.part")
_END = b'{"end": %d}\n'

Json = dict[str, Any]
Entry = PoseResult | Skip


class PartWriter:
    """Writes the entries of a shard, one a line; complete when the context ends without error.

    Times that differ from run to run are left out.
    """

    def __init__(self, path: Path) -> None:
        self._context = whole_file(path, durable=True)
        self._count = 0

    def __enter__(self) -> PartWriter:
        self._file = self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._file.write(_END % self._count)
        self._context.__exit__(*error)

    def write(self, entry: Entry) -> None:
        """Add a result, or what could not be used."""
        content: Json
        if isinstance(entry, Skip):
            content = {"error": asdict(entry)}
        else:
            source = None if entry.source is None else replace(entry.source, captured_ms=None)
            content = {"result": replace(entry, source=source).to_dict()}
            del content["result"]["timings"]
        self._file.write(json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._count += 1


def unfinished(path: Path) -> list[Path]:
    """What is there of a part that is being written, or that processes which died have left."""
    return list(path.parent.glob(f"{path.name}.*.part"))


def read_part(path: Path) -> Iterator[Entry]:
    """The entries of a part.

    Raises:
        InvalidInputError: it is damaged.
    """
    count = 0
    try:
        with path.open("rb") as file:
            for line in file:
                content = json.loads(line)
                if "result" in content:
                    yield PoseResult.from_dict({**content["result"], "timings": {}})
                elif "error" in content:
                    yield Skip(**content["error"])
                elif content.get("end") == count:
                    return
                count += 1
    except (ValueError, TypeError, AttributeError):
        pass
    raise InvalidInputError(f"a finished part is damaged; found {path}; delete it, and run the same again")


class Parts:
    """The folder of parts, held by one run at a time.

    Raises:
        InvalidInputError: another run is at work there.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self._lock: IO[Any] | None = None

    def __enter__(self) -> Parts:
        while not self._take():
            pass
        return self

    def _take(self) -> bool:
        """Make and lock the folder; False where the run before has removed it meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _LOCK
        with contextlib.ExitStack() as ends:
            try:
                lock = ends.enter_context(path.open("w"))
                _hold(lock)
                if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return False
            except FileNotFoundError:
                return False
            except BlockingIOError as error:
                raise InvalidInputError(
                    f"cannot write to {self.folder}; found another run at work on it; wait for its end, or "
                    "choose another output"
                ) from error
            ends.pop_all()
        self._lock = lock
        return True

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        try:
            if self.finished or self.plan is None or not any(self.folder.glob("*.jsonl")):
                self._remove()
        finally:
            self._lock.close()

    @property
    def plan(self) -> str | None:
        """What an earlier run was to do; None where there was none."""
        path = self.folder / _PLAN
        return path.read_text("utf-8") if path.is_file() else None

    def begin(self, plan: Plan) -> None:
        """Write down what is to be done, and remove what is half done."""
        write_whole(self.folder / _PLAN, plan.to_json().encode(), durable=True)
        for path in self.folder.glob("*.part"):
            path.unlink(missing_ok=True)

    def done(self, shards: Iterable[Shard]) -> tuple[set[int], int]:
        """Numbers of the shards that are finished, and how many were until their files changed.

        What these have left is removed.
        """
        names = {shard.name: shard.number for shard in shards}
        finished, changed = set(), 0
        for path in self.folder.glob("*.jsonl"):
            if path.name in names and _is_complete(path):
                finished.add(names[path.name])
            else:
                changed += path.name not in names
                path.unlink()
        return finished, changed

    def path(self, shard: Shard) -> Path:
        """The part of a shard."""
        return self.folder / shard.name

    def finish(self, plan: Plan, contents: Json) -> None:
        """Write down that the output is complete; the parts are removed when the context ends."""
        text = json.dumps({"finished": plan.digest, "contents": contents})
        write_whole(self.folder / _PLAN, text.encode(), durable=True)

    @property
    def finished(self) -> bool:
        """Whether the earlier run has completed its output, and left its parts alone."""
        return '"finished"' in (self.plan or "")[:20]

    def contents_of(self, plan: Plan) -> Json | None:
        """What `finish` was given where a run of the same plan was ended between that and its own end."""
        try:
            earlier = json.loads(self.plan or "")
            return earlier["contents"] if earlier["finished"] == plan.digest else None
        except (ValueError, KeyError, TypeError):
            return None

    def clear(self) -> None:
        """Forget an earlier run."""
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        (self.folder / _PLAN).unlink(missing_ok=True)

    def _remove(self) -> None:
        self.clear()
        (self.folder / _LOCK).unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except OSError as error:
            raise InvalidInputError(
                f"cannot remove {self.folder}; {error.strerror}; look at what is in it, and "
                "remove it yourself"
            ) from error


def _is_complete(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - 40, 0))
        return re.search(rb'\{"end": \d+\}\n\Z', file.read()) is not None


def _hold(file: IO[Any]) -> None:
    """Lock a file until it is closed, where the system has such locks.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return
