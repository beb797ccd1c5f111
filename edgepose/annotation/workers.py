"""Shards on several processes of this machine, each with an Estimator of its own.

They are programs of their own, so that a script needs no guard around its main part, and get no interrupt
from the terminal. One whose caller is gone ends by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from edgepose.annotation.plan import Recipe, Shard
from edgepose.annotation.shards import OnStep, annotate_shard
from edgepose.errors import BackendUnavailableError

__all__ = ["died", "run_in_processes"]

Job = tuple[Shard, Path]

_PROGRAM = "from edgepose.annotation.workers import serve; serve()"
_POLL = 0.2
_PATIENCE = 5.0


def run_in_processes(
    recipe: Recipe, jobs: Iterable[Job], workers: int, on_step: OnStep, stop: Callable[[], bool]
) -> None:
    """Do all shards, or those under way when `stop` says so.

    What a process was at when it died is begun once more, in another one.

    Raises:
        BackendUnavailableError: that one died too.
        EdgePoseError: the Estimator cannot be made, or failed.
    """
    waiting = deque(jobs)
    crew = [_Worker(recipe) for _ in range(min(workers, len(waiting)))]
    tried: set[int] = set()
    try:
        while True:
            if stop():
                waiting.clear()
            for worker in crew:
                if worker.job is None and waiting:
                    worker.give(waiting.popleft())
            busy = {worker.connection: worker for worker in crew if worker.job is not None}
            if not busy:
                return
            for connection in wait(list(busy), timeout=_POLL):
                worker = busy[connection]  # type: ignore[index]
                job = worker.job
                assert job is not None
                message = worker.receive()
                if message is None:
                    end = worker.end()
                    if job[0].number in tried:
                        raise died(job[0], _how(end))
                    tried.add(job[0].number)
                    on_step(-worker.results, -worker.errors)
                    crew[crew.index(worker)] = _Worker(recipe)
                    waiting.appendleft(job)
                elif message[0] == "step":
                    worker.results += message[1]
                    worker.errors += message[2]
                    on_step(*message[1:])
                elif message[0] == "done":
                    worker.job = None
                else:
                    raise message[1]
    finally:
        for worker in crew:
            worker.end(_PATIENCE if worker.job is None else 0)


class _Worker:
    """A process that does one shard after the other.

    Attributes:
        job: what it is at.
        results: how many of that have come, and
        errors: how many errors.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.job: Job | None = None
        self.results = self.errors = 0
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._send(recipe)

    def give(self, job: Job) -> None:
        """Begin a shard; its end is told by `receive`."""
        self.job, self.results, self.errors = job, 0, 0
        self._send(job)

    def _send(self, content: Any) -> None:
        try:
            self.connection.send(content)
        except OSError:  # it has died, which `receive` will tell
            return

    def receive(self) -> Any:
        """The next message, None where the process has died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def end(self, patience: float = _PATIENCE) -> int:
        """End the process, at last by force; its exit status, negative for a signal."""
        self.connection.close()  # one that waits for work ends of that
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    short = ", as the system sends where memory is short" if -status == signal.SIGKILL else ""
    return f"signal {signal.Signals(-status).name}{short}"


def died(shard: Shard, how: str) -> BackendUnavailableError:
    """What is raised when two workers have died at a shard."""
    names = (
        f"{shard.items[0].path} to {shard.items[-1].path}" if len(shard.items) > 1 else shard.items[0].path
    )
    return BackendUnavailableError(
        f"a worker died twice at the same pictures, {names}; found {how}; run the same again with fewer "
        "workers: what is done is kept"
    )


def serve() -> None:
    """What a process does: shards, until its caller closes the connection or is gone."""
    connection = Connection(int(sys.argv[1]))
    try:
        recipe: Recipe = connection.recv()
        try:
            with recipe.open() as estimator:
                while True:
                    shard, path = connection.recv()
                    annotate_shard(
                        estimator, shard, recipe, path, lambda *counts: connection.send(("step", *counts))
                    )
                    connection.send(("done",))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            connection.send(("failed", error))
    except (EOFError, ConnectionError):
        return
