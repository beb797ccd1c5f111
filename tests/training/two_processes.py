"""Run by torchrun: train the configuration given, then write what each process leaves.

rank0.pt and rank1.pt are its weights, rank0.threads and rank1.threads the names of the threads that
still run when the interpreter ends.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

import conftest  # noqa: F401  registers the small network
import torch

from training.config import load_config
from training.loop import Trainer


def write_threads(file: Path) -> None:
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    file.write_text("".join(names))


def main(config_file: str, folder: str) -> None:
    config = load_config(config_file)
    trainer = Trainer(config, Path(config.output) / config.name)
    trainer.run()
    torch.save(trainer.network.state_dict(), Path(folder) / f"rank{trainer.fabric.global_rank}.pt")


atexit.register(write_threads, Path(sys.argv[2]) / f"rank{os.environ['RANK']}.threads")
main(*sys.argv[1:])
