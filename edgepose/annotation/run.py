"""`annotate`: poses of many pictures into one file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepose._inputs import check_number, check_switch
from edgepose.annotation.outputs import Contents, check_output, errors_path, write_output
from edgepose.annotation.parts import Parts
from edgepose.annotation.plan import Plan, Shard, make_plan
from edgepose.annotation.shards import OnStep, annotate_shard
from edgepose.backends.base import default_threads
from edgepose.errors import InvalidInputError
from edgepose.sources import Skip

__all__ = ["Annotated", "annotate", "run_plan"]


@dataclass(frozen=True)
class Annotated:
    """What `annotate` has done.

    Attributes:
        output: the file that was written.
        pictures: results in it, one a picture or frame.
        persons: in all of them.
        errors: pictures, or stretches of videos, that could not be used.
        errors_file: JSON list of these, ``source`` and ``reason``; None where there are none.
        first_errors: the first of them.
        kept: files that an earlier run had done.
        seconds: that this run took.
    """

    output: Path
    pictures: int
    persons: int
    errors: int
    errors_file: Path | None
    first_errors: tuple[Skip, ...]
    kept: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            **asdict(self),
            "output": str(self.output),
            "errors_file": None if self.errors_file is None else str(self.errors_file),
            "seconds": round(self.seconds, 3),
        }


def annotate(
    source: Any,
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    batch: int = 4,
    every: int = 1,
    ray: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Annotated:
    """Estimate the poses in many pictures and write them to one file, in their order.

    A run that was ended, by whatever, goes on where it was when it is called again: what is done stands in
    ``OUTPUT.parts`` until the output is complete, and the output is the same as without the break, whatever
    the number of workers.

    Args:
        source: directory, glob pattern, picture or video, or a list of those.
        output: ``.parquet``: one row a person (`edgepose.annotation.table.pose_schema`); ``.json``: COCO's
            annotations. What cannot be used is listed in ``OUTPUT.errors.json`` beside it.
        model: as for `Estimator`.
        workers: processes, each with an Estimator; None: this one alone, on a cluster one for each machine.
            Without ``threads`` they share the CPU cores.
        batch: pictures that go through the network together.
        every: of a video, use each n-th frame alone.
        ray: address of a Ray cluster that does the work, ``"auto"`` for the one that this machine is part of,
            ``"local"`` to begin one here. All its machines must see the files and the output's folder.
        overwrite: replace an output that is there, and forget an unfinished run.
        options: of the `Estimator`, which are written down: a run is gone on with by the same ones alone,
            ``threads`` excepted.

    Raises:
        InvalidInputError: a source, output or option is not usable, or an unfinished run is another one.
        ModelNotFoundError: there is no such model.
        BackendUnavailableError: an extra is missing, a worker died twice, or there is no such cluster.
        OSError: the output's folder cannot be written.
        TypeError: an unknown keyword.
    """
    for name, value in (("workers", workers), ("batch", batch), ("every", every)):
        if value is not None:
            check_number(name, value, 1, None, whole=True)
    check_switch("overwrite", overwrite)
    check_output(Path(output))
    plan = make_plan(source, model, batch, every, options)
    found = run_plan(plan, Path(output), workers=workers, ray=ray, overwrite=overwrite)
    assert found is not None  # nothing stops it
    return found


def run_plan(
    plan: Plan,
    output: Path,
    *,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    on_start: Callable[[int, int, int], None] | None = None,
    on_step: OnStep | None = None,
    stop: Callable[[], bool] | None = None,
) -> Annotated | None:
    """Do what is left of a plan; see `annotate`.

    Args:
        plan: files and settings.
        output: as checked by `check_output`.
        workers, ray, overwrite: as for `annotate`.
        on_start: called with the number of files that are done, of those that are left, and of the shards
            that are done again because their files have changed.
        on_step: called with numbers of results and errors, as they come.
        stop: asked between shards; True: begin no more.

    Returns:
        None where it was stopped.
    """
    started = time.perf_counter()
    stop = stop or _never
    on_step = on_step or _ignore
    output.parent.mkdir(parents=True, exist_ok=True)
    with Parts(output) as parts:
        known = None if overwrite else parts.contents_of(plan)
        if known is not None and output.is_file():
            kept, contents = len(plan.items), Contents.from_dict(known)
        else:
            _check_earlier(plan, parts, output, overwrite)
            parts.begin(plan)
            done, changed = parts.done(plan.shards)
            left = [shard for shard in plan.shards if shard.number not in done]
            kept = sum(len(shard.items) for shard in plan.shards if shard.number in done)
            if on_start is not None:
                on_start(kept, len(plan.items) - kept, changed)
            _do(plan, left, parts, workers, ray, on_step, stop)
            if not all(parts.path(shard).is_file() for shard in left):
                return None
            contents = write_output(output, plan, parts)
        parts.finish(plan, asdict(contents))
    return Annotated(
        output=output,
        pictures=contents.pictures,
        persons=contents.persons,
        errors=contents.errors,
        errors_file=errors_path(output) if contents.errors else None,
        first_errors=tuple(contents.first_errors),
        kept=kept,
        seconds=time.perf_counter() - started,
    )


def _check_earlier(plan: Plan, parts: Parts, output: Path, overwrite: bool) -> None:
    """Refuse to replace an output, or to go on with another run."""
    earlier = None if parts.finished else parts.plan
    if overwrite:
        parts.clear()
    elif earlier is not None:
        differences = plan.differences(earlier)
        if differences:
            raise InvalidInputError(
                f"cannot go on with the unfinished run for {output}; found {'; '.join(differences)}; give "
                "the same as then, overwrite (--overwrite) to begin anew, or another output"
            )
    elif output.exists():
        raise InvalidInputError(
            f"cannot write to {output}; found a file; choose another name, or overwrite (--overwrite)"
        )


def _do(
    plan: Plan,
    left: list[Shard],
    parts: Parts,
    workers: int | None,
    ray: str | None,
    on_step: OnStep,
    stop: Callable[[], bool],
) -> None:
    jobs = [(shard, parts.path(shard)) for shard in left]
    if ray is not None:
        from edgepose.annotation.cluster import run_on_ray

        run_on_ray(plan.recipe, jobs, ray, workers, on_step, stop)
    elif workers is not None and workers > 1:
        from edgepose.annotation.workers import run_in_processes

        recipe = plan.recipe.with_threads(max(1, default_threads() // workers))
        run_in_processes(recipe, jobs, workers, on_step, stop)
    elif jobs:
        with plan.recipe.open() as estimator:
            for shard, path in jobs:
                if stop():
                    return
                annotate_shard(estimator, shard, plan.recipe, path, on_step)


def _never() -> bool:
    return False


def _ignore(_: int, __: int) -> None:
    return
