"""The training loop: resume, checkpoints, logs, several processes."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepose.errors import InvalidInputError, ModelFormatError
from training import loop, tasks
from training.__main__ import main
from training.checkpoints import read_checkpoint, read_state_dict
from training.config import load_config
from training.loop import DivergedError, Trainer, build_network, build_optimizer, train

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[..., Path]


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = read_state_dict(a), read_state_dict(b)
    assert list(first) == list(second)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


class Stopped(Exception):
    pass


@pytest.mark.parametrize("model", ["plain", "lpn50", "plain_stages"])
def test_resumed_run_equals_uninterrupted_one(
    write_config: Write,
    write_bottom_up: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    options = {"model": model, "ema": 0.9, "epochs": 2 if model == "lpn50" else 3}
    write, figure = write_config, "pck"
    if model == "plain_stages":
        write, figure = functools.partial(write_bottom_up, pictures=True, mosaics=True), "AP"
    whole, cut = (load_config(write(name=name, **options)) for name in ("whole", "cut"))
    train(whole)

    saved, calls = loop._save, []

    def stop_while_saving(path: Path, content: dict[str, object]) -> None:
        """Die in the second epoch when its log is written and its checkpoint is not."""
        calls.append(path.name)
        if calls.count("last.pt") == 2 and path.name == "last.pt":
            raise Stopped
        saved(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", stop_while_saving)
        with pytest.raises(Stopped):
            train(cut)
    runs = tmp_path / "runs"
    assert read_checkpoint(runs / "cut" / "last.pt")["epoch"] == 1
    line = train(cut, resume=True)

    expected, found = read_log(runs / "whole"), read_log(runs / "cut")
    assert line == found[-1]
    assert [entry["epoch"] for entry in found] == list(range(1, whole.epochs + 1))
    for a, b in zip(expected, found, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-6)
        assert b[figure] == pytest.approx(a[figure], abs=1e-6)
        assert b["lr"] == a["lr"]
    for name in ("best.pt", "last.pt"):
        assert_same_weights(runs / "whole" / name, runs / "cut" / name)
    averages = [read_checkpoint(runs / name / "last.pt")["average"] for name in ("whole", "cut")]
    assert averages[0]["n_averaged"] == averages[1]["n_averaged"] == whole.epochs * 4
    assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[0])


def test_training_learns_and_writes_its_files(
    write_config: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(write_config(epochs=4, evaluate_every=2))
    train(config)
    folder = tmp_path / "runs" / "tiny"
    lines = read_log(folder)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert ["pck" in line for line in lines] == [False, True, False, True]
    best = read_checkpoint(folder / "best.pt")
    assert best["config"]["name"] == "tiny"
    assert read_checkpoint(folder / "last.pt")["best"] == max(line.get("pck", -1) for line in lines)
    assert list(folder.glob("events.out.tfevents.*"))
    assert not list(folder.glob("*.part"))
    assert "epoch 1/4" not in capfd.readouterr().err  # no progress bar where there is no terminal


def test_average_is_what_is_kept_as_best(write_config: Write, tmp_path: Path) -> None:
    train(load_config(write_config(ema=0.9, epochs=1)))
    last = read_checkpoint(tmp_path / "runs/tiny/last.pt")
    best = read_state_dict(tmp_path / "runs/tiny/best.pt")
    for key, value in best.items():
        assert torch.equal(value, last["average"]["module." + key])
        assert not torch.equal(value, last["model"][key])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lpn_trains_in_mixed_precision(write_config: Write, precision: str) -> None:
    config = load_config(write_config(model="lpn50", precision=precision, epochs=1, ema=0.5))
    assert np.isfinite(train(config)["loss"])


def test_rmsprop_and_another_factor(write_config: Write) -> None:
    options = {"name": "rmsprop", "lr": 0.4, "milestones": [1, 2], "factor": 0.5}
    network = torch.nn.Linear(1, 1)
    optimizer, schedule = build_optimizer(load_config(write_config(optimizer=options)), network, 3)
    assert isinstance(optimizer, torch.optim.RMSprop)
    rates = []
    for _ in range(7):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.4] * 3 + [0.2] * 3 + [0.1])


def test_milestones_lower_the_rate(write_config: Write, tmp_path: Path) -> None:
    """The official recipe: Adam, steps, targets on the nearest pixel, legacy coordinates."""
    path = write_config(
        optimizer={"name": "adam", "lr": 0.001, "milestones": [1, 2]},
        coordinates="legacy",
        unbiased=False,
        decoder={"refine": "quarter"},
        augment={"rotation": 40, "scale": 0.3, "half_body": 0.3},
    )
    train(load_config(path))
    rates = [line["lr"] for line in read_log(tmp_path / "runs/tiny")]
    assert rates == pytest.approx([1e-4, 1e-5, 1e-5])
    train(load_config(path, ["epochs=4", "name=other"]))
    with pytest.raises(InvalidInputError, match="another configuration; found epochs 5 in place of 4"):
        train(load_config(path, ["epochs=5", "name=other"]), resume=True)


def test_weights_start_a_fresh_schedule(write_config: Write, tmp_path: Path) -> None:
    first = load_config(write_config(epochs=1))
    train(first)
    best = tmp_path / "runs/tiny/best.pt"
    second = load_config(write_config(name="stage1", epochs=1, weights=str(best)))
    trainer = Trainer(second, tmp_path / "runs/stage1")
    for key, value in read_state_dict(best).items():
        assert torch.equal(trainer.network.state_dict()[key], value)
    assert trainer.run()["epoch"] == 1


def test_a_student_starts_from_its_plain_training(write_config: Write, tmp_path: Path) -> None:
    plain = write_config(name="plain", epochs=1)
    distill = {"method": "fpd", "teacher_config": plain.name, "student_config": plain.name}
    config = load_config(write_config(name="student", distill=distill, seed=2))
    with pytest.raises(InvalidInputError, match=r"no plain student; found no .*plain/best\.pt"):
        build_network(config)
    train(load_config(plain))
    state = build_network(config).state_dict()
    for key, value in read_state_dict(tmp_path / "runs/plain/best.pt").items():
        assert torch.equal(state[key], value)


def test_workers_see_the_same_crops(write_config: Write) -> None:
    losses = []
    for workers in (0, 2):
        config = load_config(write_config(name=f"w{workers}", epochs=2, data={"workers": workers}))
        losses.append(train(config)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-7)


def test_a_run_is_not_overwritten(write_config: Write, tmp_path: Path) -> None:
    config = load_config(write_config(epochs=1))
    with pytest.raises(InvalidInputError, match=r"cannot resume; found no .*last\.pt"):
        train(config, resume=True)
    train(config)
    with pytest.raises(InvalidInputError, match="go on with --resume"):
        train(config)
    last = tmp_path / "runs/tiny/last.pt"
    whole = last.read_bytes()
    last.write_bytes((tmp_path / "runs/tiny/best.pt").read_bytes())
    with pytest.raises(ModelFormatError, match=r"give its last\.pt"):
        train(config, resume=True)
    last.write_bytes(whole[:1000])
    with pytest.raises(ModelFormatError, match="cannot read checkpoint"):
        train(config, resume=True)


def test_unusable_runs_are_refused(write_config: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="lower batch_size"):
        train(load_config(write_config(batch_size=17)))
    with pytest.raises(InvalidInputError, match="nothing to train on"):
        train(load_config(write_config(data={"lspet": False})))
    with pytest.raises(InvalidInputError, match="set skeleton: lsp14"):
        train(load_config(write_config(skeleton="coco17")))
    with pytest.raises(ModelFormatError, match="multiple of 32"):
        train(load_config(write_config(model="simplebaseline50", input_size=[36, 32])))
    monkeypatch.setattr(tasks, "joints_mse", lambda maps, *_: maps.sum() * torch.nan)
    with pytest.raises(DivergedError, match=r"epoch 1; found a loss of nan; lower optimizer\.lr"):
        train(load_config(write_config()))


def test_command_line_trains_and_resumes(
    write_config: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config())
    assert main(["train", config, "epochs=1"]) == 0
    assert main(["train", config, "epochs=1"]) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert main(["train", config, "epochs=1", "--resume"]) == 0
    assert len(read_log(tmp_path / "runs/tiny")) == 1
    for wrong in (["train"], ["train", config, "--resumed"], ["evaluate", config, "--json", "epochs"]):
        with pytest.raises(SystemExit) as exit_info:
            main(wrong)
        assert exit_info.value.code == 2, wrong
    (tmp_path / "file").touch()
    assert main(["train", config, f"output={tmp_path}/file", "epochs=1"]) == 1
    assert "training: cannot read or write; " in capsys.readouterr().err


def torchrun(*arguments: str, timeout: float = 240) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one_with_twice_the_batch(write_config: Write, tmp_path: Path) -> None:
    """Each process takes every other person of the epoch's order, and gradients are averaged.

    Exact for a network without batch norm, whose statistics are those of a process's own half.
    """
    one = load_config(write_config(name="one", batch_size=8))
    train(one)
    script = Path(__file__).with_name("two_processes.py")
    torchrun(str(script), str(write_config(name="two", batch_size=4, ema=0.9)), str(tmp_path))

    for rank in (0, 1):  # a thread of gloo that outlives the interpreter can abort the process
        threads = (tmp_path / f"rank{rank}.threads").read_text().split()
        assert not any("gloo" in name for name in threads), threads
    ranks = [read_state_dict(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    single = read_state_dict(tmp_path / "runs/one/last.pt")
    for key, value in ranks[0].items():
        assert torch.equal(value, ranks[1][key]), key
        torch.testing.assert_close(value, single[key], rtol=1e-4, atol=1e-5)
    losses = [[line["loss"] for line in read_log(tmp_path / "runs" / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)  # one log, not two
    assert (tmp_path / "runs/two/best.pt").is_file()


@pytest.mark.slow
def test_torchrun_trains_and_resumes_lpn(write_config: Write, tmp_path: Path) -> None:
    config = str(write_config(model="lpn50", ema=0.9, epochs=2, precision="bf16-mixed"))
    torchrun("-m", "training", "train", config)
    torchrun("-m", "training", "train", config, "--resume")
    folder = tmp_path / "runs/tiny"
    assert [line["epoch"] for line in read_log(folder)] == [1, 2]
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2  # one a start
    state = read_checkpoint(folder / "last.pt")
    assert state["run"]["processes"] == 2
    with pytest.raises(InvalidInputError, match="processes 1 in place of 2"):
        train(load_config(config), resume=True)
