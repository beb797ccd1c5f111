"""The training loop: one process or many under torchrun, resumable, mixed precision, best checkpoint."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from edgepose.errors import EdgePoseError, InvalidInputError, ModelFormatError
from training.checkpoints import load_weights, read_checkpoint
from training.config import TrainConfig, portable
from training.data.loading import make_loader
from training.distill.okdhp import student_config
from training.distill.teacher import plain_student
from training.evaluate import normalizer
from training.export import check_output, model_spec
from training.models import create
from training.models.layers import init_weights
from training.models.okdhp import Branched, extract_branch
from training.precision import avoid_slow_kernels
from training.tasks import make_task

__all__ = ["DivergedError", "Trainer", "begun", "is_complete", "read_log", "train"]

log = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": torch.optim.RMSprop,
}


class DivergedError(EdgePoseError):
    """The loss became infinite or NaN."""


def train(config: TrainConfig, *, resume: bool = False) -> dict[str, Any]:
    """Train as configured; everything is written under ``output/name``.

    ``last.pt`` goes on with ``resume=True`` exactly where it stood; ``best.pt`` holds the weights
    that did best on what is held out, ``student.pt`` the best branch of a branched network as a network of
    its own; ``log.jsonl`` has a line an epoch; TensorBoard reads the rest.

    With several stages (LPN's iterative training, section 3.3) each is such a run, in ``stage0`` and so on;
    the best of all of them, and all lines of their logs, stand in the folder above.

    Returns:
        the last line of the log.

    Raises:
        InvalidInputError: there is nothing to resume, or a run that would be overwritten; resuming
            another configuration; data or options that are not usable.
        DivergedError: the loss is no longer finite.
    """
    folder = config.folder
    if config.stages > 1:
        return _train_stages(config, folder, resume)
    last = folder / "last.pt"
    if resume and not last.is_file():
        raise InvalidInputError(f"cannot resume; found no {last}; start without --resume")
    if not resume and last.is_file():
        raise InvalidInputError(
            f"cannot start a run in {folder}; found one there; go on with --resume, give another name, "
            "or remove the folder"
        )
    trainer = Trainer(config, folder)
    if resume:
        trainer.restore(last)
    return trainer.run()


def _train_stages(config: TrainConfig, folder: Path, resume: bool) -> dict[str, Any]:
    """Each stage starts from the best weights of the one before, with its whole schedule and other draws."""
    if resume and not any(folder.glob("stage*/last.pt")):
        raise InvalidInputError(f"cannot resume; found no stage begun in {folder}; start without --resume")
    line: dict[str, Any] = {}
    for number in range(config.stages):
        stage = replace(
            config, name=f"{config.name}/stage{number}", stages=1, seed=config.seed + 1000 * number
        )
        if number > 0:
            stage.weights = str(folder / f"stage{number - 1}" / "best.pt")
            stage.fresh = []
        begun = (folder / f"stage{number}" / "last.pt").is_file()
        if begun and not resume:
            train(stage)  # which refuses to overwrite it
        log.info("stage %d of %d", number + 1, config.stages)
        line = train(stage, resume=begun)
    if int(os.environ.get("RANK", "0")) == 0:
        _gather_stages(folder, config.stages)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()  # a student that comes next reads what was gathered
    return line


def _gather_stages(folder: Path, stages: int) -> None:
    """Bring the best weights and all logs of the stages into their common folder."""
    folders = [folder / f"stage{number}" for number in range(stages)]
    best = max(folders, key=lambda stage: read_checkpoint(stage / "last.pt")["best"])
    for name in ("best.pt", "student.pt"):
        if (best / name).is_file():
            shutil.copy2(best / name, folder / f"{name}.part")
            (folder / f"{name}.part").replace(folder / name)
    _write_log(
        folder,
        [{"stage": number, **line} for number, stage in enumerate(folders) for line in read_log(stage)],
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; none where there is none, without a last one that was cut off."""
    file = folder / "log.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _write_log(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a run's log at once."""
    part = folder / "log.part"
    part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    part.replace(folder / "log.jsonl")


def is_complete(config: TrainConfig) -> bool:
    """Has this run, with all its stages, come to its end?"""
    folder = config.folder
    lines = read_log(folder)
    if not (folder / "best.pt").is_file() or not lines:
        return False
    return (lines[-1].get("stage", 0), lines[-1]["epoch"]) == (config.stages - 1, config.epochs)


def begun(config: TrainConfig) -> bool:
    """Has this run, or a stage of it, an epoch to go on from?"""
    return any(config.folder.glob("**/last.pt"))


def build_network(config: TrainConfig) -> nn.Module:
    """The configured network with its initial weights, the same in every process."""
    torch.manual_seed(config.seed)
    network = create(config.model, **config.options)
    init_weights(network, config.init)
    weights = config.weights or plain_student(config)
    if weights:
        left_out = load_weights(network, weights, skip_head=True, fresh=config.fresh)
        if left_out:
            log.info("%s: %d tensors are not taken, such as %s", weights, len(left_out), left_out[0])
    return network


def build_optimizer(
    config: TrainConfig, network: nn.Module, steps_per_epoch: int
) -> tuple[Optimizer, LRScheduler]:
    """Optimiser and its schedule, which steps once a batch; norms and biases do not decay."""
    options = config.optimizer
    groups = [
        {
            "params": [p for p in network.parameters() if (p.ndim > 1) == decays],
            "weight_decay": options.weight_decay * decays,
        }
        for decays in (True, False)
    ]
    optimizer = OPTIMIZERS[options.name](groups, lr=options.lr)
    if options.milestones:
        steps = [epoch * steps_per_epoch for epoch in options.milestones]
        return optimizer, MultiStepLR(optimizer, steps, gamma=options.factor)
    return optimizer, OneCycleLR(
        optimizer,
        options.lr,
        total_steps=config.epochs * steps_per_epoch + 1,
        pct_start=options.warmup,
        cycle_momentum=False,
        final_div_factor=1e3,
    )


def make_fabric(config: TrainConfig) -> Fabric:
    """One process, or those that torchrun started: it alone decides how many there are."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        strategy="ddp" if world > 1 else "auto",
        devices=local,
        num_nodes=max(world // local, 1),
        precision=config.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    # Crops are of one size, for which cuDNN may look for its fastest kernels.
    torch.backends.cudnn.benchmark = fabric.device.type == "cuda" and config.task == "topdown"
    if world > 1:
        atexit.unregister(_leave_group)  # a further stage's
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    """End the group's threads while the interpreter lives: one that asks for it later aborts the process.

    They end with the last reference to the group, so whoever holds a Trainer must have let it go.
    """
    torch.distributed.destroy_process_group()
    gc.collect()


class Trainer:
    """One training run: its data, network, optimiser and files.

    Attributes:
        network: the bare network, on the device.
        average: moving average of its weights in the first process, or None.
        epoch: epochs done.
        best: best figure so far on what is held out: PCK, or AP of bottom-up networks.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.fabric = make_fabric(config)
        self.spec = model_spec(config)
        self.epoch = 0
        self.best = -math.inf

        self.network = build_network(config).to(memory_format=torch.channels_last)
        check_output(self.network, self.spec)
        self._task = make_task(config, self.spec, self.network, self.fabric.device)
        self._loader = self._make_loader()
        if config.precision != "32-true":
            avoid_slow_kernels(self.network, self.fabric.device)
        self._inner_optimizer, self._schedule = build_optimizer(config, self.network, len(self._loader))
        self.average: AveragedModel | None = None
        if config.ema > 0 and self.fabric.is_global_zero:
            averaging = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(self.network, multi_avg_fn=averaging, use_buffers=True)
            self.average.to(self.fabric.device)
            # Looked at for every tensor: on a GPU each look would wait for all that is queued there.
            self.average.n_averaged = self.average.n_averaged.cpu()
        self._model, self._optimizer = self.fabric.setup(self.network, self._inner_optimizer)
        self._normalize = normalizer(self.spec, self.fabric.device)

    def _make_loader(self) -> DataLoader[dict[str, Any]]:
        config, fabric, examples = self.config, self.fabric, self._task.examples
        loader, self._sampler = make_loader(
            examples,
            config.batch_size,
            seed=config.seed,
            workers=config.data.workers,
            processes=fabric.world_size,
            rank=fabric.global_rank,
            pin_memory=fabric.device.type == "cuda",
        )
        if len(loader) == 0:
            raise InvalidInputError(
                f"no full batch; found {len(examples)} examples for {fabric.world_size} processes and a "
                f"batch size of {config.batch_size}; lower batch_size"
            )
        return loader

    def restore(self, path: Path) -> None:
        """Take up the state that `run` saved.

        Raises:
            InvalidInputError: the run was started with another configuration.
            ModelFormatError: the file is damaged, or not the state of a run.
        """
        state = read_checkpoint(path)
        if "run" not in state:
            raise ModelFormatError(f"cannot resume {path}; found no state of a run; give its last.pt")
        self._check_same_run(path, state["run"])
        self.network.load_state_dict(state["model"])
        self._inner_optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.epoch, self.best = state["epoch"], state["best"]

    def run(self) -> dict[str, Any]:
        """Train the epochs that are left; returns the last line of the log."""
        # A run that was killed may have logged an epoch whose state it did not save.
        history = [line for line in read_log(self.folder) if line["epoch"] <= self.epoch]
        line = history[-1] if history else {}
        writer = None
        if self.fabric.is_global_zero:
            writer = SummaryWriter(str(self.folder), purge_step=self.epoch + 1)
            _write_log(self.folder, history)
        while self.epoch < self.config.epochs:
            started = time.perf_counter()
            loss = self._train_epoch()
            self.epoch += 1
            line = {
                "epoch": self.epoch,
                "loss": loss,
                "lr": self._schedule.get_last_lr()[0],
                "seconds": round(time.perf_counter() - started, 3),
                "pictures": len(self._loader) * self.config.batch_size * self.fabric.world_size,
            }
            if writer is not None:
                self._finish_epoch(line, writer)
            self.fabric.barrier()
        if writer is not None:
            writer.close()
        return line

    def _train_epoch(self) -> float:
        """One pass over the examples; returns the mean loss over all processes."""
        config, device = self.config, self.fabric.device
        self._task.examples.epoch = self.epoch
        self._sampler.set_epoch(self.epoch)
        self._model.train()
        total = torch.zeros((), device=device)
        title = f"epoch {self.epoch + 1}/{config.epochs}"
        hidden = not self.fabric.is_global_zero or not os.isatty(2)
        for batch in tqdm(self._loader, desc=title, disable=hidden, leave=False):
            batch = self._task.complete(move_data_to_device(batch, device))
            images = self._normalize(batch["image"])
            outputs = self._model(images)
            with self.fabric.autocast():  # a teacher looks at the images too
                loss = self._task.loss(outputs, batch, images)
            self._optimizer.zero_grad()
            self.fabric.backward(loss)
            self._optimizer.step()
            self._schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
            total += loss.detach()
        mean = self.fabric.all_reduce(total / len(self._loader), reduce_op="mean")
        value = float(mean)  # type: ignore[arg-type]
        if not math.isfinite(value):
            raise DivergedError(
                f"training diverged in epoch {self.epoch + 1}; found a loss of {value}; lower optimizer.lr"
            )
        return value

    def _finish_epoch(self, line: dict[str, Any], writer: SummaryWriter) -> None:
        """Evaluate where due, then write checkpoints and the log; in the first process alone."""
        if self.epoch == self.config.epochs or self.epoch % self.config.evaluate_every == 0:
            network = self.network if self.average is None else self.average.module
            line |= self._task.evaluate(network, self.fabric.device)
            if line.get(self._task.figure, -math.inf) > self.best:
                self.best = line[self._task.figure]
                content = {"model": network.state_dict(), "config": portable(self.config)}
                _save(self.folder / "best.pt", content)
                if isinstance(network, Branched):
                    self._save_student(network, line)
        for key, value in line.items():
            if key != "epoch":
                writer.add_scalar(key, value, self.epoch)
        writer.flush()
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        state = {
            "model": self.network.state_dict(),
            "optimizer": self._inner_optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "run": self._identity(),
        }
        _save(self.folder / "last.pt", state)
        log.info("%s", line)

    def _save_student(self, network: Branched, line: dict[str, Any]) -> None:
        """Write the best of the branches that make the target."""
        figure = self._task.figure
        branch = max(network.target_branches(), key=lambda b: line[f"{figure}_branch{b + 1}"])
        content = {
            "model": extract_branch(network, branch).state_dict(),
            "config": portable(student_config(self.config, network, branch)),
            "branch": branch,
            "training": portable(self.config),
        }
        _save(self.folder / "student.pt", content)

    def _identity(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        values = portable(self.config)
        del values["evaluate_every"], values["weights"]
        return {**values, "processes": self.fabric.world_size}

    def _check_same_run(self, path: Path, started: dict[str, Any]) -> None:
        now = self._identity()
        changed = [key for key in started if started[key] != now.get(key)]
        if changed:
            found = ", ".join(f"{key} {now.get(key)!r} in place of {started[key]!r}" for key in changed)
            raise InvalidInputError(
                f"cannot resume {path} with another configuration; found {found}; resume with the same "
                "one, or start a new run from these weights (weights: FILE)"
            )


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)
