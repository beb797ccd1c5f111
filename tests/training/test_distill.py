"""Distillation: losses, teachers, branches and stages; what is missing is trained, what was begun goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_loop import Stopped, assert_same_weights, read_log, torchrun

from edgepose.errors import InvalidInputError, ModelNotFoundError
from training import loop, tasks
from training.__main__ import main
from training.checkpoints import load_weights, read_checkpoint
from training.config import load_config
from training.data.targets import gaussian_targets
from training.distill.fpd import fpd_loss
from training.distill.okdhp import deployable, okdhp_loss, pixel_kl, ramp_up
from training.distill.run import distill
from training.distill.teacher import Teacher
from training.loop import Trainer, is_complete, train
from training.losses import joints_mse, joints_ohkm
from training.models import create
from training.models.okdhp import extract_branch

Write = Callable[..., Path]
HOURGLASS = {"model": "hourglass", "options": {"channels": 8, "depth": 1, "stacks": 2}, "init": "default"}
BRANCHED = {
    "model": "okdhp",
    "options": {"channels": 8, "depth": 1, "shared": 1, "branches": [1, 2, 1]},
    "init": "default",
    "distill": {"method": "okdhp", "ramp_up": 2},
}


@pytest.fixture(scope="module")
def official(shared: Path) -> tuple[Any, list[dict[str, Any]]]:
    arrays = np.load(shared / "specs/parity/losses.npz")
    return arrays, json.loads(str(arrays["meta"]))


def tensors(arrays: Any) -> tuple[torch.Tensor, ...]:
    predicted, target, teacher = (torch.from_numpy(arrays[name]) for name in ("pred", "target", "teacher"))
    weights = torch.from_numpy(arrays["target_weight"])[..., 0]
    return predicted.requires_grad_(), target, teacher.requires_grad_(), weights


def assert_gradient(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("index", [3, 4])
def test_fpd_equals_the_official_loss(official: tuple[Any, list[dict[str, Any]]], index: int) -> None:
    arrays, meta = official
    predicted, target, teacher, weights = tensors(arrays)
    outputs = [predicted, 0.5 * predicted + 0.1]
    loss = fpd_loss(outputs, target, teacher, weights, alpha=meta[index]["alpha"])
    loss.backward()
    assert loss.item() == pytest.approx(meta[index]["value"], rel=1e-5)
    assert_gradient(predicted.grad, arrays[meta[index]["grads"][0]])
    assert teacher.grad is None
    for alpha, part in ((0.0, "pose"), (1.0, "kd")):
        assert fpd_loss(outputs, target, teacher, weights, alpha=alpha).item() == pytest.approx(
            meta[index][part], rel=1e-5
        )


def test_fpd_of_pictures_and_joints_without_labels(official: tuple[Any, list[dict[str, Any]]]) -> None:
    predicted, target, teacher, _ = tensors(official[0])
    weights = torch.ones(3, 5)
    weights[0, 2] = weights[2] = 0
    labelled = torch.tensor([1.0, 1.0, 0.0])
    one, no = torch.ones(1, 5), slice(0, 2)
    loss = fpd_loss([predicted], target, teacher, weights, alpha=0.3, labelled=labelled)
    known = fpd_loss([predicted[no]], target[no], teacher[no], weights[no], alpha=0.3)
    unknown = joints_mse(predicted[2:], teacher[2:], one)
    torch.testing.assert_close(loss, (2 * known + unknown) / 3)
    loss = fpd_loss([predicted], target, teacher, weights, alpha=0.3, masked=False, labelled=labelled)
    all_hints = joints_mse(predicted[no], teacher[no], torch.ones(2, 5))
    own = joints_mse(predicted[no], target[no], weights[no])
    torch.testing.assert_close(loss, (2 * (0.7 * own + 0.3 * all_hints) + unknown) / 3)


def test_pixel_divergence_equals_the_official_one(official: tuple[Any, list[dict[str, Any]]]) -> None:
    arrays, meta = official
    predicted, _, ensemble, weights = tensors(arrays)
    loss = pixel_kl(predicted, ensemble, weights)
    loss.backward()
    assert loss.item() == pytest.approx(meta[5]["value"], rel=1e-5)
    assert_gradient(predicted.grad, arrays["grad_5_pred"])
    assert_gradient(ensemble.grad, arrays["grad_5_ensemble"])
    assert pixel_kl(ensemble, ensemble, weights).item() == pytest.approx(0, abs=1e-7)
    assert pixel_kl(predicted, ensemble, torch.zeros(3, 5)).item() == 0
    assert np.isfinite(pixel_kl(predicted[:1], ensemble[:1], weights[:1]).item())  # a batch of one


def test_temperature_keeps_the_size_of_the_divergence() -> None:
    torch.manual_seed(0)
    a, b = 0.01 * torch.randn(2, 2, 3, 8, 8)
    weights = torch.ones(2, 3)
    torch.testing.assert_close(pixel_kl(a, b, weights, 4.0), pixel_kl(a, b, weights), rtol=0.05, atol=0)
    sharp = pixel_kl(100 * a, 100 * b, weights, 0.1)
    assert not torch.isclose(sharp, pixel_kl(100 * a, 100 * b, weights))


def test_ramp_up_equals_the_official_one(official: tuple[Any, list[dict[str, Any]]]) -> None:
    for epoch, length, value in official[1][-1]["values"]:
        assert ramp_up(epoch, length) == pytest.approx(value, rel=1e-9)


def test_okdhp_loss_is_the_sum_of_its_terms(official: tuple[Any, list[dict[str, Any]]]) -> None:
    predicted, target, ensemble, weights = tensors(official[0])
    outputs = [predicted, 2 * predicted]
    hard = sum(joints_mse(maps, target, weights) for maps in outputs)
    soft = sum(pixel_kl(maps, ensemble, weights) for maps in outputs)
    own = joints_mse(ensemble, target, weights)
    loss = okdhp_loss(outputs, ensemble, target, weights, kd_weight=5, ensemble_weight=3)
    torch.testing.assert_close(loss, hard + 3 * own + 5 * soft)
    (alone,) = torch.autograd.grad(own, ensemble)
    for detach in (False, True):
        loss = okdhp_loss(outputs, ensemble, target, weights, detach=detach)
        (drawn,) = torch.autograd.grad(loss, ensemble)
        assert torch.allclose(drawn, alone, atol=1e-9) == detach


def test_ohkm_equals_the_official_loss(official: tuple[Any, list[dict[str, Any]]]) -> None:
    predicted, target, _, weights = tensors(official[0])
    entry = official[1][2]
    assert joints_ohkm(predicted, target, weights, entry["topk"]).item() == pytest.approx(
        entry["value"], rel=1e-5
    )
    assert joints_ohkm(predicted[:1], target[:1], weights[:1], 5).item() == pytest.approx(
        joints_mse(predicted[:1], target[:1], weights[:1]).item(), rel=1e-5
    )
    with pytest.raises(InvalidInputError, match="cannot choose 6 hard joints; found 5"):
        joints_ohkm(predicted, target, weights, 6)


@pytest.fixture
def write_fpd(write_config: Write) -> Write:
    """Write teacher.yaml, half.yaml and the student's file, which needs both."""

    def write(**changes: Any) -> Path:
        options = {"channels": 8, "depth": 1, "stacks": 1}
        write_config(name="teacher", **{**HOURGLASS, "options": {**options, "stacks": 2}}, epochs=1)
        write_config(name="half", **{**HOURGLASS, "options": options}, epochs=1)
        distill_options = {"method": "fpd", "teacher_config": "teacher.yaml", "student_config": "half.yaml"}
        fields = {**HOURGLASS, "name": "student", "options": options, "distill": distill_options, **changes}
        return write_config(**fields)

    return write


def test_one_command_trains_what_is_missing(
    write_fpd: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_fpd(epochs=2)
    runs = tmp_path / "runs"
    with pytest.raises(InvalidInputError, match=r"no teacher; found no .*teacher/best\.pt"):
        Teacher(load_config(path))
    with pytest.raises(InvalidInputError, match=r"no plain student; found no .*half/best\.pt"):
        train(load_config(path))
    assert main(["distill", str(path)]) == 0
    assert {folder.name for folder in runs.iterdir()} == {"teacher", "half", "student"}
    assert [line["epoch"] for line in read_log(runs / "student")] == [1, 2]
    trained = {name: (runs / name / "last.pt").stat().st_mtime_ns for name in ("teacher", "half")}
    assert main(["distill", str(path)]) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert main(["distill", str(path), "--resume"]) == 0  # nothing is left to do
    assert trained == {name: (runs / name / "last.pt").stat().st_mtime_ns for name in trained}
    given = load_config(path, ["name=given", f"distill.teacher={runs}/teacher/best.pt", "epochs=1"])
    (runs / "teacher").rename(tmp_path / "elsewhere")
    given.distill.teacher = str(tmp_path / "elsewhere/best.pt")
    distill(given)
    assert not (runs / "teacher").exists()


def test_the_student_starts_from_the_plain_one_and_learns_from_the_teacher(
    write_fpd: Write, tmp_path: Path
) -> None:
    """At a rate of nothing the student stays the plain one; its loss has the teacher's part."""
    path = write_fpd(optimizer={"name": "adam", "lr": 1e-12}, epochs=1)
    losses = {}
    for alpha in (0.0, 0.5, 1.0):
        config = load_config(path, [f"name=student{alpha}", f"distill.alpha={alpha}"])
        losses[alpha] = distill(config)["loss"]
    state = read_checkpoint(tmp_path / "runs/student0.5/best.pt")["model"]
    for key, value in read_checkpoint(tmp_path / "runs/half/best.pt")["model"].items():
        if key.endswith(("weight", "bias")):
            torch.testing.assert_close(state[key], value, atol=1e-6, rtol=0)
    assert losses[0.0] != losses[1.0]
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2, rel=1e-4)


@pytest.mark.parametrize("field", ["color=bgr", "input_size=[64,64]", "coordinates=legacy"])
def test_a_teacher_of_other_crops_is_refused(write_fpd: Write, tmp_path: Path, field: str) -> None:
    path = write_fpd()
    train(load_config(tmp_path / "teacher.yaml"))
    with pytest.raises(InvalidInputError, match="teacher and student do not fit; found"):
        Teacher(load_config(path, [field]))


def test_a_teacher_of_other_maps_is_refused(write_fpd: Write, write_config: Write) -> None:
    path = write_fpd()
    fields = {
        "model": "mobilepose",
        "options": {"backbone": "shufflenetv2"},
        "decoder": {"beta": 4.158883083},
    }
    train(load_config(write_config(name="teacher", **fields, epochs=1, data={"limit": 4})))
    with pytest.raises(InvalidInputError, match="no teacher of heatmaps; found 'mobilepose'"):
        Teacher(load_config(path))


def test_what_does_not_fit_together_is_refused_before_anything_is_trained(
    write_fpd: Write, tmp_path: Path
) -> None:
    path = write_fpd()
    for field, message in (
        ("input_size=[64,64]", "teacher and student do not fit"),
        ("distill.teacher=none.pt", r"found no file none\.pt; correct distill\.teacher"),
        ("options.channels=16", "'student' cannot start from 'half'"),
        ("options.stacks=3", "'student' cannot start from 'half'; found the networks hourglass"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            distill(load_config(path, [field]))
    assert not (tmp_path / "runs").exists()


def test_nothing_to_distil(write_config: Write) -> None:
    with pytest.raises(InvalidInputError, match=r"nothing to distil in 'tiny'; found no distill\.method"):
        distill(load_config(write_config()))
    with pytest.raises(InvalidInputError, match=r"distill\.teacher_config is not usable; found None"):
        load_config(write_config(distill={"method": "fpd"}))
    with pytest.raises(InvalidInputError, match=r"losses\.hard_joints is not usable; found 8; give 0"):
        load_config(write_config(**BRANCHED, losses={"hard_joints": 8}))
    with pytest.raises(InvalidInputError, match="okdhp for the network okdhp, and for no other"):
        load_config(write_config(distill={"method": "okdhp"}))


def test_branches_are_measured_and_the_best_target_is_kept(
    write_config: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(write_config(**BRANCHED, epochs=2, ema=0.5))
    line = train(config)
    figures = [line[f"pck_branch{b}"] for b in (1, 2, 3)]
    assert line["pck"] == max(figures[0], figures[2])  # the second is deeper than the target
    assert "pck_ensemble" in line
    student, path = deployable(config)
    assert (student.model, student.options["stacks"], student.distill.method) == ("hourglass", 2, None)
    network = create(student.model, **student.options)
    load_weights(network, path)
    assert read_checkpoint(path)["branch"] in (0, 2)
    onnx_file = tmp_path / "student.onnx"
    assert main(["export", str(tmp_path / "tiny.yaml"), "-o", str(onnx_file)]) == 0
    assert onnx_file.is_file()
    moved = path.rename(tmp_path / "moved.pt")  # which is known for a student wherever it lies
    again = tmp_path / "again.onnx"
    command = ["export", str(tmp_path / "tiny.yaml"), "-o", str(again), "--weights"]
    assert main([*command[:-1], "name=other"]) == 1
    assert "train the configuration first" in capsys.readouterr().err
    assert main([*command, str(moved)]) == 0
    assert again.stat().st_size == pytest.approx(onnx_file.stat().st_size, rel=0.05)
    assert main([*command, str(tmp_path / "runs/tiny/best.pt")]) == 0  # the whole network, with its ensemble
    assert again.stat().st_size > 1.5 * onnx_file.stat().st_size
    with pytest.raises(ModelNotFoundError, match=r"student\.pt"):
        deployable(load_config(tmp_path / "tiny.yaml", ["name=other"]))


def test_the_divergence_grows_with_the_epochs(write_config: Write) -> None:
    """At a rate of nothing the losses of the first epoch differ by the ramp-up alone."""
    fields = {**BRANCHED, "optimizer": {"name": "adam", "lr": 1e-12}, "augment": {"flip": 0.0, "scale": 0.0}}
    fields["augment"] |= {"rotation": 0.0, "translation": 0.0}
    path = write_config(**fields, epochs=1)
    losses = {}
    for weight, length in ((0, 0), (1e4, 0), (1e4, 4)):
        overrides = [f"name=w{weight}-{length}", f"distill.kd_weight={weight}", f"distill.ramp_up={length}"]
        losses[weight, length] = train(load_config(path, overrides))["loss"]
    whole = losses[1e4, 0] - losses[0, 0]
    assert whole > 0
    assert losses[1e4, 4] - losses[0, 0] == pytest.approx(ramp_up(0, 4) * whole, rel=0.05)


def first_batch(trainer: Trainer) -> tuple[dict[str, Any], torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Four examples of which some joints are not labelled, their images, target heatmaps and weights."""
    batch = trainer._task.examples.batch(range(4))
    batch["weights"][:2, 3:] = 0
    config = trainer.config
    targets = gaussian_targets(
        batch["joints"], batch["weights"], (8, 8), config.sigma, unbiased=config.unbiased
    )
    return batch, trainer._normalize(batch["image"]), targets


@pytest.mark.parametrize("detach", [False, True])
def test_options_of_branches_reach_the_loss(write_config: Write, tmp_path: Path, detach: bool) -> None:
    options = {"kd_weight": 5000, "ensemble_weight": 2, "temperature": 0.5, "detach": detach}
    fields = {**BRANCHED, "distill": {"method": "okdhp", "ramp_up": 4, **options}}
    trainer = Trainer(load_config(write_config(**fields)), tmp_path / "run")
    batch, images, targets = first_batch(trainer)
    trainer._task.examples.epoch = 3
    network = trainer.network.train()
    options["kd_weight"] *= ramp_up(3, 4)
    gradients = []
    for loss in (
        trainer._task.loss(network(images), batch, images),
        okdhp_loss(*network(images), *targets, **options),
        okdhp_loss(*network(images), *targets, **{**options, "detach": not detach}),
    ):
        gradients.append([loss, *torch.autograd.grad(loss, network.fcs[0].weight)])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0][1], gradients[2][1], rtol=1e-2)


@pytest.mark.parametrize("masked", [False, True])
def test_options_of_a_teacher_reach_the_loss(write_fpd: Write, tmp_path: Path, masked: bool) -> None:
    """The teacher is in evaluation, and says what its last stack does."""
    train(load_config(write_fpd().with_name("teacher.yaml")))
    distill_options = {"method": "fpd", "teacher_config": "teacher.yaml", "alpha": 0.3, "masked": masked}
    config = load_config(write_fpd(distill=distill_options, options={**HOURGLASS["options"], "stacks": 2}))
    trainer = Trainer(config, tmp_path / "run")
    batch, images, (targets, weights) = first_batch(trainer)
    teacher = create("hourglass", joints=14, **HOURGLASS["options"]).eval()
    load_weights(teacher, tmp_path / "runs/teacher/best.pt")
    outputs = [maps.detach() for maps in trainer.network(images)]
    losses = [
        fpd_loss(outputs, targets, teacher(images)[-1], weights, alpha=0.3, masked=m)
        for m in (masked, not masked)
    ]
    for _ in range(2):  # not changed by what it has seen
        torch.testing.assert_close(trainer._task.loss(outputs, batch, images), losses[0])
    assert not torch.isclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("method", ["okdhp", "fpd", "stages"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    write_config: Write, write_fpd: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == "fpd":
        path = write_fpd(epochs=3, ema=0.9)
    elif method == "okdhp":
        path = write_config(**BRANCHED, epochs=3)
    else:
        path = write_config(stages=3, epochs=2)
    run = train if method == "stages" else distill
    whole, cut = (load_config(path, [f"name={name}"]) for name in ("whole", "cut"))
    run(whole)

    saved, calls = loop._save, []

    def stop(file: Path, content: dict[str, object]) -> None:
        if file.name == "last.pt" and len(calls) == (3 if method == "stages" else 1):
            raise Stopped
        calls.extend([file] if file.name == "last.pt" else [])
        saved(file, content)

    monkeypatch.setattr(loop, "_save", stop)
    with pytest.raises(Stopped):
        run(cut)
    monkeypatch.undo()
    assert not is_complete(cut)
    run(cut, resume=True)
    assert is_complete(cut)
    logs = [read_log(tmp_path / "runs" / name) for name in ("whole", "cut")]
    for first, second in zip(*logs, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-6)
    assert_same_weights(tmp_path / "runs/whole/best.pt", tmp_path / "runs/cut/best.pt")


def test_each_stage_starts_from_the_best_of_the_last_one(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(stages=3, epochs=2))
    started: list[tuple[str | None, int]] = []
    build = loop.build_network

    def watch(stage: Any) -> Any:
        started.append((stage.weights, stage.seed))
        return build(stage)

    monkeypatch.setattr(loop, "build_network", watch)
    train(config)
    folder = tmp_path / "runs/tiny"
    assert started == [
        (None, 1),
        (str(folder / "stage0/best.pt"), 1001),
        (str(folder / "stage1/best.pt"), 2001),
    ]
    lines = read_log(folder)
    assert [(line["stage"], line["epoch"]) for line in lines] == [(s, e) for s in range(3) for e in (1, 2)]
    assert lines[1]["lr"] < lines[2]["lr"]  # the schedule starts anew
    best = max(range(3), key=lambda s: max(line["pck"] for line in lines if line["stage"] == s))
    assert_same_weights(folder / "best.pt", folder / f"stage{best}/best.pt")
    with pytest.raises(InvalidInputError, match="go on with --resume"):
        train(config)
    with pytest.raises(InvalidInputError, match="cannot resume; found no stage begun"):
        train(load_config(tmp_path / "tiny.yaml", ["name=other"]), resume=True)


def test_hard_joints_are_mined(write_config: Write) -> None:
    path = write_config(**HOURGLASS, epochs=1)
    losses = [
        train(load_config(path, [f"name=h{count}", f"losses.hard_joints={count}", "optimizer.lr=1e-12"]))[
            "loss"
        ]
        for count in (0, 3, 14)
    ]
    assert losses[1] > losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    with pytest.raises(InvalidInputError, match="cannot choose 15 hard joints"):
        train(load_config(path, ["name=h15", "losses.hard_joints=15"]))
    with pytest.raises(InvalidInputError, match=r"hard_joints is not usable; found 3; give 0 for distill"):
        load_config(write_config(**BRANCHED, losses={"hard_joints": 3}))


@pytest.mark.parametrize("file", ["best.pt", "student.pt", "last.pt"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_was_killed_between_its_files_has_one_line_an_epoch(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, epoch: int
) -> None:
    path = write_config(**BRANCHED, epochs=2)
    config = load_config(path)
    monkeypatch.setattr(tasks.TopDown, "_score", growing_scores())
    saved, calls = loop._save, []

    def stop(target: Path, content: dict[str, object]) -> None:
        calls.append(target.name)
        if target.name == file and calls.count(file) == epoch:
            raise Stopped
        saved(target, content)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", stop)
        with pytest.raises(Stopped):
            train(config)
    monkeypatch.setattr(tasks.TopDown, "_score", growing_scores(epoch))
    line = distill(config, resume=True)
    folder = tmp_path / "runs/tiny"
    assert [entry["epoch"] for entry in read_log(folder)] == [1, 2]
    assert line == read_log(folder)[-1] == distill(config, resume=True)
    last = read_checkpoint(folder / "last.pt")
    assert_same_weights(folder / "best.pt", folder / "last.pt")
    student = create("okdhp", **config.options)
    student.load_state_dict(last["model"])
    branch = read_checkpoint(folder / "student.pt")["branch"]
    assert branch == 2  # the third has the highest score
    weights = extract_branch(student, branch).state_dict()
    for key, value in read_checkpoint(folder / "student.pt")["model"].items():
        assert torch.equal(value, weights[key]), key


def growing_scores(epoch: int = 1) -> Callable[..., float]:
    """Scores of four networks an epoch, each epoch's higher than those of the one before."""
    figures = itertools.count(10 * epoch, 2.5)
    return lambda *_: float(next(figures))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fpd", "okdhp"])
def test_two_processes_distil_in_stages(
    write_config: Write, write_fpd: Write, tmp_path: Path, method: str
) -> None:
    """The second process must not look for a teacher before the first has gathered its stages."""
    if method == "fpd":
        path = write_fpd(stages=2, epochs=1, ema=0.9)
        for name in ("teacher", "half"):
            file = tmp_path / f"{name}.yaml"
            file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "stages": 2}))
    else:
        path = write_config(**BRANCHED, name="student", stages=2, epochs=1)
    torchrun("-m", "training", "distill", str(path))
    torchrun("-m", "training", "distill", str(path), "--resume")
    folder = tmp_path / "runs/student"
    lines = [(line["stage"], line["epoch"], line["pictures"]) for line in read_log(folder)]
    assert lines == [(0, 1, 16), (1, 1, 16)]
    assert read_checkpoint(folder / "stage1/last.pt")["run"]["processes"] == 2
    assert is_complete(load_config(path))
    assert (folder / "student.pt").is_file() == (method == "okdhp")
