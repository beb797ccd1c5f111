"""Shards, and tables of pictures, on the machines of a Ray cluster by Ray Data."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgepose.annotation.parts import unfinished
from edgepose.annotation.plan import Recipe, Shard
from edgepose.annotation.shards import OnStep, annotate_shard, estimate
from edgepose.annotation.table import pose_table, require_arrow, rows_of
from edgepose.annotation.workers import died
from edgepose.backends.base import default_threads
from edgepose.errors import BackendUnavailableError, InvalidInputError
from edgepose.estimator import Estimator
from edgepose.optional import first_line, require
from edgepose.result import PoseResult
from edgepose.sources import Frame, Skip, read_frame

__all__ = ["PoseActor", "run_on_ray"]


class PoseActor:
    """Poses of a table of picture files: a callable class for ``ray.data.Dataset.map_batches``.

    ``dataset.map_batches(PoseActor, fn_constructor_kwargs={"model": "multi"}, batch_format="pyarrow",
    batch_size=32, concurrency=2)``: each actor opens the model once. The dataset has a column ``path`` of
    files that all machines can read. The result has the columns that `edgepose.annotate` writes
    (`edgepose.annotation.table.pose_schema`): one row a person, and one row for a picture without any or one
    that cannot be used, of which ``error`` says why; and the dataset's other columns, repeated.

    Args:
        model: as for `Estimator`; a file that all machines can read, or the name of a packaged one.
        batch: pictures that go through the network together.
        options: of the `Estimator`. Without ``threads`` it uses the CPUs that Ray gives the actor.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, *, batch: int = 4, **options: Any
    ) -> None:
        if options.get("threads") is None:
            options["threads"] = _given_threads()
        self._batch = batch
        self._estimator = Estimator(model, **options)

    def __call__(self, table: Any) -> Any:
        """The poses of a batch of rows.

        Args:
            table: ``pyarrow.Table``, or a dictionary of arrays, with a column ``path``.

        Returns:
            ``pyarrow.Table``.

        Raises:
            InvalidInputError: there is no column of that name.
        """
        pa = require_arrow()
        if isinstance(table, dict):
            table = pa.table({name: pa.array(values) for name, values in table.items()})
        if "path" not in table.column_names:
            raise InvalidInputError(
                f"the table has no column 'path'; found {', '.join(table.column_names) or 'none'}; give the "
                "names of the picture files there"
            )
        skeleton = self._estimator.info.spec.skeleton
        results: list[PoseResult] = []
        errors: list[str | None] = []
        paths = table.column("path").to_pylist()
        for start in range(0, len(paths), self._batch):
            frames = [_read(path) for path in paths[start : start + self._batch]]
            for entry in estimate(self._estimator, frames):
                if isinstance(entry, Skip):
                    errors.append(entry.reason)
                    entry = PoseResult.empty(skeleton, (0, 0))
                else:
                    errors.append(None)
                results.append(entry)
        rows = rows_of(results)
        found = pose_table(results, skeleton)
        found = found.set_column(0, "source", table.column("path").cast(pa.string()).take(rows))
        found = found.append_column("error", pa.array([errors[row] for row in rows], pa.string()))
        for name in table.column_names:
            if name not in ("path", *found.column_names):
                found = found.append_column(name, table.column(name).take(rows))
        return found


def _read(path: str) -> Frame | Skip:
    try:
        return read_frame(path)
    except InvalidInputError as error:
        return Skip(path, str(error))


def _given_threads() -> int:
    """CPUs of this actor; those of the process where it is none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return default_threads()
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def run_on_ray(
    recipe: Recipe,
    jobs: Sequence[tuple[Shard, Path]],
    address: str,
    workers: int | None,
    on_step: OnStep,
    stop: Callable[[], bool],
) -> None:
    """Do all shards on a cluster, whose machines see the files and the folder of parts under the same paths.

    Args:
        recipe: what the actors open.
        jobs: shards and their parts.
        address: of the cluster; ``"auto"`` for the one that this machine is part of, ``"local"`` to begin one
            here. A connection that the process has is used as it is.
        workers: actors; None: one for each machine.
        on_step: called when a shard is done.
        stop: begin no more when it says so.

    Raises:
        BackendUnavailableError: Ray is not installed, or there is no such cluster.
        EdgePoseError: an Estimator cannot be made, or failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "annotating on a cluster", "edgepose[ray]")
    data = require("ray.data", "annotating on a cluster", "edgepose[ray]")
    if not jobs:
        return
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        on_gpus = str(recipe.options.get("device", "")).startswith("cuda")
        workers = min(workers or len(machines), len(jobs))
        threads = threads_for(workers, machines, recipe.options.get("threads"), on_gpus)
        with _quiet(data):
            items = [{"job": pickle.dumps((shard, path.resolve()))} for shard, path in jobs]
            done = data.from_items(items, override_num_blocks=len(items)).map(
                _ShardActor,
                fn_constructor_args=(recipe.with_threads(threads), str(Path.cwd())),
                compute=data.ActorPoolStrategy(size=workers),
                num_cpus=threads,
                num_gpus=int(on_gpus),
            )
            for row in done.iter_rows():
                failure = pickle.loads(row["failure"])
                if failure is not None:
                    raise failure
                on_step(row["results"], row["errors"])
                if stop():
                    break
    except ray.exceptions.RayError as error:
        raise BackendUnavailableError(
            f"the Ray cluster failed; {first_line(error)}; run the same again: what is done is kept"
        ) from error
    finally:
        if own:
            ray.shutdown()


@contextlib.contextmanager
def _quiet(data: Any) -> Iterator[None]:
    """Let Ray Data show no bars of its own, and tell errors alone."""
    context, log = data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, level = before
        log.setLevel(level)


def threads_for(workers: int, machines: Sequence[dict[str, float]], given: int | None, on_gpus: bool) -> int:
    """CPUs of each worker: the most that let all of them run at once, or those given.

    Args:
        workers: how many there are.
        machines: of each its Ray resources, of which ``CPU`` and ``GPU`` count.
        given: as the user wants it, or None.
        on_gpus: each takes a GPU too.

    Raises:
        InvalidInputError: so many do not fit; Ray would wait for more machines.
    """
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = [int(machine.get("GPU", 0)) if on_gpus else workers for machine in machines]
    for threads in [given] if given else range(max(cpus, default=0), 0, -1):
        if sum(min(c // threads, g) for c, g in zip(cpus, gpus, strict=True)) >= workers:
            return threads
    asked = f"{workers} workers of {given or 1} CPUs{' and a GPU' if on_gpus else ''}"
    found = f"{sum(cpus)} CPUs{f' and {sum(gpus)} GPUs' if on_gpus else ''} on {len(machines)} machines"
    raise InvalidInputError(
        f"the cluster has no room for {asked}; found {found}; give fewer workers or threads"
    )


class _ShardActor:
    """Does shards; made once in each process that Ray starts.

    Errors are given back as results: Ray would tell of them in its own words, after more attempts. It would
    also begin a shard for ever at which workers die; what they leave of its part tells how many have.
    """

    def __init__(self, recipe: Recipe, folder: str) -> None:
        self._recipe = recipe
        self._failure: Exception | None = None
        try:
            os.chdir(folder)
            self._open = recipe.open()  # until the process ends
            self._estimator = self._open.__enter__()
        except OSError as error:
            self._failure = InvalidInputError(
                f"a machine of the cluster does not see a file; {error}; work in a folder that all share"
            )
        except Exception as error:
            self._failure = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard, path = pickle.loads(row["job"])
        results = errors = 0
        failure = self._failure
        if failure is None:
            try:
                if not path.parent.is_dir():
                    raise InvalidInputError(
                        f"a machine of the cluster does not see {path.parent}; no such folder; let the "
                        "output be in one that all share"
                    )
                if len(unfinished(path)) > 1:
                    raise died(shard, "no end of their part")
                results, errors = annotate_shard(self._estimator, shard, self._recipe, path)
            except Exception as error:
                failure = error
        return {"results": results, "errors": errors, "failure": pickle.dumps(failure)}


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {"include_dashboard": False, "num_cpus": default_threads()}
    try:
        host, _, port = address.rpartition(":")
        if host and "/" not in host and port.isdecimal():  # Ray would knock for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BackendUnavailableError(
            f"cannot reach the Ray cluster {address}; {first_line(error)}; start one by ray start --head, or "
            "give local"
        ) from error
