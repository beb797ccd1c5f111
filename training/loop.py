"""The training loop: one process or many under torchrun, resumable, mixed precision, best checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from edgepose.errors import InvalidInputError
from edgepose.spec import ModelSpec
from training.checkpoints import load_weights
from training.config import TrainConfig
from training.data.lsp import load_lsp, load_lspet
from training.data.people import Crops, People
from training.data.targets import gaussian_targets
from training.data.transforms import Augmentation
from training.evaluate import evaluate, normalizer
from training.export import model_spec
from training.losses import joints_mse
from training.models import create
from training.models.layers import init_weights
from training.precision import exempt_slow_bfloat16

__all__ = ["load_people", "train"]

log = logging.getLogger(__name__)


def load_people(config: TrainConfig) -> tuple[People, People]:
    """The people to train on and those to choose the best checkpoint by."""
    root, held_out = Path(config.data.root), config.data.validation
    parts = []
    if config.data.lsp:
        parts.append(load_lsp(root / "lsp"))
    if config.data.lspet:
        parts.append(load_lspet(root / "lspet", last=10000 - held_out))
    if not parts:
        raise InvalidInputError("nothing to train on; found lsp and lspet both off; switch one on")
    people = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    if config.data.limit is not None:
        n = config.data.limit
        people = People(
            people.skeleton, people.images[:n], people.joints[:n], people.visible[:n], people.boxes[:n]
        )
    return people, load_lspet(root / "lspet", first=10000 - held_out + 1)


def build_network(config: TrainConfig) -> nn.Module:
    """The configured network with its initial weights, the same in every process."""
    torch.manual_seed(config.seed)
    network = create(config.model, **config.options)
    init_weights(network, config.init)
    if config.weights:
        load_weights(network, config.weights, skip_head=True)
    return network


def build_optimizer(
    config: TrainConfig, network: nn.Module, steps_per_epoch: int
) -> tuple[Optimizer, LRScheduler]:
    """Optimiser and its schedule, which steps once a batch; norms and biases do not decay."""
    options = config.optimizer
    if options.name not in ("adam", "adamw"):
        raise InvalidInputError(f"unknown optimiser; found {options.name!r}; use 'adam' or 'adamw'")
    groups = [
        {
            "params": [p for p in network.parameters() if (p.ndim > 1) == decays],
            "weight_decay": options.weight_decay * decays,
        }
        for decays in (True, False)
    ]
    kind = torch.optim.Adam if options.name == "adam" else torch.optim.AdamW
    optimizer = kind(groups, lr=options.lr)
    if options.milestones:
        steps = [epoch * steps_per_epoch for epoch in options.milestones]
        return optimizer, MultiStepLR(optimizer, steps, gamma=0.1)
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
    return fabric


def train(config: TrainConfig, *, resume: bool = False) -> dict[str, Any]:
    """Train as configured; everything is written under ``output/name``.

    ``last.pt`` goes on with ``resume=True`` exactly where it stood; ``best.pt`` holds the weights
    that did best on the people held out; ``log.jsonl`` has a line an epoch.

    Returns:
        the last line of the log.
    """
    fabric = make_fabric(config)
    folder = Path(config.output) / config.name
    last = folder / "last.pt"
    if resume and not last.is_file():
        raise InvalidInputError(f"cannot resume; found no {last}; start without --resume")

    people, held_out = load_people(config)
    spec = model_spec(config, people.skeleton)
    size, heatmap_size = spec.input_size, (spec.input_size[0] // 4, spec.input_size[1] // 4)
    crops = Crops(
        people, size, heatmap_size, spec.coordinates,
        Augmentation(**dataclasses.asdict(config.augment)), config.seed,
    )  # fmt: skip
    sampler: DistributedSampler[Any] = DistributedSampler(
        crops, fabric.world_size, fabric.global_rank, seed=config.seed, drop_last=fabric.world_size > 1
    )
    loader = DataLoader(
        crops, config.batch_size, sampler=sampler, num_workers=config.data.workers, drop_last=True,
        pin_memory=fabric.device.type == "cuda",
    )  # fmt: skip
    if len(loader) == 0:
        raise InvalidInputError(
            f"no full batch; found {len(people)} people for {fabric.world_size} processes and a "
            f"batch size of {config.batch_size}; lower batch_size"
        )

    network = build_network(config).to(memory_format=torch.channels_last)
    if fabric.device.type == "cpu" and config.precision != "32-true":
        exempt_slow_bfloat16(network)
    optimizer, schedule = build_optimizer(config, network, len(loader))
    average = None
    if config.ema > 0:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    model, optimizer = fabric.setup(network, optimizer)
    if average is not None:
        average.to(fabric.device)

    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule, "epoch": 0, "best": -math.inf}
    if resume:
        state.update(fabric.load(last, _loadable(state)))
        if average is not None:
            average.load_state_dict(torch.load(folder / "average.pt", weights_only=True))
    normalize = normalizer(spec, fabric.device)
    writer = SummaryWriter(str(folder)) if fabric.is_global_zero else None
    line: dict[str, Any] = {}
    for epoch in range(state["epoch"], config.epochs):
        crops.epoch = epoch
        sampler.set_epoch(epoch)
        started = time.perf_counter()
        loss = _train_epoch(
            fabric, config, model, optimizer, schedule, average, loader, normalize, heatmap_size, epoch
        )
        line = {
            "epoch": epoch + 1, "loss": loss, "lr": schedule.get_last_lr()[0],
            "seconds": round(time.perf_counter() - started, 1),
        }  # fmt: skip
        state["epoch"] = epoch + 1
        final = epoch + 1 == config.epochs
        if fabric.is_global_zero and (final or (epoch + 1) % config.evaluate_every == 0):
            evaluated = average.module if average is not None else network
            line["pck"] = float(np.mean(evaluate(evaluated, spec, held_out, device=fabric.device)))
            if line["pck"] > state["best"]:
                state["best"] = line["pck"]
                _save(folder / "best.pt", {"model": evaluated.state_dict(), "config": dataclasses.asdict(config)})
        if average is not None and fabric.is_global_zero:
            _save(folder / "average.pt", average.state_dict())
        fabric.barrier()
        fabric.save(last.with_suffix(".part"), state)
        if fabric.is_global_zero and writer is not None:
            last.with_suffix(".part").replace(last)
            _report(writer, folder, line)
    if writer is not None:
        writer.close()
    return line


def _loadable(state: dict[str, Any]) -> dict[str, Any]:
    """The objects that Fabric restores in place; plain values come back as what remains."""
    return {key: value for key, value in state.items() if key not in ("epoch", "best")}


def _train_epoch(
    fabric: Fabric,
    config: TrainConfig,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    average: AveragedModel | None,
    loader: DataLoader[Any],
    normalize: Any,
    heatmap_size: tuple[int, int],
    epoch: int,
) -> float:
    model.train()
    total = torch.zeros((), device=fabric.device)
    hidden = not fabric.is_global_zero or not os.isatty(2)
    for batch in tqdm(loader, desc=f"epoch {epoch + 1}/{config.epochs}", disable=hidden, leave=False):
        images, joints, weights = (batch[key].to(fabric.device) for key in ("image", "joints", "weights"))
        targets, weights = gaussian_targets(
            joints, weights, heatmap_size, config.sigma, unbiased=config.unbiased
        )
        loss = joints_mse(model(normalize(images)), targets, weights)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(_bare(model))
        total += loss.detach()
    mean = fabric.all_reduce(total / len(loader), reduce_op="mean")
    value = float(mean) if isinstance(mean, Tensor) else math.nan
    if not math.isfinite(value):
        raise RuntimeError(f"training diverged; found a loss of {value} in epoch {epoch + 1}; lower the rate")
    return value


def _bare(model: nn.Module) -> nn.Module:
    """The network itself, out of Fabric's and DistributedDataParallel's wrappers."""
    inner = getattr(model, "module", model)
    return inner.module if isinstance(inner, nn.parallel.DistributedDataParallel) else inner


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def _report(writer: SummaryWriter, folder: Path, line: dict[str, Any]) -> None:
    for key, value in line.items():
        if key != "epoch":
            writer.add_scalar(key, value, line["epoch"])
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    log.info("%s", line)
