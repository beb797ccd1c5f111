"""The comparison of training methods: its runs, their figures, its tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgepose.errors import InvalidInputError
from training import comparison
from training.__main__ import main
from training.comparison import DECODERS, METHODS, Run, read_comparison, run_missing
from training.comparison_table import comparison_tables, replace_section
from training.data import sets
from training.export import check_output, model_spec
from training.loop import read_log
from training.models import create

Write = Callable[..., Path]
CONFIGS = Path(__file__).resolve().parents[2] / "training/configs/comparison"
OPTIONS = {"stacks": 2, "channels": 8, "depth": 1}


def pictures(run: Run) -> int:
    """Epochs that the student sees in all stages and trainings."""
    return sum(config.epochs * config.stages for config in run.configs)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_shipped_plans(name: str) -> None:
    runs = read_comparison(CONFIGS / f"{name}.yaml")
    assert [run.method for run in runs[:7]] == ["teacher", *METHODS]
    assert len({run.folder for run in runs}) == len(runs) == 1 + 2 * 3 * len(METHODS)
    assert {run.seed for run in runs[1:]} == {1, 2, 3}
    teacher = runs[0].configs[0]
    for run in runs[1:]:
        config = run.configs[-1]
        plain = next(r for r in runs if (r.student, r.method, r.seed) == (run.student, "plain", run.seed))
        assert pictures(run) == pictures(plain)
        assert (config.input_size, config.sigma) == (teacher.input_size, teacher.sigma)
        options = {"joints": 14, **config.options}
        network = create(config.model, **options)
        check_output(network, model_spec(config))
        if run.method.startswith("okdhp"):
            assert network.students[0].items() >= plain.configs[0].options.items() - {("joints", 14)}
            balanced = len({str(student) for student in network.students}) == 1
            assert balanced == (run.method == "okdhp")


@pytest.fixture
def plan(write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A comparison of a few seconds; what is held out stands for the test people."""
    monkeypatch.setattr(comparison, "load_test", lambda config: sets.load_people(config)[1])
    small = {"model": "hourglass", "init": "default", "options": OPTIONS}
    write_config(name="student", epochs=2, **small)
    write_config(name="teacher", epochs=1, **small)
    entry = {
        "config": "student.yaml",
        "balanced": {"shared": 1, "branches": [1, 1]},
        "unbalanced": {"shared": 1, "branches": [1, 2]},
    }
    content = {"name": "c", "teacher": "teacher.yaml", "students": {"s": entry}, "seeds": [1, 2], "stages": 2}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_missing_runs_are_made_and_the_table_is_written(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="no results; found none"):
        comparison_tables(read_comparison(plan))
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- comparison -->\nold\n<!-- /comparison -->\nafter\n")
    assert main(["compare", str(plan), "--write", str(document)]) == 0
    printed = capsys.readouterr().out.strip()
    text = document.read_text()
    assert text == f"before\n<!-- comparison -->\n{printed}\n<!-- /comparison -->\nafter\n"

    runs = read_comparison(plan)
    results = {(run.method, run.seed): json.loads(run.result_file.read_text()) for run in runs}
    assert len(results) == 1 + 2 * len(METHODS)
    for (method, seed), result in results.items():
        assert result["pictures"] == (16 if method == "teacher" else 32), (method, seed)
        assert result["seconds"] > 0
    for run in runs:  # what is held out stands for the test people
        held_out = max(line["pck"] for line in read_log(run.folder))
        assert results[run.method, run.seed]["test"]["mean"] == pytest.approx(held_out), run.folder
    plain = results["plain", 1]
    assert set(plain["decoders"]) == set(DECODERS)
    assert plain["decoders"]["soft arg-max, beta 160"] == plain["test"]["mean"]  # as configured
    assert len(results["okdhp", 1]["branches"]) == 2
    assert results["okdhp", 1]["test"]["mean"] in results["okdhp", 1]["branches"]
    unbalanced = results["okdhp_unbalanced", 2]
    assert unbalanced["test"]["mean"] == unbalanced["branches"][0]
    assert unbalanced["parameters"] == plain["parameters"]
    teacher = results["teacher", 1]["macs"]  # trained, and asked in all epochs, or in half of them
    assert results["fpd", 1]["training_macs"] == plain["macs"] + 2 * teacher
    assert results["plain_fpd", 1]["training_macs"] == plain["macs"] + 1.5 * teacher
    assert "**s** (hourglass, channels 8, depth 1, stacks 2; crops of 32x32, 2 epochs): " in printed
    for name in ("teacher", "plain", "LPN's stages", "FPD, from the plain student", "OKDHP, unbalanced"):
        assert sum(line.startswith(f"| {name} |") for line in printed.splitlines()) == 1

    monkeypatch.setattr(comparison, "train", lambda *_, **__: pytest.fail("trained again"))
    run_missing(runs)


def test_two_at_a_time_wait_for_the_teacher(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which run is handed out when, with processes that do nothing."""
    started: list[str] = []
    open_files: list[Path] = []

    class Pool:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, _: Any, run: Run) -> Any:
            started.append(run.method)
            open_files.append(run.result_file)
            return comparison.Future()

    def finish(running: dict[Any, Run], return_when: str) -> tuple[set[Any], set[Any]]:
        assert len(running) <= 2
        last = list(running)[-1]  # the teacher, which was first, as late as possible
        if running[last].method == "fpd" or len(running) == 1:
            last = next(iter(running))
        last.set_result(None)
        return {last}, set()

    monkeypatch.setattr(comparison, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(comparison, "wait", finish)
    run_missing(read_comparison(plan), jobs=2)
    assert started[0] == "teacher"
    assert sorted(started) == sorted(["teacher", *METHODS, *METHODS])
    assert len(set(open_files)) == len(started)
    independent = [method for method in started[1:] if "fpd" not in method]
    assert started[1 : 1 + len(independent)] == independent  # while the teacher is trained


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("failing", ["stages", "teacher"])
def test_a_failed_run_does_not_end_the_others(
    plan: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, failing: str
) -> None:
    done: list[str] = []

    def perform(run: Run) -> None:
        if run.method == failing:
            raise InvalidInputError("no such thing")
        done.append(run.method)

    monkeypatch.setattr(comparison, "perform", perform)
    monkeypatch.setattr(comparison, "ProcessPoolExecutor", Immediate)
    with pytest.raises(InvalidInputError, match="no such thing"):
        run_missing(read_comparison(plan), jobs=jobs)
    left = {"stages": {*METHODS, "teacher"} - {"stages"}, "teacher": {*METHODS} - {"fpd", "plain_fpd"}}
    expected = [m for m in METHODS * 2 if m in left[failing]] + ["teacher"] * (failing != "teacher")
    assert sorted(done) == sorted(expected)
    with pytest.raises(InvalidInputError, match="no 0 trainings at a time"):
        run_missing([], jobs=0)


class Immediate:
    """A pool that does the work when it is given."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> Immediate:
        return self

    def __exit__(self, *_: object) -> None: ...
    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        future: Any = comparison.Future()
        try:
            future.set_result(work(*arguments))
        except InvalidInputError as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 1}, "found 1 stages, 2 seeds and 1 students"),
        ({"stages": 3}, "found 2 epochs of 's' for 3 stages"),
        ({"students": {}}, "and 0 students"),
        ({"teecher": "x"}, "Key 'teecher' not in 'Comparison'"),
        ({"teacher": "none.yaml"}, "found no file .*none.yaml"),
    ],
)
def test_unusable_plans(plan: Path, changes: dict[str, Any], message: str) -> None:
    plan.write_text(yaml.safe_dump({**yaml.safe_load(plan.read_text()), **changes}))
    with pytest.raises(InvalidInputError, match=message):
        read_comparison(plan)


def test_a_document_without_marks() -> None:
    with pytest.raises(InvalidInputError, match="no place for the tables"):
        replace_section("text", "table")
