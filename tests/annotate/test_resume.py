"""A bulk run that is ended goes on where it was, and its output is the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepose import BackendUnavailableError, Estimator, InvalidInputError, Skip, annotate
from edgepose.annotation import outputs, parts, run, workers
from edgepose.cli import main
from edgepose.result import PoseResult
from tests.annotate.conftest import COUNT, parts_of, start, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
SHARDS = 7


@pytest.fixture(scope="module")
def whole(model: str, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run without a break."""
    output = tmp_path_factory.mktemp("whole") / "out.json"
    before = os.environ.get("EDGEPOSE_KERNELS")
    os.environ["EDGEPOSE_KERNELS"] = "numpy"
    try:
        annotate(pictures, output, model=model)
    finally:
        os.environ.pop("EDGEPOSE_KERNELS")
        if before is not None:
            os.environ["EDGEPOSE_KERNELS"] = before
    return output


def same(output: str, whole: Path) -> bool:
    return Path(output).read_bytes() == whole.read_bytes() and (
        Path(f"{output}.errors.json").read_bytes() == Path(f"{whole}.errors.json").read_bytes()
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_at_random(model: str, pictures: Path, whole: Path, workers: str) -> None:
    places = sorted(random.Random(7).sample(range(SHARDS - 1), 3))
    for place in places:
        process = start(str(pictures), "-o", "out.json", "--model", model, "--workers", workers)
        wait_until(lambda place=place: len(parts_of("out.json")) > place)  # type: ignore[misc]
        process.kill()
        _, errors = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, errors
        assert not Path("out.json").exists()
        assert 0 < len(parts_of("out.json")) < SHARDS
    done = annotate(pictures, "out.json", model=model)
    assert done.kept > 32
    assert (done.pictures, done.errors) == (COUNT, 2)
    assert same("out.json", whole)
    assert not Path("out.json.parts").exists()


def test_killed_on_the_way_to_parquet(model: str, pictures: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    process = start(str(pictures), "-o", "out.parquet", "--model", model, "--workers", "2")
    wait_until(lambda: len(parts_of("out.parquet")) > 2)
    process.kill()
    process.communicate(timeout=30)
    annotate(pictures, "out.parquet", model=model)
    annotate(pictures, "whole.parquet", model=model)
    assert parquet.read_table("out.parquet").equals(parquet.read_table("whole.parquet"))


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", ["write", "finish", "clear"])
def test_ended_while_the_output_is_made(
    model: str, pictures: Path, whole: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any) -> Any:
        raise Ended

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(outputs, "_annotations", end)
        elif step == "finish":
            patch.setattr(parts.Parts, "finish", end)
        else:
            patch.setattr(parts.Parts, "clear", end)
        with pytest.raises(Ended):
            annotate(pictures, "out.json", model=model)
    assert Path("out.json").exists() == (step != "write")
    assert len(parts_of("out.json")) == SHARDS
    done = annotate(pictures, "out.json", model=model)
    assert (done.pictures, done.persons, done.errors, done.kept) == (COUNT, COUNT, 2, COUNT + 2)
    assert same("out.json", whole)
    assert sorted(path.name for path in Path().iterdir()) == ["out.json", "out.json.errors.json"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupted(model: str, pictures: Path, whole: Path, name: str, workers: str) -> None:
    command = [str(pictures), "-o", "out.json", "--model", model, "--workers", workers]
    process = start(*command)
    wait_until(lambda: len(parts_of("out.json")) > 0)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        "edgepose: finishing what is under way; press Ctrl-C again to end at once",
        "edgepose: interrupted; run the same command again to go on: what is done is kept in out.json.parts",
    ]
    assert len(parts_of("out.json")) < SHARDS
    assert not list(Path("out.json.parts").glob("*.part"))
    process = start(*command)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1  # two are no pictures
    assert errors.startswith("edgepose: going on; ")
    assert same("out.json", whole)


def test_a_run_that_overwrites_goes_on_too(model: str, pictures: Path, whole: Path) -> None:
    Path("out.json").write_text("of an older run")
    command = [str(pictures), "-o", "out.json", "--model", model]
    process = start(*command, "--overwrite")
    wait_until(lambda: len(parts_of("out.json")) > 0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "run the same command without --overwrite to go on" in errors
    assert Path("out.json").read_text() == "of an older run"
    _, errors = start(*command).communicate(timeout=60)
    assert errors.startswith("edgepose: going on; ")
    assert same("out.json", whole)


@pytest.fixture
def unfinished(model: str, pictures: Path) -> Iterator[Path]:
    """A copy of some pictures, and a run that was ended after the first shard."""
    folder = Path("some")
    folder.mkdir()
    for path in sorted(pictures.glob("????.png"))[:100]:
        shutil.copy2(path, folder)
    stopped = run.run_plan(
        run.make_plan(str(folder), model, 4, 1, {}), Path("out.json"), stop=lambda: bool(parts_of("out.json"))
    )
    assert stopped is None
    assert len(parts_of("out.json")) == 1
    return folder


def test_other_settings_are_refused(model: str, unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = r"flip_test False then, True now; give the same as then, overwrite \(--overwrite\)"
    with pytest.raises(InvalidInputError, match=message):
        annotate(str(unfinished), "out.json", model=model, flip_test=True)
    with pytest.raises(InvalidInputError, match="batch 4 then, 8 now"):
        annotate(str(unfinished), "out.json", model=model, batch=8)
    assert main(["annotate", "some", "-o", "out.json", "--flip-test", "--model", model]) == 1
    assert "cannot go on with the unfinished run for out.json" in capsys.readouterr().err
    assert len(parts_of("out.json")) == 1
    done = annotate(str(unfinished), "out.json", model=model, flip_test=True, overwrite=True)
    assert (done.kept, done.pictures) == (0, 100)


def test_threads_and_workers_may_change(model: str, unfinished: Path) -> None:
    done = annotate(str(unfinished), "out.json", model=model, threads=1, workers=2)
    assert (done.kept, done.pictures) == (32, 100)


def test_other_files_are_refused(model: str, unfinished: Path) -> None:
    shutil.copy(unfinished / "0001.png", unfinished / "new.png")
    with pytest.raises(InvalidInputError, match=r"1 file new \(such as some/new.png\)"):
        annotate(str(unfinished), "out.json", model=model)
    (unfinished / "new.png").unlink()
    (unfinished / "0001.png").unlink()
    (unfinished / "0002.png").unlink()
    with pytest.raises(InvalidInputError, match=r"2 files gone \(such as some/0001.png\)"):
        annotate(str(unfinished), "out.json", model=model)


def test_another_order_is_refused(model: str, unfinished: Path) -> None:
    paths = [str(path) for path in sorted(unfinished.iterdir())]
    with pytest.raises(InvalidInputError, match="the files come in another order"):
        annotate(paths[::-1], "out.json", model=model)


def test_changed_files_are_done_again(
    model: str, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(unfinished / "0090.png", unfinished / "0001.png")
    os.utime(unfinished / "0001.png", ns=(1, 1))
    assert main(["annotate", "some", "-o", "out.json", "--model", model]) == 0
    assert "files have changed since; groups of them that are done again: 1" in capsys.readouterr().err
    people = json.loads(Path("out.json").read_text())["annotations"]
    assert people[1]["keypoints"] == people[90]["keypoints"]


def test_a_damaged_part_is_done_again(model: str, unfinished: Path) -> None:
    (name,) = parts_of("out.json")
    path = Path("out.json.parts") / name
    path.write_bytes(path.read_bytes()[:-30])
    done = annotate(str(unfinished), "out.json", model=model)
    assert (done.kept, done.pictures) == (0, 100)


def test_a_part_damaged_within_is_told(model: str, unfinished: Path) -> None:
    (name,) = parts_of("out.json")
    path = Path("out.json.parts") / name
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(InvalidInputError, match=f"part is damaged; found .*{name}; delete it"):
        annotate(str(unfinished), "out.json", model=model)
    assert not Path("out.json").exists()
    path.unlink()
    assert annotate(str(unfinished), "out.json", model=model).pictures == 100


def test_one_run_at_a_time(model: str, unfinished: Path) -> None:
    with (
        parts.Parts(Path("out.json")),
        pytest.raises(InvalidInputError, match="another run at work"),
    ):
        annotate(str(unfinished), "out.json", model=model)
    assert annotate(str(unfinished), "out.json", model=model).pictures == 100


@pytest.mark.parametrize("ends", ["before the lock", "before the folder's lock file"])
def test_a_run_that_ends_while_another_begins(
    ends: str, model: str, pictures: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of parts goes between the steps in which the next run takes it."""
    first = parts.Parts(Path("out.json")).__enter__()
    if ends == "before the lock":
        real = parts._hold

        def hold(file: Any) -> None:
            monkeypatch.setattr(parts, "_hold", real)
            first.__exit__()
            real(file)

        monkeypatch.setattr(parts, "_hold", hold)
    else:
        make = Path.mkdir

        def mkdir(self: Path, *arguments: Any, **options: Any) -> None:
            make(self, *arguments, **options)
            if self.name == "out.json.parts":
                monkeypatch.setattr(Path, "mkdir", make)
                first.__exit__()

        monkeypatch.setattr(Path, "mkdir", mkdir)
    annotate(pictures, "out.json", model=model)
    assert same("out.json", whole)


def dying(folder: Path, *, always: bool) -> str:
    """A worker's program that is killed at the third shard, the first time or always."""
    return f"""
import os, pathlib, signal
from edgepose.annotation import workers
real, flag = workers.annotate_shard, pathlib.Path({str(folder / "flag")!r})
def dying(estimator, shard, *others):
    if shard.number == 2 and ({always} or not flag.exists()):
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(estimator, shard, *others)
workers.annotate_shard = dying
workers.serve()
"""


def test_a_worker_that_dies_is_replaced(
    model: str, pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_PROGRAM", dying(tmp_path, always=False))
    assert annotate(pictures, "out.json", model=model, workers=2).pictures == COUNT
    assert (tmp_path / "flag").exists()
    assert same("out.json", whole)


def test_a_worker_that_dies_twice_is_an_error(
    model: str, pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_PROGRAM", dying(tmp_path, always=True))
        message = r"a worker died twice at the same pictures, \S+0063.png to \S+png; found signal SIGKILL"
        with pytest.raises(BackendUnavailableError, match=message):
            annotate(pictures, "out.json", model=model, workers=2)
    assert parts_of("out.json")
    assert annotate(pictures, "out.json", model=model, workers=2).kept >= 32
    assert same("out.json", whole)


def test_workers_end_with_their_caller(model: str, pictures: Path) -> None:
    process = start(str(pictures), "-o", "out.json", "--model", model, "--workers", "2")
    wait_until(lambda: len(parts_of("out.json")) > 0)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.communicate(timeout=30)
        pytest.skip("this system does not tell the children of a process")
    numbers = children.read_text().split()
    process.kill()
    process.communicate(timeout=30)
    assert len(numbers) == 2
    wait_until(lambda: not any(_lives(number) for number in numbers), 30)


def _lives(number: str) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False


def test_errors_of_the_disk_reach_the_caller(
    model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.PartWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        annotate(pictures, "out.json", model=model)
    assert not Path("out.json.parts").exists()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_parts_give_back_what_was_written(tmp_path: Path, model: str, pictures: Path) -> None:
    result = Estimator(model)(str(pictures / "0003.png"))
    with parts.PartWriter(tmp_path / "part") as part:
        part.write(result)
        part.write(Skip("a", "b"))
    back, skip = parts.read_part(tmp_path / "part")
    assert skip == Skip("a", "b")
    assert isinstance(back, PoseResult)
    for name in ("keypoints", "scores", "boxes", "person_scores"):
        assert (getattr(back, name) == getattr(result, name)).all()
    assert (back.image_size, back.source, back.skeleton) == (
        result.image_size,
        result.source,
        result.skeleton,
    )


def test_a_script_needs_no_guard(model: str, pictures: Path) -> None:
    Path("script.py").write_text(
        "import edgepose\n"
        f"done = edgepose.annotate({str(pictures)!r}, 'out.json', model={model!r}, workers=2)\n"
        "print(done.pictures)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, env=environment, timeout=60, check=True
    )
    assert done.stdout.strip() == str(COUNT)
