"""Time training, data loading included: ``PYTHONPATH=. python benchmarks/training_loop.py``.

The contestants train the same networks on the same made pictures of the size of LSP Extended's: this
project's `Trainer`; the same with ``data.device``, the pictures in the device's memory; and a plain PyTorch
loop as people write it, with crops, normalisation and target heatmaps made in the data set and the loss read
after each step, in PyTorch's default memory format and in that of this project. ``--distillation`` times a
step of FPD and of OKDHP against plain training of the same student. They take turns, so that a busy machine
slows all of them alike; figures are medians, and the ratio is the median of each round's. Peak memory is that
of a process of each contestant's own, without its workers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import machine
import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, Dataset

from edgepose.evaluation.people import People
from edgepose.machine import resident_memory
from training.config import TrainConfig, load_config
from training.data.lspet import load_lspet
from training.loop import Trainer, build_network
from training.models import create

NETWORKS: dict[str, dict[str, Any]] = {
    "lpn50": {"model": "lpn50"},
    "hourglass": {"model": "hourglass", "options": {"stacks": 2, "channels": 128, "depth": 3}},
}
PLAIN, LAST, OURS, DEVICE = "plain loop", "plain loop, channels_last", "edgepose", "edgepose, data.device"
PICTURE, JOINTS, HELD_OUT = (196, 190), 14, 16
"""Height and width of the pictures, the median of LSP Extended's; the people that are only held out."""
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

Epoch = Callable[[], float]


def main() -> None:
    """Print a table for each network, or one of distillation."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(options.root or folder)
        if options.root is None:
            make_people(root / "lspet", options.steps * options.batch + HELD_OUT)
        if options.one:
            print(json.dumps(peak_memory(options, root)))
            return
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(1)
        print(f"{describe(options)}\n")
        if options.distillation:
            compare_distillation(options, root)
            return
        for network in options.networks:
            compare(network, options, root)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--distillation", action="store_true", help="FPD and OKDHP instead")
    parser.add_argument("--channels", type=int, default=128, help="of hourglasses that are distilled")
    parser.add_argument("--input", type=int, default=96, help="side of the crops")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, on a CPU")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    return parser.parse_args()


def describe(options: argparse.Namespace) -> str:
    """Machine and sizes, as a paragraph."""
    place = f"PyTorch on {options.threads} threads"
    if torch.cuda.is_available():
        place = f"PyTorch on one {torch.cuda.get_device_name()}"
    return (
        f"{machine.describe()} {place}; crops of {options.input}x{options.input}, batches of "
        f"{options.batch}, {options.precision}, {options.workers} workers; {options.rounds} turns of "
        f"{options.steps} steps."
    )


def make_people(folder: Path, count: int) -> None:
    """Pictures of blurred noise with random joints, in the layout of LSP Extended."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    joints = np.ones((count, JOINTS, 3), np.float32)
    height, width = PICTURE
    joints[..., :2] = rng.uniform([20, 20], [width - 20, height - 20], (count, JOINTS, 2))
    np.savez(folder / "joints.npz", joints=joints)
    for i in range(count):
        image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
        cv2.imwrite(str(folder / f"images/im{i + 1:05d}.jpg"), image)


def configure(options: argparse.Namespace, root: Path, /, **fields: Any) -> TrainConfig:
    """A run of as many epochs as the contestant has turns, and two more to warm up."""
    data = {"root": str(root), "lsp": False, "validation": HELD_OUT, "workers": options.workers}
    values = {
        "name": "bench",
        "init": "kaiming",
        "input_size": [options.input, options.input],
        "batch_size": options.batch,
        "epochs": options.rounds + 2,
        "precision": options.precision,
        "output": str(root / "runs"),
        **fields,
        "data": data | fields.pop("data", {}),
    }
    path = root / "bench.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(path)


def project_epochs(config: TrainConfig) -> Epoch:
    """Function that trains an epoch with this project's loop; returns its loss."""
    trainer = Trainer(config, Path(config.output) / config.name)

    def epoch() -> float:
        loss = trainer._train_epoch()
        trainer.epoch += 1
        return loss

    return epoch


def plain_epochs(config: TrainConfig, layout: torch.memory_format = torch.contiguous_format) -> Epoch:
    """Function that trains an epoch with a loop as people write it; returns its mean loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    people = load_lspet(Path(config.data.root) / "lspet")[:-HELD_OUT]
    network = build_network(config).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optimizer.lr)
    half = config.precision == "bf16-mixed"
    loader = DataLoader(
        PlainPeople(people, config.input_size[0]),
        config.batch_size,
        shuffle=True,
        num_workers=config.data.workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=config.data.workers > 0,
    )

    def epoch() -> float:
        network.train()
        losses = []
        for images, targets, weights in loader:
            images, targets, weights = (
                values.to(device, non_blocking=True) for values in (images, targets, weights)
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                outputs = network(images.contiguous(memory_format=layout))
            loss = sum(plain_loss(maps.float(), targets, weights) for maps in as_list(outputs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return statistics.mean(losses)

    return epoch


class PlainPeople(Dataset[tuple[torch.Tensor, ...]]):
    """Augmented crops (3, s, s), normalised, with heatmaps (k, s/4, s/4) and weights (k, 1, 1)."""

    def __init__(self, people: People, side: int) -> None:
        self.people = people
        self.side = side

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        people, side = self.people, self.side
        image, joints, weights = people.images[index], people.joints[index].copy(), people.visible[index]
        left, top, right, bottom = people.boxes[index]
        center = np.array([(left + right) / 2, (top + bottom) / 2])
        if random.random() < 0.5:
            image = image[:, ::-1].copy()
            joints[:, 0] = image.shape[1] - 1 - joints[:, 0]
            center[0] = image.shape[1] - 1 - center[0]
            order = people.skeleton.flip_permutation
            joints, weights = joints[order], weights[order]
        factor = np.clip(random.gauss(1, 0.3), 0.7, 1.3)
        angle = np.clip(random.gauss(0, 40), -80, 80) if random.random() < 0.6 else 0
        extent = max(right - left, bottom - top) * factor
        matrix = cv2.getRotationMatrix2D(center.tolist(), angle, side / extent)
        matrix[:, 2] += side / 2 - center
        crop = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
        crop = (cv2.cvtColor(crop, cv2.COLOR_BGR2RGB).astype(np.float32) / 255 - MEAN) / STD
        joints = joints @ matrix[:, :2].T + matrix[:, 2]
        heatmaps = plain_heatmaps(joints / 4, weights, side // 4)
        return (
            torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))),
            torch.from_numpy(heatmaps),
            torch.from_numpy(weights[:, None, None].copy()),
        )


def plain_heatmaps(joints: np.ndarray, weights: np.ndarray, side: int, sigma: float = 2) -> np.ndarray:
    """A Gaussian for each joint, over the whole map."""
    x, y = np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32)[:, None]
    heatmaps = np.zeros((len(joints), side, side), np.float32)
    for i, (column, row) in enumerate(joints):
        if weights[i] > 0:
            heatmaps[i] = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
    return heatmaps


def plain_loss(maps: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return 0.5 * nn.functional.mse_loss(maps * weights, targets * weights)


def as_list(outputs: Any) -> Iterable[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else outputs


def contestants(network: str, options: argparse.Namespace, root: Path) -> dict[str, Callable[[], Epoch]]:
    """How to start each way to train a network."""
    fields = NETWORKS[network]
    return {
        PLAIN: lambda: plain_epochs(configure(options, root, **fields)),
        LAST: lambda: plain_epochs(configure(options, root, **fields), torch.channels_last),
        OURS: lambda: project_epochs(configure(options, root, **fields)),
        DEVICE: lambda: project_epochs(configure(options, root, **fields, data={"device": True})),
    }


def compare(network: str, options: argparse.Namespace, root: Path) -> None:
    """Print the table of a network."""
    ways = contestants(network, options, root)
    times = take_turns({name: start() for name, start in ways.items()}, options.rounds)
    memory = {name: measure_memory(f"{network}:{name}", options, root) for name in ways}
    pictures = options.steps * options.batch
    rows = []
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[PLAIN], found, strict=True))
        rate = statistics.median(pictures / seconds for seconds in found)
        rows.append([name, f"{rate:.1f}", f"{ratio:.2f}", f"{memory[name] / 1e6:.0f}"])
    heads = ["", "pictures/s", f"times the {PLAIN}", "peak memory, MB"]
    print(f"**{network}**\n\n{machine.table(heads, rows)}\n")


def compare_distillation(options: argparse.Namespace, root: Path) -> None:
    """Print what a step costs on the way from a plain student to a distilled one."""
    shape = {"channels": options.channels, "depth": 3}
    student = {"model": "hourglass", "options": {**shape, "stacks": 4}}
    teacher = {"model": "hourglass", "options": {**shape, "stacks": 8}}
    settings = configure(options, root, **teacher)
    (root / "teacher.yaml").write_text((root / "bench.yaml").read_text())
    weights = {"model": create(settings.model, **settings.options).state_dict()}
    torch.save(weights, root / "teacher.pt")
    fpd = {"method": "fpd", "teacher": str(root / "teacher.pt"), "teacher_config": "teacher.yaml"}
    branches = {"model": "okdhp", "options": {**shape, "stacks": 4}, "distill": {"method": "okdhp"}}
    ways: dict[str, dict[str, Any]] = {
        "student alone, 4 stacks": student,
        "teacher alone, 8 stacks": teacher,
        "FPD, teacher trained already": {**student, "distill": fpd},
        "OKDHP, 2 shared stacks and 3 branches of 2": branches,
    }
    started = {name: project_epochs(configure(options, root, **fields)) for name, fields in ways.items()}
    times = take_turns(started, options.rounds)
    base, taught, distilled, _ = times.values()
    times["FPD and its teacher's training"] = [a + b for a, b in zip(taught, distilled, strict=True)]
    rows = []
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        rows.append([name, f"{1e3 * statistics.median(found) / options.steps:.0f}", f"{ratio:.2f}"])
    print(machine.table(["", "ms a step", "times the student"], rows))


def take_turns(epochs: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant's turns, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for turn in range(rounds + 1):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()  # ends with the loss on the host, so that a GPU has done all of it
            if turn > 0:
                times[name].append(time.perf_counter() - start)
    return times


def measure_memory(one: str, options: argparse.Namespace, root: Path) -> int:
    """Peak memory in bytes of a contestant, in a process of its own."""
    command = [sys.executable, __file__, "--one", one, "--root", str(root), "--rounds", "1"]
    for name in ("input", "batch", "steps", "workers", "threads", "precision"):
        command += [f"--{name}", str(getattr(options, name))]
    return int(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def peak_memory(options: argparse.Namespace, root: Path) -> int:
    """Most bytes that this process held, or the GPU for it, in two epochs of a contestant."""
    torch.set_num_threads(options.threads)
    network, _, name = options.one.partition(":")
    epoch = contestants(network, options, root)[name]()
    for _ in range(2):
        epoch()
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_memory(peak=True)


if __name__ == "__main__":
    main()
