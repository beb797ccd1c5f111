"""Run by torchrun: train the configuration given, then write the weights of each process."""

from __future__ import annotations

import sys
from pathlib import Path

import conftest  # noqa: F401  registers the small network
import torch

from training.config import load_config
from training.loop import Trainer

config = load_config(sys.argv[1])
trainer = Trainer(config, Path(config.output) / config.name)
trainer.run()
torch.save(trainer.network.state_dict(), Path(sys.argv[2]) / f"rank{trainer.fabric.global_rank}.pt")
